"""Sorting channels changes their order and nothing else."""

import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import nn

from mmpse.models import (
    SlimmableMobileNetV2,
    SlimmableResNet,
    WarmStart,
    sort_channels,
)
from mmpse.registry import MODELS

pytestmark = pytest.mark.usefixtures('device')

SMALL = dict(stem_channels=16, base_channels=16)
BACKBONES = {
    'MobileNetV2': dict(type='mmpse.SlimmableMobileNetV2', widen_factor=0.5),
    'ResNet-18': dict(type='mmpse.SlimmableResNet', depth=18, **SMALL),
    'ResNet-50': dict(type='mmpse.SlimmableResNet', depth=50, **SMALL),
    'ResNetV1d-50': dict(
        type='mmpse.SlimmableResNet', depth=50, deep_stem=True, avg_down=True, **SMALL
    ),
    'VGG11-BN': dict(type='mmpse.SlimmableVGG', depth=11, norm_cfg=dict(type='BN')),
    'VGG11': dict(type='mmpse.SlimmableVGG', depth=11, norm_cfg=None),
}
MEASURES = [
    (name, by) for name in BACKBONES for by in ('bn', 'l1', 'l2') if (name, by) != ('VGG11', 'bn')
]


def build(name, **kwargs):
    backbone = MODELS.build(dict(BACKBONES[name], **kwargs))
    return randomised(backbone)


def randomised(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    model.eval()
    return model


def classifier(name):
    backbone = build(name)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=BACKBONES[name],
                neck=dict(type='GlobalAveragePooling'),
                head=dict(
                    type='LinearClsHead', num_classes=10, in_channels=backbone.out_channels[-1]
                ),
            )
        )
    return randomised(model)


def assert_same(actual, expected):
    assert expected.abs().max() > 1e-3
    assert ((actual - expected).abs().max() / expected.abs().max()).item() < 1e-4


@pytest.mark.parametrize(('name', 'by'), MEASURES)
@torch.no_grad()
def test_full_network_computes_the_same(name, by):
    x = torch.randn(2, 3, 64, 64)
    backbone = build(name, out_indices=(2, 4 if 'VGG' in name else 3))
    before, weights = backbone(x), copy.deepcopy(backbone.state_dict())
    orders = sort_channels(backbone, by)
    assert orders.keys() == set(backbone.search_space.names) - set(backbone.feature_units())
    assert any(not torch.equal(weights[k], v) for k, v in backbone.state_dict().items())
    for a, b in zip(backbone(x), before, strict=True):
        assert_same(a, b)

    model = classifier(name)
    logits = model(x)
    assert sort_channels(model, by).keys() == set(model.backbone.search_space.names)
    assert_same(model(x), logits)


@pytest.mark.parametrize('name', BACKBONES)
@torch.no_grad()
def test_with_a_fresh_head_features_come_out_permuted(name):
    backbone = build(name)
    x = torch.randn(2, 3, 64, 64)
    (before,) = backbone(x)
    order = sort_channels(backbone, 'l1', fresh_head=True)[backbone.feature_units()[-1]]
    assert not torch.equal(order, torch.arange(len(order)))
    assert_same(backbone(x)[0], before[:, order])


@torch.no_grad()
def test_vgg_with_its_own_classifier():
    backbone = build('VGG11-BN', num_classes=10)
    x = torch.randn(1, 3, 224, 224)
    (before,) = backbone(x)
    assert sort_channels(backbone).keys() == set(backbone.search_space.names)
    assert_same(backbone(x)[0], before)

    backbone = build('VGG11-BN', num_classes=10, out_indices=(4, 5))
    before = backbone(x)
    assert 'conv8' not in sort_channels(backbone)  # it leaves the backbone as well
    for a, b in zip(backbone(x), before, strict=True):
        assert_same(a, b)


@torch.no_grad()
def test_importance_adds_up_over_the_layers_of_a_unit():
    def scales(backbone):
        # of one unit each: a residual sum, hidden channels, a chain
        return [
            sum(m.weight.abs() for name, m in backbone.named_modules() if name in norms)
            for norms in (
                ('layer2.0.conv.2.bn', 'layer2.1.conv.2.bn'),
                ('layer3.1.conv.0.bn', 'layer3.1.conv.1.bn'),
                ('conv1.bn', 'layer1.0.conv.0.bn'),
            )
        ]

    backbone = build('MobileNetV2')
    before = scales(backbone)
    sort_channels(backbone, 'bn')
    for sorted_, unsorted in zip(scales(backbone), before, strict=True):
        assert torch.equal(sorted_, unsorted.sort(descending=True).values)


@torch.no_grad()
def test_filters_are_sorted_by_their_norm():
    for by, power in (('l1', 1), ('l2', 2)):
        backbone = build('VGG11')
        sort_channels(backbone, by)
        for k in (0, 2, 4, 5):
            norms = backbone.features[k].conv.weight.flatten(1).norm(power, dim=1)
            assert torch.all(norms[1:] <= norms[:-1] * (1 + 1e-6))


@torch.no_grad()
def test_subnets_keep_the_largest_scales():
    backbone = build('ResNet-50')
    sort_channels(backbone)
    subnet = backbone.search_space.uniform(0.5)
    static = SlimmableResNet(depth=50, subnet=subnet, **SMALL)
    static.load_state_dict(backbone.state_dict())
    kept, full = static.layer3[1].bn1.weight.abs(), backbone.layer3[1].bn1.weight.abs()
    assert torch.equal(kept, full.topk(len(kept)).values)


def test_what_cannot_be_sorted():
    with pytest.raises(ValueError, match="by one of .*'bn'.* got 'magnitude'"):
        sort_channels(build('ResNet-18'), 'magnitude')
    with pytest.raises(ValueError, match="features.0.conv has no normalisation.* use by='l1'"):
        sort_channels(build('VGG11'), 'bn')
    backbone = build('MobileNetV2')
    static = SlimmableMobileNetV2(widen_factor=0.5, subnet=backbone.search_space.tinynet)
    with pytest.raises(ValueError, match='a static subnet has no channels to choose from'):
        sort_channels(static)


@pytest.mark.parametrize('name', ['MobileNetV2', 'ResNet-18', 'VGG11-BN'])
@torch.no_grad()
def test_warm_start_sorts(name, tmp_path):
    source, x = classifier(name), torch.randn(2, 3, 64, 64)
    path = str(tmp_path / 'public.pth')
    torch.save(source.state_dict(), path)
    model = classifier(name)
    WarmStart(path, sort='l2')(model)
    assert_same(model(x), source(x))
    sort_channels(source, 'l2')
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    backbone = MODELS.build(
        dict(BACKBONES[name], init_cfg=dict(type='mmpse.WarmStart', checkpoint=path, sort='l2'))
    )
    backbone.init_weights()  # the head is fresh: features are sorted as well
    for key, value in source.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value), key
