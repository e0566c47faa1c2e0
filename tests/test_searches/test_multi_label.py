"""Multi-label classifiers, whose loss takes every class by itself, as supernets with a teacher."""

import pytest
import torch
from mmpretrain.structures import DataSample
from torch.distributions import Bernoulli, kl_divergence

from mmpse.models import Distillation, run_stage, with_subnet
from mmpse.openmmlab.supernet.losses import SubnetLosses
from mmpse.registry import MODELS

CLASSES = 20
NET = dict(
    type='ImageClassifier',
    backbone=dict(type='mmpse.SlimmableResNetCIFAR', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='MultiLabelLinearClsHead', num_classes=CLASSES, in_channels=64),
)


@pytest.fixture
def supernet(scope):
    return MODELS.build(with_subnet(NET, None)).double().train()


@pytest.fixture
def batch():
    labels = (torch.rand(8, CLASSES) < 0.3).double()
    return torch.randn(8, 3, 32, 32).double(), [DataSample().set_gt_score(row) for row in labels]


def step(model, batch, subnets, **options):
    """The loss that a step minimises, and the losses of its subnets."""
    losses = SubnetLosses(model, model.backbone, fullnet=True, **options)
    with model.backbone.active(subnets):
        loss = model.loss(*batch)['loss']
    losses.close()
    return loss.item(), losses.of_subnets()


def alone(model, subnet, images, samples):
    """The loss of a static subnet."""
    static = MODELS.build(with_subnet(NET, subnet)).double().train()
    static.load_state_dict(model.state_dict())
    return static.loss(images, samples)['loss'].item()


@pytest.mark.parametrize('distillation', [None, Distillation()])
def test_the_fullnet_minimises_what_it_does_alone(supernet, batch, distillation):
    expected = supernet.loss(*batch)['loss'].item()
    fullnet = [supernet.backbone.search_space.fullnet]
    loss, recorded = step(supernet, batch, fullnet, distillation=distillation, serial=True)
    assert loss == pytest.approx(expected)
    assert recorded.tolist() == pytest.approx([expected])


@pytest.mark.parametrize('distillation', [None, Distillation(weight=0.7)])
def test_losses_are_those_of_every_group_alone(supernet, batch, distillation):
    space = supernet.backbone.search_space
    images, samples = batch
    subnets = [space.fullnet, space.tinynet]
    expected = [alone(supernet, s, images[g::2], samples[g::2]) for g, s in enumerate(subnets)]
    loss, recorded = step(supernet, batch, subnets, distillation=distillation, serial=False)
    assert recorded.tolist() == pytest.approx(expected, rel=1e-5)
    if distillation is None:
        assert loss == pytest.approx(sum(expected) / 2)
        return
    with torch.no_grad():
        teacher = distillation.scores(supernet, images)[1::2]
        with supernet.backbone.active(subnets):
            features = supernet.neck(supernet.backbone(images))
        student = supernet.head(features)[1::2]
    soft = kl_divergence(Bernoulli(logits=teacher), Bernoulli(logits=student)).sum(1).mean().item()
    assert loss == pytest.approx((expected[0] + 0.3 * expected[1] + 0.7 * soft) / 2)


def test_last_stage_is_compared_by_sigmoid(scope, batch):
    model = MODELS.build(with_subnet(dict(NET, type='mmpse.StageWiseClassifier'), None))
    model.double().train()
    images, samples = batch
    space = model.backbone.search_space
    last = model.stages[-1]
    x = images
    with torch.no_grad():
        for stage in model.stages[:-1]:
            x = run_stage(model, stage, x)
        expected = []
        for g, subnet in enumerate((space.fullnet, space.tinynet)):
            fullnet = run_stage(model, last, x)[g::2]
            with model.backbone.active([subnet], 'sliced', last.parts):
                scores = run_stage(model, last, x[g::2])
            expected.append(kl_divergence(Bernoulli(logits=fullnet), Bernoulli(logits=scores)))
    expected = torch.stack(expected).sum(2).mean().item()
    with model.backbone.active([space.fullnet, space.tinynet]):
        losses = model.loss(images, samples)
    assert losses[f'loss_{last.name}'].item() == pytest.approx(expected)
