"""Stages, and training by them, against stock networks and static subnets."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample

from mmpse.models import (
    SlimmableMobileNetV2,
    SlimmableResNet,
    SlimmableResNetCIFAR,
    SlimmableVGG,
    StageWiseClassifier,
    backbone_costs,
    split_stages,
)
from mmpse.models.stages import neck_features, run_stage, stage_parameters
from mmpse.space import SpreadSampler

SMALL = dict(stem_channels=16, base_channels=16)
FAMILIES = [
    pytest.param(family, arguments, id=name)
    for name, family, arguments in [
        ('MobileNetV2', SlimmableMobileNetV2, dict(widen_factor=0.35)),
        ('MobileNetV2-narrow', SlimmableMobileNetV2, dict(widen_factor=0.1)),
        ('ResNet-18', SlimmableResNet, dict(depth=18, **SMALL)),
        ('ResNetV1d-50', SlimmableResNet, dict(depth=50, deep_stem=True, avg_down=True, **SMALL)),
        ('ResNetCIFAR-20', SlimmableResNetCIFAR, dict(depth=20)),
        ('VGG11', SlimmableVGG, dict(depth=11, norm_cfg=None)),
    ]
]
families = pytest.mark.parametrize(('family', 'arguments'), FAMILIES)


def classifier(backbone=None, type=StageWiseClassifier, **kwargs):
    torch.manual_seed(0)
    backbone = backbone or SlimmableMobileNetV2(widen_factor=0.35)
    return type(
        backbone=backbone,
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(
            type='mmpretrain.LinearClsHead', num_classes=5, in_channels=backbone.out_channels[-1]
        ),
        **kwargs,
    )


def batch(size=8, dtype=torch.float32, seed=0, side=32):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, side, side, generator=generator, dtype=dtype)
    return images, [DataSample().set_gt_label(k % 5) for k in range(size)]


def draw(backbone, rng, count=3):
    space = backbone.search_space
    sampler = SpreadSampler(space, backbone_costs(backbone)['flops'])
    return [space.tinynet, *(space.subnet(row) for row in sampler.sample(rng, count))]


def stage_gradients(model, losses, stage):
    """Gradients of a stage's loss, by parameter name."""
    model.zero_grad()
    losses[f'loss_{stage.name}'].backward(retain_graph=True)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(actual, expected):
    scale = expected.abs().max().clamp_min(1e-9)
    assert ((actual - expected).abs().max() / scale).item() < 1e-7


@families
def test_parts_one_after_the_other_are_the_stock_forward(family, arguments):
    backbone = family(**arguments)
    x, _ = batch(2, side=64)
    copied = copy.deepcopy(backbone)
    expected = super(family.__mro__[1], backbone).forward(x)  # in training mode
    for part in copied.parts():
        x = copied.forward_parts([part], x)
    assert torch.equal(x, expected[-1])
    for name, buffer in backbone.named_buffers():
        assert torch.equal(buffer, copied.get_buffer(name))


def test_parts_of_vgg_with_its_classifier():
    backbone = SlimmableVGG(depth=11, num_classes=5, norm_cfg=dict(type='BN'))
    backbone.eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = backbone(x)
        for stage in split_stages(backbone):
            x = backbone.forward_parts(stage.parts, x)
    assert torch.equal(x, expected[-1])
    assert stage.parts == ('classifier',) and stage.inputs == 'conv8' and stage.outputs is None


@families
def test_stages_share_units_at_their_boundaries_only(family, arguments):
    backbone = family(**arguments)
    stages = split_stages(backbone, [[part] for part in backbone.parts()])
    assert {unit for stage in stages for unit in stage.units} == set(backbone.search_space.names)
    for a, b in itertools.combinations(range(len(stages)), 2):
        between = {stage.outputs for stage in stages[a:b]}
        for unit in set(stages[a].units) & set(stages[b].units):
            assert between == {unit}  # the state of the join at every boundary between them


