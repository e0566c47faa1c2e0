"""The channels_last layout: the same network, in DDP and with the operators of mmcv."""

import warnings
import weakref
from types import SimpleNamespace

import pytest
import torch
from gloo import join
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack, RoIAlign
from mmengine.model import MMDistributedDataParallel
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from mmpse.openmmlab.supernet.speed import ChannelsLastHook, to_channels_last
from mmpse.slim.functions import is_channels_last


def in_process(rank: int, file: str) -> None:
    join(rank, file)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    images = torch.randn(4, 3, 9, 9)
    net(images).square().sum().div(2).backward()  # what the mean of two processes is
    expected = [p.grad.clone() for p in net.parameters()]

    def wrap(cfg, model):
        return MMDistributedDataParallel(model, **cfg)

    cfg = dict(find_unused_parameters=True)  # its buckets are never built anew
    runner = SimpleNamespace(model=wrap(cfg, net), cfg=dict(model_wrapper_cfg=cfg), wrap_model=wrap)
    first = weakref.ref(runner.model)
    ChannelsLastHook().before_run(runner)
    assert first() is None  # no second pair of hooks on the gradients
    assert runner.model.module is net and is_channels_last(net[0].weight)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        for _ in range(2):
            runner.model.zero_grad()
            output = DistributedDataParallel.forward(runner.model, images[rank::2])
            output.square().sum().backward()
    assert not [w for w in found if 'bucket view strides' in str(w.message)]
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    torch.distributed.destroy_process_group()


def test_buckets_of_gradients_have_the_strides_of_the_weights(tmp_path):
    multiprocessing.start_processes(
        in_process, (str(tmp_path / 'store'),), nprocs=2, start_method='fork'
    )


class OnRegions(nn.Module):
    """A layer and what mmcv does with its output."""

    def __init__(self, operator):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.operator = operator
        self.head = nn.Conv2d(8, 8, 3)

    def forward(self, x):
        x = self.conv(x)
        if isinstance(self.operator, RoIAlign):
            x = self.operator(x, torch.tensor([[0, 0.0, 0.0, 6.0, 6.0], [1, 2.0, 1.0, 9.0, 8.0]]))
        else:
            x = self.operator(x)
        return self.head(x)


@pytest.mark.parametrize(
    'operator',
    [
        RoIAlign(5, 1.0),
        DeformConv2dPack(8, 8, 3, padding=1, im2col_step=1),
        ModulatedDeformConv2dPack(8, 8, 3, padding=1),
    ],
    ids=lambda operator: type(operator).__name__,
)
def test_operators_of_mmcv_compute_the_same(operator):
    net, images = OnRegions(operator), torch.randn(2, 3, 12, 12)
    for name, parameter in net.named_parameters():
        if 'offset' in name:
            nn.init.normal_(parameter)
    expected = net(images)
    wanted = torch.autograd.grad(expected.square().sum(), list(net.parameters()))
    to_channels_last(net)
    assert is_channels_last(net.conv(images))
    output = net(images)
    torch.testing.assert_close(output, expected)
    found = torch.autograd.grad(output.square().sum(), list(net.parameters()))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
