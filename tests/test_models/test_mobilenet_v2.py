import pytest
import torch
from backbone_tester import BackboneTester
from mmpretrain.models import MobileNetV2
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from mmpse.models import InPlaceReLU6, SlimmableMobileNetV2

pytestmark = pytest.mark.usefixtures('device')


class TestMobileNetV2(BackboneTester):
    backbone, stock = SlimmableMobileNetV2, MobileNetV2
    sizes = {
        '0.35x': dict(widen_factor=0.35, out_indices=(1, 2, 4, 7)),
        '1x': dict(),
        '1.5x': dict(widen_factor=1.5, out_indices=(0, 6)),
        # neighbouring stages have equal widths: residual sums join them
        '0.1x': dict(widen_factor=0.1),
    }
    frozen = dict(frozen_stages=3, grids={'layer5*': dict(ratios=[1.0])})


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


def test_supernet_keeps_two_activations_of_a_layer_where_the_stock_network_keeps_three():
    held = []
    for backbone in (MobileNetV2(), SlimmableMobileNetV2()):
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        weights = {tensor.data_ptr() for tensor in backbone.state_dict().values()}
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            backbone(torch.randn(2, 3, 64, 64))
        held.append(sum(size for pointer, size in kept.items() if pointer not in weights))
    assert 0.62 < held[1] / held[0] < 0.72
