"""Models made for images of one size: it comes from the config, or is given."""

import copy
import re

import pytest
import torch
from mmengine.config import Config
from mmpretrain.models import LinearClsHead
from torch import nn

from mmpse.errors import UserError
from mmpse.openmmlab.errors import ConfigError
from mmpse.openmmlab.models.outputs import raw_outputs
from mmpse.openmmlab.pruning.subject import examine
from mmpse.registry import MODELS
from mmpse.slim import check_cut, cut_

SIDE = 96  # none of those that are tried first


@MODELS.register_module()
class FlatteningHead(LinearClsHead):
    """As in AlexNet, VGG and LeNet: a linear layer reads all pixels."""

    def __init__(self, in_channels, side, **kwargs):
        super().__init__(in_channels=in_channels * side * side, **kwargs)

    def pre_logits(self, feats):
        return feats[-1].flatten(1)


@MODELS.register_module()
class MixingHead(LinearClsHead):
    """As in MLP-Mixer: a linear layer reads all pixels of each channel."""

    def __init__(self, in_channels, side, **kwargs):
        super().__init__(in_channels=in_channels, **kwargs)
        self.tokens = nn.Linear(side * side, side * side)

    def pre_logits(self, feats):
        return self.tokens(feats[-1].flatten(2)).relu().mean(2)


def config(head, pipeline=None):
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8),
        head=dict(type=head, in_channels=64, side=SIDE // 32, num_classes=4),
    )
    cfg = dict(model=model, default_scope='mmpretrain')
    if pipeline is not None:
        cfg['test_dataloader'] = dict(dataset=dict(type='CustomDataset', pipeline=pipeline))
    return Config(cfg)


CROP = [dict(type='Resize', scale=128), dict(type='CenterCrop', crop_size=SIDE)]


@pytest.mark.parametrize('pipeline, shape', [(CROP, None), (None, (3, SIDE, SIDE))])
@pytest.mark.parametrize(
    ('head', 'weights', 'cut'),
    [('mmpse.FlatteningHead', 64 * 9 * 4, True), ('mmpse.MixingHead', 64 * 81 + 64 * 4, False)],
)
def test_size_of_the_config_or_given(head, weights, cut, pipeline, shape):
    subject = examine(config(head, pipeline), None, shape)
    assert subject.input_shape == (3, SIDE, SIDE) == tuple(subject.images.shape[1:])
    assert ('backbone.layer4.0.conv2' in subject.layout.units) == cut  # what the head reads
    subnet = subject.space.uniform(0.5)
    check_cut(subject.model, subject.layout, subnet, subject.images, raw_outputs)
    static = cut_(copy.deepcopy(subject.model), subject.layout, subnet)
    assert raw_outputs(static, torch.zeros(2, *subject.input_shape)).shape == (2, 4)
    backbone = copy.deepcopy(subject.model.backbone)
    full = subject.cost_of(subject.space.fullnet)['flops']
    assert full - flops(backbone) == weights


def flops(backbone):
    from mmengine.analysis import FlopAnalyzer

    return int(FlopAnalyzer(backbone, torch.zeros(1, 3, SIDE, SIDE)).total())


def test_another_size_is_refused_with_the_layer_that_minds():
    cfg = config('mmpse.FlatteningHead', CROP)
    said = 'head.fc reads 576 channels, and gets 256 from images of (64, 64) pixels'
    with pytest.raises(UserError, match=re.escape(said)):
        examine(cfg, None, (3, 64, 64))
    with pytest.raises(ConfigError, match='give the input shape 3 HEIGHT WIDTH'):
        examine(config('mmpse.FlatteningHead'), None)
