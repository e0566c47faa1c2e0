"""Stages, and training by them, against stock networks and static subnets."""

import copy
import itertools
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.optim import OptimWrapper
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample
from torch import nn
from torch.distributions import Bernoulli, kl_divergence

from mmpse.openmmlab.models.pruned import look
from mmpse.openmmlab.stagewise.classifier import StageWiseClassifier
from mmpse.openmmlab.stagewise.stages import Stages
from mmpse.openmmlab.supernet.building import whole_supernet
from mmpse.registry import MODELS
from mmpse.slim import cut_

pytestmark = pytest.mark.usefixtures('scope')


class Plain(BaseModule):
    """Convolutions with biases and without norms, as in VGG."""

    def __init__(self):
        super().__init__()
        conv = partial(ConvModule, kernel_size=3, padding=1)
        pool = partial(nn.MaxPool2d, 2)
        self.features = nn.Sequential(
            conv(3, 16), pool(), conv(16, 16), conv(16, 24), pool(), conv(24, 32)
        )

    def forward(self, x):
        return (self.features(x),)


SMALL = dict(stem_channels=8, base_channels=8)
MOBILENET = dict(type='MobileNetV2', widen_factor=0.1)
RESNET = dict(type='ResNet', depth=18, **SMALL)
STEM = ['conv1', 'bn1', 'relu', 'maxpool']
LAYERS = [[f'layer{k}'] for k in range(2, 5)]
# backbone, its ends, and the modules of each stage
CASES = {
    # neighbouring stages have equal widths, so that residual sums join them
    'MobileNetV2': (MOBILENET, None, [['conv1', 'layer1'], *([f'layer{k}'] for k in range(2, 8))]),
    'ResNet-18': (RESNET, None, [[*STEM, 'layer1'], *LAYERS]),
    'ResNetV1d-18': (
        dict(RESNET, deep_stem=True, avg_down=True),
        ['layer1', 'layer3'],
        [['stem', 'maxpool', 'layer1'], ['layer2', 'layer3'], ['layer4']],
    ),
    'poolings': (
        dict(type=Plain),
        ['features.1', 'features.4'],
        [[f'features.{k}' for k in ks] for ks in ((0, 1), (2, 3, 4), (5,))],
    ),
}
CASES['MobileNetV2'][2].append(['conv2'])
cases = pytest.mark.parametrize('case', CASES.values(), ids=list(CASES))
few = pytest.mark.parametrize('case', [*CASES.values()][1:], ids=[*CASES][1:])
CLASSES = 5


def classifier(backbone=RESNET, type='mmpse.StageWiseClassifier', head='LinearClsHead', **kwargs):
    torch.manual_seed(0)
    width = {'MobileNetV2': 1280, Plain: 32}.get(backbone['type'], 64)
    model = MODELS.build(
        dict(
            type=type,
            backbone=backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type=head, num_classes=CLASSES, in_channels=width),
            **kwargs,
        )
    )
    return model.double().train()


def supernet_in(model):
    layout, _ = look(model, parts=model.stages.parts)
    model.supernet = whole_supernet(model, layout)
    return model.supernet


def batch(size=8, seed=0, side=32):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, side, side, generator=generator, dtype=torch.float64)
    return images, [DataSample().set_gt_label(k % CLASSES) for k in range(size)]


def draw(space, count=4):
    rng = np.random.default_rng(0)
    drawn = [[rng.choice(u.candidates) for u in space.units] for _ in range(count - 1)]
    return [space.tinynet, *map(space.subnet, drawn)]


def gradients(loss, model):
    names, parameters = zip(*model.named_parameters())
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return {name: g for name, g in zip(names, found) if g is not None}


