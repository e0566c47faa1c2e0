"""The backbones of mmdet and mmseg as slimmable ones."""

import pytest
import torch

from mmpse.models import (
    SlimmableMobileNetV2,
    SlimmableResNet,
    SlimmableVGG,
    UnsupportedBackboneError,
    backbone_costs,
    costs_of,
    count,
)
from mmpse.registry import MODELS
from mmpse.space import Subnet

pytestmark = pytest.mark.usefixtures('device')

BACKBONES = {
    'mmdet.ResNet': dict(depth=18, style='caffe'),
    'mmdet.ResNetV1d': dict(depth=18),
    'mmseg.ResNetV1c': dict(
        depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True
    ),
    'mmseg.MobileNetV2': dict(strides=(1, 2, 2, 1, 1, 1, 1), dilations=(1, 1, 1, 2, 2, 4, 4)),
    'mmdet.MobileNetV2': dict(out_indices=(2, 4, 7)),
    'mmdet.SSDVGG': dict(depth=11, out_feature_indices=(13, 24)),
    'mmpretrain.ResNet': dict(depth=18, out_indices=(0, 3)),
}


def evaluated(backbone):
    backbone.eval()  # some of theirs return nothing here
    return backbone


def of_mmpretrain(kind, **kwargs):
    if kind.endswith('VGG'):
        return SlimmableVGG(depth=11, norm_cfg=None, **kwargs)
    if kind.endswith('V2'):
        return SlimmableMobileNetV2(**kwargs)
    return SlimmableResNet(depth=18, deep_stem='V1' in kind, avg_down='V1d' in kind, **kwargs)


@pytest.mark.parametrize('kind', BACKBONES)
def test_backbone_is_the_original(kind):
    stock = evaluated(MODELS.build(dict(BACKBONES[kind], type=kind)))
    for norm in stock.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    space = of_mmpretrain(kind).search_space
    config = dict(BACKBONES[kind], type='mmpse.Slimmable', architecture=kind)
    full = evaluated(MODELS.build(dict(config, subnet=space.fullnet.to_dict())))
    full.load_state_dict(stock.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for feature, expected in zip(full(x), stock(x), strict=True):
            torch.testing.assert_close(feature, expected, rtol=1e-5, atol=1e-5)

    small = evaluated(MODELS.build(dict(config, subnet=space.uniform(0.5).to_dict())))
    small.load_state_dict(stock.state_dict())  # sliced
    features = small(x)
    assert [f.shape[1] for f in features] == list(small.out_channels)
    again = evaluated(MODELS.build(dict(config, subnet=space.uniform(0.5).to_dict())))
    again.load_state_dict(small.state_dict())
    torch.testing.assert_close(again(x), features)


@pytest.mark.parametrize('kind', ['mmdet.ResNetV1d', 'mmdet.MobileNetV2', 'mmdet.SSDVGG'])
def test_backbone_loads_what_mmpretrain_retrained(kind):
    """The names of their modules differ."""
    subnet = of_mmpretrain(kind).search_space.uniform(0.5).to_dict()
    retrained = evaluated(of_mmpretrain(kind, subnet=subnet, out_indices=(0, 3)))
    config = dict(BACKBONES[kind], type='mmpse.Slimmable', architecture=kind, subnet=subnet)
    if kind.endswith('VGG'):
        config['out_feature_indices'] = (1, 17)
    else:
        config['out_indices'] = (0, 3)
    backbone = evaluated(MODELS.build(config))
    backbone.load_state_dict(retrained.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    if kind.endswith('VGG'):  # theirs pools behind a stage
        theirs, ours = retrained.features[0](x), backbone.features[:2](x)
        torch.testing.assert_close(ours, theirs)
    else:
        torch.testing.assert_close(backbone(x), retrained(x))


@pytest.mark.parametrize(
    ('plugin', 'position', 'layer'),
    [
        (dict(type='ContextBlock', ratio=0.25), 3, 'channel_add_conv.3'),
        (
            dict(
                type='GeneralizedAttention',
                attention_type='1111',
                num_heads=4,
                position_embedding_dim=256,
            ),
            2,
            'proj_conv',
        ),
    ],
    ids=['GCNet', 'empirical attention'],
)
def test_plugins_between_the_convolutions(plugin, position, layer):
    """A static subnet computes what the full network does with the missing channels at zero."""
    plugins = [
        dict(cfg=plugin, stages=(False, False, True, True), position=f'after_conv{position}')
    ]
    config = dict(type='mmpse.Slimmable', architecture='mmdet.ResNet', depth=50, plugins=plugins)
    space = SlimmableResNet(depth=50).search_space
    full, small = (
        MODELS.build(dict(config, subnet=subnet.to_dict()))
        for subnet in (space.fullnet, space.uniform(0.5))
    )
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            if layer in name or name.endswith('gamma'):  # they start at zero
                parameter.normal_(0, 0.1)
        small.load_state_dict(full.state_dict())
        for unit in full.layers_of_units:
            width = small.subnet[unit.outputs]
            norm = full.get_submodule(unit.norm)
            norm.weight[width:] = norm.bias[width:] = 0
        for name, module in full.named_modules():
            if name.endswith(layer):
                width = small.get_submodule(name).out_channels
                assert width < module.out_channels
                module.weight[width:] = 0
                if module.bias is not None:
                    module.bias[width:] = 0
        evaluated(full), evaluated(small)
        x = torch.randn(1, 3, 64, 64)
        for feature, whole in zip(small(x), full(x), strict=True):
            width = feature.shape[1]
            scale = whole.abs().max()
            torch.testing.assert_close(feature / scale, whole[:, :width] / scale)
            assert not whole[:, width:].any()


def test_no_supernet_with_plugins():
    plugins = [dict(cfg=dict(type='ContextBlock', ratio=0.25), position='after_conv3')]
    with pytest.raises(UnsupportedBackboneError, match='plugins cannot be a supernet'):
        MODELS.build(
            dict(type='mmpse.Slimmable', architecture='mmdet.ResNet', depth=50, plugins=plugins)
        )


def test_the_beginning_of_a_backbone_takes_the_subnet_of_the_whole():
    subnet = SlimmableResNet(depth=18).search_space.uniform(0.5)
    config = dict(type='mmpse.Slimmable', architecture='mmdet.ResNet', depth=18, num_stages=3)
    backbone = MODELS.build(
        dict(config, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,), subnet=subnet)
    )
    assert backbone.out_channels == (subnet['layer3'],)
    assert 'layer4' not in backbone.subnet and backbone.subnet['layer2'] == subnet['layer2']


def test_backbone_without_the_last_layers_takes_subnets_of_its_own(tmp_path):
    """mmseg's MobileNetV2 ends earlier: as a supernet it has a unit less than mmpretrain's."""
    config = dict(type='mmpse.Slimmable', architecture='mmseg.MobileNetV2')
    supernet = MODELS.build(config)
    assert 'conv2' not in supernet.search_space.names
    subnet = supernet.search_space.uniform(0.5)
    static = MODELS.build(dict(config, subnet=Subnet.from_dict(subnet.to_dict())))
    assert static.subnet == subnet
    counted = count(static, (3, 64, 64))
    costs = backbone_costs(supernet, (3, 64, 64))
    assert costs_of(supernet.search_space, costs, subnet) == counted
