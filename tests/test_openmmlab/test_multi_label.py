"""Multi-label classifiers, whose loss takes every class by itself, as supernets with a teacher."""

import copy

import pytest
import torch
from mmpretrain.structures import DataSample
from torch.distributions import Bernoulli, kl_divergence

from mmpse.openmmlab.models.pruned import look
from mmpse.openmmlab.supernet.building import whole_supernet
from mmpse.openmmlab.supernet.losses import SubnetLosses
from mmpse.openmmlab.teaching.distillation import Distillation
from mmpse.registry import MODELS
from mmpse.slim import cut_

CLASSES = 20
NET = dict(
    type='ImageClassifier',
    backbone=dict(type='mmpse.ResNetCIFAR', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='MultiLabelLinearClsHead', num_classes=CLASSES, in_channels=64),
)


@pytest.fixture
def supernet(scope):
    model = MODELS.build(copy.deepcopy(NET)).double().train()
    return whole_supernet(model, look(model)[0], divisor=2)


@pytest.fixture
def batch():
    labels = (torch.rand(8, CLASSES) < 0.3).double()
    return torch.randn(8, 3, 32, 32).double(), [DataSample().set_gt_score(row) for row in labels]


def step(supernet, batch, subnets, **options):
    """The loss that a step minimises, and the losses of its subnets."""
    model = supernet.model
    losses = SubnetLosses(model, supernet, n=len(subnets), fullnet=True, **options)
    with supernet.active(subnets):
        loss = model(*batch, mode='loss')['loss']
    losses.close()
    return loss.item(), losses.of_subnets()


def alone(supernet, subnet, images, samples):
    """The loss of a static subnet."""
    static = cut_(copy.deepcopy(supernet.model), supernet.layout, subnet)
    return static.loss(images, samples)['loss'].item()


@pytest.mark.parametrize('distillation', [None, Distillation()])
def test_the_fullnet_minimises_what_it_does_alone(supernet, batch, distillation):
    expected = alone(supernet, supernet.space.fullnet, *batch)
    fullnet = [supernet.space.fullnet]
    loss, recorded = step(supernet, batch, fullnet, distillation=distillation, serial=True)
    assert loss == pytest.approx(expected)
    assert recorded.tolist() == pytest.approx([expected])


@pytest.mark.parametrize('distillation', [None, Distillation(weight=0.7)])
def test_losses_are_those_of_every_group_alone(supernet, batch, distillation):
    space, (images, samples) = supernet.space, batch
    subnets = [space.fullnet, space.tinynet]
    expected = [alone(supernet, s, images[g::2], samples[g::2]) for g, s in enumerate(subnets)]
    loss, recorded = step(supernet, batch, subnets, distillation=distillation, serial=False)
    assert recorded.tolist() == pytest.approx(expected, rel=1e-5)
    if distillation is None:
        assert loss == pytest.approx(sum(expected) / 2)
        return
    tiny = cut_(copy.deepcopy(supernet.model), supernet.layout, space.tinynet)
    with torch.no_grad():
        teacher = copy.deepcopy(supernet.model)(images, mode='tensor')[1::2]
        student = tiny(images[1::2], mode='tensor')
    soft = kl_divergence(Bernoulli(logits=teacher), Bernoulli(logits=student)).sum(1).mean().item()
    assert loss == pytest.approx((expected[0] + 0.3 * expected[1] + 0.7 * soft) / 2)
