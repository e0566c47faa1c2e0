import pytest
import torch
from backbone_tester import BackboneTester
from mmpretrain.models import VGG
from torch import nn

from mmpse.models import SlimmableVGG, costs_of, measure, model_costs
from mmpse.models.meta import WeightsOnMeta

pytestmark = pytest.mark.usefixtures('device')

BN = dict(type='BN')


class TestVGG(BackboneTester):
    backbone, stock = SlimmableVGG, VGG
    sizes = {
        '11-BN': dict(depth=11, norm_cfg=BN, out_indices=(2, 4)),
        '13-BN': dict(depth=13, norm_cfg=BN),
        '16-BN': dict(depth=16, norm_cfg=BN),
        '19-BN': dict(depth=19, norm_cfg=BN),
        '13': dict(depth=13, with_last_pool=False),
    }
    slow = ('13-BN', '16-BN', '19-BN')
    frozen = dict(frozen_stages=2, grids={'conv[12]': dict(ratios=[1.0])})
    checkpointing = False
    image = 32


class SmallClassifierVGG(VGG):
    """VGG with a classifier for 2x2 pixels and 8 hidden channels; 7x7 and 4096 take minutes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for k, sides in {0: (512 * 4, 8), 3: (8, 8), 6: (8, self.num_classes)}.items():
            self.classifier[k] = nn.Linear(*sides)


class SlimmableSmallClassifierVGG(SlimmableVGG, SmallClassifierVGG):
    pass


class TestClassifier(BackboneTester):
    backbone, stock = SlimmableSmallClassifierVGG, SmallClassifierVGG
    sizes = {
        '11-BN': dict(depth=11, norm_cfg=BN, num_classes=5),
        '11': dict(depth=11, num_classes=5, out_indices=(3, 5)),
    }
    frozen = dict(frozen_stages=2, grids={'conv8': dict(ratios=[1.0])})
    checkpointing = False
    layouts = (torch.contiguous_format,)  # VGG flattens with view()
    subnets = 10


@pytest.mark.slow
def test_classifier_of_stock_size(scope):
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='mmpse.SlimmableVGG', depth=11, norm_cfg=BN, num_classes=1000),
        head=dict(type='ClsHead'),
    )
    space = SlimmableVGG(depth=11, norm_cfg=BN).search_space
    costs = model_costs(model, (3, 224, 224))
    for ratio in (0.3, 0.6):
        subnet = space.uniform(ratio)
        counted = measure(model, subnet, (3, 224, 224))
        assert counted == costs_of(space, costs, subnet)


def test_a_subnet_searched_with_the_classifier_is_a_detectors_backbone():
    with WeightsOnMeta():
        classifier = SlimmableVGG(depth=11, num_classes=1000)
    assert classifier.out_channels == (1000,)
    subnet = classifier.search_space.uniform(0.5)
    assert SlimmableVGG(depth=11, subnet=subnet, out_indices=(3, 4)).out_channels == (256, 256)


def test_images_that_do_not_fit_the_classifier():
    supernet = SlimmableSmallClassifierVGG(depth=11, num_classes=5)
    for execution in ('sliced', 'masked'):
        with (
            supernet.active([supernet.search_space.tinynet], execution),
            pytest.raises(RuntimeError, match='shapes cannot be multiplied'),
        ):
            supernet(torch.randn(1, 3, 32, 32))