@cases
def test_stage_loss_is_that_of_static_subnets(case):
    """Both executions, against the stage's modules of separately cut networks."""
    backbone, ends, sequence = case
    model = classifier(backbone, stages=ends)
    plain = copy.deepcopy(model)
    supernet, (x, samples) = supernet_in(model), batch()
    subnets = draw(supernet.space)
    results = {}
    for execution in ('sliced', 'masked'):
        with supernet.active(subnets, execution):
            losses = model.loss(x, samples)
            supernet.check_ran()
        results[execution] = losses, model.subnet_losses
    torch.testing.assert_close(results['masked'][1], results['sliced'][1], rtol=1e-9, atol=0)

    statics = [cut_(copy.deepcopy(plain), supernet.layout, subnet) for subnet in subnets]
    assert len(model.stages.names) == len(sequence)
    total = torch.zeros(len(subnets), dtype=torch.float64)
    for k, modules in enumerate(sequence):
        distances, start = [], x
        x = run(plain, modules, x, k + 1 == len(sequence)).detach()
        for g, static in enumerate(statics):
            first = static.backbone.get_submodule(modules[0])
            width = next(m.in_channels for m in first.modules() if isinstance(m, nn.Conv2d))
            y = run(static, modules, start[g::4][:, :width], k + 1 == len(sequence))
            target = x[g::4][:, : y.shape[1]]
            if k + 1 < len(sequence):
                distances.append(F.mse_loss(y, target) / target.square().mean())
            else:
                kl = F.kl_div(y.log_softmax(1), target.softmax(1), reduction='batchmean')
                distances.append(kl)
        distance = torch.stack(distances).mean()
        total += torch.stack(distances).detach()
        expected = {}
        for static in statics:
            for name, g in gradients(distance, static).items():
                full = expected.setdefault(name, torch.zeros_like(model.get_parameter(name)))
                full[tuple(map(slice, g.shape))] += g
        largest = max(g.abs().max() for g in expected.values())
        for losses, _ in results.values():
            loss = losses[f'loss_{model.stages.names[k]}']
            torch.testing.assert_close(loss, distance, rtol=1e-9, atol=0)
            found = gradients(loss, model)
            assert found.keys() >= expected.keys()
            for name, g in found.items():
                error = (g - expected.get(name, 0)).abs().max()
                assert error <= 1e-8 * largest, name
    torch.testing.assert_close(results['sliced'][1], total, rtol=1e-9, atol=0)


def run(model, modules, x, last):
    for name in modules:
        x = model.backbone.get_submodule(name)(x)
    return model.head(model.neck((x,))) if last else x


@few
def test_gradients_of_a_stage_touch_its_weights_alone(case):
    backbone, ends, sequence = case
    model = classifier(backbone, stages=ends)
    supernet, (x, samples) = supernet_in(model), batch()
    with supernet.active(draw(supernet.space)):
        losses = model.loss(x, samples)
    seen = []
    for name, modules in zip(model.stages.names, sequence, strict=True):
        touched = gradients(losses[f'loss_{name}'], model)
        own = [f'backbone.{module}.' for module in modules]
        if name == 'scores':
            own.append('head.')
        assert all(any(key.startswith(o) for o in own) for key in touched)
        seen += touched
    assert sorted(seen) == sorted(name for name, _ in model.named_parameters())  # each once
    assert gradients(losses['loss'], model).keys() == set(seen)


@few
def test_stages_share_units_at_their_boundaries_only(case):
    backbone, ends, _ = case
    model = classifier(backbone, stages=ends)
    supernet = supernet_in(model)
    units = model.stages.units(supernet.layout)
    assert {unit for stage in units for unit in stage} == set(supernet.space.names)
    for a, b in itertools.combinations(range(len(units)), 2):
        for stage in units[a + 1 : b]:  # what joins two stages is of all between them
            assert set(units[a]) & set(units[b]) <= set(stage)


def test_default_stages():
    mobilenet = classifier(dict(MOBILENET, widen_factor=1.0)).stages
    assert mobilenet.names == (*(f'layer{k}' for k in range(1, 8)), 'scores')
    model = classifier()
    assert model.stages.names == ('layer1', 'layer2', 'layer3', 'scores')
    first, second, *_, last = model.stages.units(supernet_in(model).layout)
    conv1, *inner = (f'backbone.{name}' for name in ('conv1', 'layer1.0.conv1', 'layer1.1.conv1'))
    assert first == (conv1, *inner)
    assert second[0] == conv1 and len(second) == 4 and 'backbone.layer3.0.conv2' in last