def test_default_stages():
    names = [stage.name for stage in split_stages(SlimmableMobileNetV2())]
    assert names == ['conv1-layer1', *(f'layer{k}' for k in range(2, 8)), 'conv2']
    stages = split_stages(SlimmableResNet(depth=18))
    assert [stage.parts for stage in stages][:2] == [('stem', 'layer1'), ('layer2',)]
    assert stages[0].inputs is None and stages[0].outputs == 'stem' == stages[1].inputs
    assert stages[1].units == ('stem', 'layer2', 'layer2.0.1', 'layer2.1.1')
    assert stages[-1].outputs is None


@pytest.mark.parametrize(
    ('stages', 'message'),
    [
        ([['stem', 'layer1'], ['layer2', 'layer4']], 'stem, layer1, layer2, layer3, layer4; got'),
        ([['stem', 'layer1'], ['layer2', 'layer4']], 'layer3 in no stage'),
        ([['stem', 'layer1'], ['layer1', 'layer2', 'layer3', 'layer4']], 'layer1 in several stage'),
        ([['stem', 'layer1'], ['layer2', 'layer3', 'layer9', 'layer4']], 'layer9 unknown'),
        ([['layer1', 'stem'], ['layer2', 'layer3', 'layer4']], 'another order'),
        ([['stem', 'layer1'], [], ['layer2', 'layer3', 'layer4']], 'not a list of parts'),
        (['stem', 'layer1', 'layer2', 'layer3', 'layer4'], 'not a list of parts'),
    ],
)
def test_stages_that_do_not_split_the_backbone(stages, message):
    backbone = SlimmableResNet(depth=18, **SMALL)
    with pytest.raises(ValueError, match=message):
        classifier(backbone, stages=stages)


def test_stages_need_the_last_feature_alone():
    for out_indices in ((6,), (3, 7)):
        backbone = SlimmableMobileNetV2(out_indices=out_indices)
        with pytest.raises(ValueError, match=f"'conv2', but out_indices=.*{out_indices[0]}"):
            split_stages(backbone)


@families
def test_stage_loss_is_that_of_static_subnets(family, arguments, rng):
    """Both executions, against the stage's modules of separately built networks."""
    model = classifier(family(**arguments)).double()
    x, samples = batch(8, torch.float64, side=32 if family is SlimmableResNetCIFAR else 64)
    subnets = draw(model.backbone, rng)
    results = {}
    for execution in ('sliced', 'masked'):
        with model.backbone.active(subnets, execution):
            losses = model.loss(x, samples)
        results[execution] = losses, model.subnet_losses
    assert_close(results['masked'][1], results['sliced'][1])
    losses = results['masked'][0]

    statics = []
    for subnet in subnets:
        static = family(subnet=subnet, **arguments).double()
        static.load_state_dict(model.backbone.state_dict())
        statics.append(static)
    total = torch.zeros(len(subnets), dtype=torch.float64)
    for stage in model.stages:
        with torch.no_grad():
            target = run_stage(model, stage, x)
        distances = []
        for g, (subnet, static) in enumerate(zip(subnets, statics, strict=True)):
            cut = slice(None) if stage.inputs is None else slice(subnet[stage.inputs])
            y, t = x[g::4, cut], target[g::4]
            for part in stage.parts:
                y = static.run_part(part, y)
            if stage.outputs is None:
                weight = model.head.fc.weight[:, : y.shape[1]]
                scores = neck_features(model, y)[0] @ weight.T + model.head.fc.bias
                kl = F.kl_div(scores.log_softmax(1), t.softmax(1), reduction='batchmean')
                distances.append(kl)
            else:
                t = t[:, : subnet[stage.outputs]]
                assert y.shape == t.shape
                distances.append(F.mse_loss(y, t) / t.square().mean())
        distances = torch.stack(distances)
        total += distances.detach()
        assert_close(losses[f'loss_{stage.name}'], distances.mean())
        gradients = stage_gradients(model, losses, stage)
        static_gradients = torch.autograd.grad(
            distances.mean(), [p for s in statics for p in s.parameters()], allow_unused=True
        )
        summed = {name: torch.zeros_like(p) for name, p in model.backbone.named_parameters()}
        names = (name for s in statics for name, _ in s.named_parameters())
        for name, gradient in zip(names, static_gradients, strict=True):
            if gradient is not None:
                summed[name][tuple(map(slice, gradient.shape))] += gradient
        floor = 1e-6 * max(g.abs().max().item() for g in summed.values())
        for name, expected in summed.items():
            given = gradients.get(f'backbone.{name}', torch.zeros(()))
            scale = expected.abs().max().clamp_min(floor)
            assert ((given - expected).abs().max() / scale).item() < 1e-7, name
        x = target
    assert_close(results['masked'][1], total)


