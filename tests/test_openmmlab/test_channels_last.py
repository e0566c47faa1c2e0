"""The channels_last layout of a model in DDP."""

import warnings
import weakref
from types import SimpleNamespace

import torch
from gloo import join
from mmengine.model import MMDistributedDataParallel
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from mmpse.openmmlab.supernet.speed import ChannelsLastHook
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