@pytest.mark.parametrize(
    ('stages', 'message'),
    [
        ([], r'got \[\] \(none\); some are conv1, bn1, relu, maxpool, layer1, '),
        (['layer1', 'layer9'], "'layer9'"),
        (['layer1', 'layer1'], 'each once, got'),
    ],
)
def test_stages_that_are_none(stages, message):
    with pytest.raises(ValueError, match=message):
        classifier(stages=stages)


@pytest.mark.parametrize('stages', [['layer2', 'layer1'], ['layer1.0.bn1', 'layer1.0.relu']])
def test_stages_that_the_forward_does_not_pass_in_order(stages):
    model = classifier(stages=stages)
    supernet, (x, samples) = supernet_in(model), batch()
    with supernet.active(draw(supernet.space)), pytest.raises(ValueError, match='in this order'):
        model.loss(x, samples)


def test_a_backbone_of_one_child_needs_names():
    with pytest.raises(ValueError, match=r'got \[\]'):
        Stages(classifier(dict(type=Plain), 'ImageClassifier'))


def test_the_last_stage_of_a_multi_label_classifier_is_compared_by_sigmoid():
    model = classifier(head='MultiLabelLinearClsHead')
    plain, supernet = copy.deepcopy(model), supernet_in(model)
    x, _ = batch()
    samples = [DataSample().set_gt_score(row) for row in (torch.rand(8, CLASSES) < 0.3).double()]
    with supernet.active([supernet.space.tinynet]):
        losses = model.loss(x, samples)
    with torch.no_grad():
        start = run(plain, [*STEM, 'layer1', 'layer2', 'layer3'], x, False)
        target = run(plain, ['layer4'], start, True)
        static = cut_(copy.deepcopy(plain), supernet.layout, supernet.space.tinynet)
        start = start[:, : static.backbone.layer4[0].conv1.in_channels]
        scores = run(static, ['layer4'], start, True)
    expected = kl_divergence(Bernoulli(logits=target), Bernoulli(logits=scores)).sum(1).mean()
    assert losses['loss_scores'].item() == pytest.approx(expected.item())


@pytest.mark.parametrize('execution', ['sliced', 'masked'])
def test_fullnet_branch_is_plain_training(execution):
    """Losses, weights and running statistics of some steps, bit for bit."""
    plain = classifier(type='ImageClassifier').float()
    ours = classifier(stage_weight=0.0).float()
    assert list(ours.state_dict()) == list(plain.state_dict())
    supernet = supernet_in(ours)
    wrappers = [
        OptimWrapper(torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4))
        for m in (plain, ours)
    ]
    for seed in range(3):
        x, samples = batch(seed=seed)
        data = dict(inputs=x, data_samples=samples)
        expected = plain.train_step(data, wrappers[0])
        with supernet.active(draw(supernet.space), execution):
            losses = ours.train_step(data, wrappers[1])
        assert torch.equal(losses['loss'], expected['loss'])
    for key, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


def test_without_subnets_it_is_the_stock_classifier():
    plain, ours = classifier(type='ImageClassifier'), classifier()
    assert type(plain) is ImageClassifier and type(ours) is StageWiseClassifier
    x, samples = batch()
    supernet_in(ours)
    assert ours.loss(x, samples).keys() == {'loss'}
    assert torch.equal(plain.loss(x, samples)['loss'], ours.loss(x, samples)['loss'])


def test_half_precision_trains():
    model = classifier().float()
    supernet, (x, samples) = supernet_in(model), batch()
    with supernet.active(draw(supernet.space)), torch.autocast('cpu', torch.bfloat16):
        losses = model.loss(x.float(), samples)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
