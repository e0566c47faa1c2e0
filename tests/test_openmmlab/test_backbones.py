"""Backbones of our own, and the names that configs of slimmable backbones have."""

import pytest
import torch
from mmengine.config import Config
from mmpretrain.models import MobileNetV2
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.models.backbones import InPlaceReLU6, ResNetCIFAR
from mmpse.openmmlab.supernet.building import find_supernet
from mmpse.registry import MODELS
from mmpse.testing import SlimTester

OLD = {
    'SlimmableMobileNetV2': dict(widen_factor=0.35),
    'SlimmableResNet': dict(depth=18),
    'SlimmableResNet_CIFAR': dict(depth=18),
    'SlimmableResNetCIFAR': dict(depth=20),
    'SlimmableVGG': dict(depth=11),
}


def classifier_cfg(backbone, width):
    head = dict(type='LinearClsHead', num_classes=10, in_channels=width)
    neck = dict(type='GlobalAveragePooling')
    model = dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)
    return Config(dict(default_scope='mmpretrain', model=model))


class TestResNetCIFAR(SlimTester):
    image = (3, 16, 16)

    def build(self):
        return build_model(classifier_cfg(dict(type='mmpse.ResNetCIFAR', depth=20), 64))


@pytest.mark.parametrize(('depth', 'params'), [(20, 272_474), (56, 855_770)])
def test_parameters_of_the_paper(depth, params):
    """0.27 M and 0.85 M (arXiv 1512.03385, Table 6), with shortcuts of option B."""
    found = sum(p.numel() for p in ResNetCIFAR(depth).parameters()) + 650  # the classifier
    assert found == pytest.approx(params, rel=0.011)


@pytest.mark.parametrize('name', OLD)
def test_old_names_build_the_stock_backbone(name, scope):
    ours = MODELS.build(dict(type=f'mmpse.{name}', ratios=[0.5, 1.0], **OLD[name]))
    stock = name.removeprefix('Slimmable')
    stock = f'mmpse.{stock}' if stock == 'ResNetCIFAR' else stock
    theirs = MODELS.build(dict(type=stock, **OLD[name]))
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_widths_of_the_backbone_are_taken_where_none_are_given():
    cfg = classifier_cfg(dict(type='mmpse.SlimmableResNetCIFAR', depth=20, ratios=[0.5, 1.0]), 64)
    for grid, expected in (({}, {8, 16}), (dict(ratios=[0.75]), {12, 16})):
        space = find_supernet(build_model(cfg), cfg, grid, (3, 32, 32))[0].space
        assert set(space.units[0].candidates) == expected
    cfg.model.backbone.ratios = [0.3, 1.0]
    space = find_supernet(build_model(cfg), cfg, {}, (3, 32, 32))[0].space
    assert space.units[0].candidates == (4, 16)  # in multiples of 2


@pytest.mark.parametrize('compiled', [False, True])
def test_in_place_relu6_is_the_stock_layer(compiled):
    ours = InPlaceReLU6(inplace=True)
    if compiled:
        ours = torch.compile(ours, backend='eager', fullgraph=True)
    results = []
    for layer in (nn.ReLU6(), ours):
        x = torch.linspace(-3, 9, 49, requires_grad=True)  # both limits are among them
        before = x * 1
        y = layer(before)
        (y * torch.arange(49)).sum().backward()
        results.append((y, x.grad))
        in_place = y.data_ptr() == before.data_ptr()
    assert in_place
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_relu6_out_of_place_leaves_its_input():
    x = torch.linspace(-3, 9, 49, requires_grad=True) * 1
    y = InPlaceReLU6()(x)
    assert x.min() == -3 and y.min() == 0


def test_it_keeps_two_activations_of_a_layer_where_the_stock_network_keeps_three(scope):
    held = []
    for act_cfg in (dict(type='ReLU6'), dict(type='mmpse.InPlaceReLU6')):
        backbone, kept = MobileNetV2(act_cfg=act_cfg), {}

        def keep(tensor, kept=kept):
            kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        weights = {tensor.data_ptr() for tensor in backbone.state_dict().values()}
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            backbone(torch.randn(2, 3, 64, 64))
        held.append(sum(size for pointer, size in kept.items() if pointer not in weights))
    assert 0.62 < held[1] / held[0] < 0.72
