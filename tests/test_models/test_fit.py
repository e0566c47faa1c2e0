import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint

from mmpse.models import (
    SliceError,
    SlimmableMobileNetV2,
    costs_of,
    measure,
    model_costs,
    with_subnet,
)
from mmpse.registry import MODELS

BACKBONE = dict(type='mmpse.SlimmableMobileNetV2', widen_factor=0.35)
CLASSIFIER = dict(
    type='ImageClassifier',
    backbone=BACKBONE,
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=1),
)


@pytest.fixture
def space():
    return SlimmableMobileNetV2(widen_factor=0.35).search_space


def test_classifier_is_fitted_and_loads_the_supernet(scope, space, tmp_path):
    supernet = MODELS.build(with_subnet(CLASSIFIER, None)).double()
    subnet = space.uniform(0.5)
    static = MODELS.build(with_subnet(CLASSIFIER, subnet)).double()
    assert static.head.fc.in_features == subnet['conv2']
    static.load_state_dict(supernet.state_dict())
    x = torch.randn(4, 3, 64, 64, dtype=torch.double)
    supernet.eval()
    static.eval()
    with torch.no_grad(), supernet.backbone.active([subnet]):
        assert torch.allclose(static(x), supernet(x), rtol=1e-10)

    path = tmp_path / 'supernet.pth'  # the same through a config's load_from
    torch.save(dict(state_dict=supernet.state_dict()), path)
    again = MODELS.build(with_subnet(CLASSIFIER, subnet)).double()
    load_checkpoint(again, str(path))
    assert torch.equal(again.head.fc.weight, static.head.fc.weight)


def test_full_width_weights_load_where_sync_batchnorm_is_exchanged(space):
    """MMEngine does that where training is not distributed."""
    supernet = SlimmableMobileNetV2(widen_factor=0.35)
    for parameter in supernet.parameters():
        torch.nn.init.normal_(parameter)
    norm_cfg = dict(type='SyncBN')
    static = SlimmableMobileNetV2(
        widen_factor=0.35, subnet=space.uniform(0.5).to_dict(), norm_cfg=norm_cfg
    )
    static = revert_sync_batchnorm(static)
    static.load_state_dict(supernet.state_dict())
    expected = supernet.state_dict()
    for name, value in static.state_dict().items():
        assert torch.equal(value, expected[name][tuple(map(slice, value.shape))]), name


def test_checkpoint_with_another_head_width(scope, space):
    static = MODELS.build(with_subnet(CLASSIFIER, space.uniform(0.5)))
    state = MODELS.build(with_subnet(CLASSIFIER, None)).state_dict()
    state['head.fc.weight'] = torch.zeros(10, 999)
    with pytest.raises(SliceError, match=r'head.fc.weight: the checkpoint has shape \(10, 999\)'):
        static.load_state_dict(state)


def test_costs_of_a_whole_classifier(scope, space):
    costs = model_costs(CLASSIFIER, (3, 64, 64))
    for ratio in (0.3, 0.6, 0.9):
        subnet = space.uniform(ratio)
        assert costs_of(space, costs, subnet) == measure(CLASSIFIER, subnet, (3, 64, 64))


@pytest.mark.parametrize('shape', [(64, 64, 3), (64, 64), (1, 3, 64, 64)])
def test_shape_that_is_none_of_an_image(scope, shape):
    with pytest.raises(ValueError, match=r'must be \(C, H, W\) of one image with C=3 channels'):
        model_costs(CLASSIFIER, shape)


def test_images_that_a_model_cannot_count_on(scope, space):
    message = r'cannot count the FLOPs of ImageClassifier, .*\(1, 64, 64\).*to have 3 channels'
    with pytest.raises(ValueError, match=message):
        measure(CLASSIFIER, space.uniform(0.5), (1, 64, 64))


def test_costs_of_a_whole_detector(space):
    model = dict(
        type='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor'),
        backbone=dict(BACKBONE, out_indices=(2, 4, 7)),
        neck=dict(type='FPN', in_channels=[1, 1, 1], out_channels=16, num_outs=3),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=3,
            in_channels=16,
            feat_channels=16,
            anchor_generator=dict(
                type='AnchorGenerator',
                octave_base_scale=4,
                scales_per_octave=3,
                ratios=[1.0],
                strides=[8, 16, 32],
            ),
        ),
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        costs = model_costs(model, (3, 64, 64))
        subnet = space.uniform(0.5)
        assert costs_of(space, costs, subnet) == measure(model, subnet, (3, 64, 64))