def test_gradients_of_a_stage_touch_its_weights_alone(rng):
    model = classifier()
    x, samples = batch()
    with model.backbone.active(draw(model.backbone, rng)):
        losses = model.loss(x, samples)
    names = {id(p): name for name, p in model.named_parameters()}
    seen = []
    for stage in model.stages:
        touched = stage_gradients(model, losses, stage)
        own = {names[id(p)] for p in stage_parameters(model, stage)}
        assert set(touched) == own
        assert all(g.abs().sum() > 0 for name, g in touched.items() if name.endswith('conv.weight'))
        seen += touched
    assert sorted(seen) == sorted(names.values())  # every weight is of one stage
    model.zero_grad()
    losses['loss'].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_fullnet_in_one_stage_has_no_distance():
    model = classifier(stages=[list(SlimmableMobileNetV2().parts())])
    x, samples = batch()
    for execution in ('sliced', 'masked'):
        with model.backbone.active([model.backbone.search_space.fullnet], execution):
            losses = model.loss(x, samples)
        (stage,) = model.stages
        assert abs(losses[f'loss_{stage.name}'].item()) < 1e-6
        gradients = stage_gradients(model, losses, stage)
        assert max(g.abs().max() for g in gradients.values()) < 1e-5


@pytest.mark.parametrize('execution', ['sliced', 'masked'])
def test_fullnet_branch_is_plain_training(rng, execution):
    """Losses, weights and running statistics of 5 steps, bit for bit."""
    plain, ours = classifier(type=ImageClassifier), classifier(stage_weight=0.0)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), ours.parameters()))
    subnets = draw(ours.backbone, rng)
    wrappers = [
        OptimWrapper(torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4))
        for m in (plain, ours)
    ]
    for seed in range(5):
        x, samples = batch(seed=seed)
        data = dict(inputs=x, data_samples=samples)
        expected = plain.train_step(data, wrappers[0])
        with ours.backbone.active(subnets, execution):
            losses = ours.train_step(data, wrappers[1])
        assert torch.equal(losses['loss'], expected['loss'])
    for key, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


def test_without_subnets_it_is_the_stock_classifier():
    plain, ours = classifier(type=ImageClassifier), classifier()
    assert list(ours.state_dict()) == list(plain.state_dict())
    x, samples = batch()
    assert ours.loss(x, samples).keys() == {'loss'}
    assert torch.equal(plain.loss(x, samples)['loss'], ours.loss(x, samples)['loss'])


def test_groups_leave_running_statistics_and_the_activation_alone(rng):
    model, twin = classifier(), classifier()
    x, samples = batch()
    twin.loss(x, samples)
    subnets = draw(model.backbone, rng)
    with model.backbone.active(subnets, 'masked'):
        model.loss(x, samples)
        assert model.backbone.active_subnets == tuple(subnets)
    for name, buffer in twin.named_buffers():
        assert torch.equal(buffer, model.get_buffer(name))


def test_frozen_stages_are_not_trained(rng):
    model = classifier(SlimmableMobileNetV2(widen_factor=0.35, frozen_stages=2))
    model.train()
    x, samples = batch()
    with model.backbone.active(draw(model.backbone, rng)):
        losses = model.loss(x, samples)
    sum(losses.values()).backward()
    without = {name.split('.')[1] for name, p in model.named_parameters() if p.grad is None}
    assert without == {'conv1', 'layer1', 'layer2'}


def test_bfloat16_trains_and_float16_is_refused(rng):
    model = classifier()
    x, samples = batch()
    with model.backbone.active(draw(model.backbone, rng)):
        with torch.autocast('cpu', torch.bfloat16):
            losses = model.loss(x, samples)
        sum(losses.values()).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        with (
            torch.autocast('cpu', torch.float16),
            pytest.raises(ValueError, match="optim_wrapper.dtype='bfloat16'"),
        ):
            model.loss(x, samples)
