"""Serial training and distillation against independent computations with static networks."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.runner import Runner
from search_runs import fresh_name

from mmpse.slim import cut_

TEACHER = dict(
    type='ImageClassifier',
    backbone=dict(type='MobileNetV2', widen_factor=0.35),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=1280),
)


class Gradients(Hook):
    """Keeps the data, the weights before the first step, and the step's gradient."""

    priority = 'LOWEST'

    def __init__(self, hook):
        self.hook = hook

    def before_train(self, runner):
        self.before = copy.deepcopy(runner.model.state_dict())

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        data = runner.model.data_preprocessor(copy.deepcopy(data_batch), True)
        self.images = data['inputs'].double()
        self.labels = torch.cat([sample.gt_label for sample in data['data_samples']])
        self.supernet = self.hook.supernet
        self.subnets = [self.supernet.space.subnet(w) for w in self.hook.subnets]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.gradient = {
            name: self.before[name] - p.detach() for name, p in runner.model.named_parameters()
        }


def one_step(cfg, accumulative_counts=1, iterations=1, **hook):
    """Train with SGD and a learning rate of 1, so that the step is the gradient; in float64."""
    cfg = copy.deepcopy(cfg)
    cfg.custom_hooks = [dict(type='mmpse.SupernetHook', execution='sliced') | hook]
    cfg.train_cfg.max_epochs = iterations
    cfg.train_dataloader.dataset.indices = 32
    cfg.param_scheduler = None
    cfg.optim_wrapper = dict(
        optimizer=dict(type='SGD', lr=1.0), accumulative_counts=accumulative_counts
    )
    cfg.experiment_name = fresh_name()
    runner = Runner.from_cfg(cfg)
    runner.model.double()
    runner.model.data_preprocessor.float()
    runner.model.backbone.register_forward_pre_hook(lambda module, args: (args[0].double(),))
    supernet_hook = next(h for h in runner.hooks if type(h).__name__ == 'SupernetHook')
    if supernet_hook.distillation is not None and supernet_hook.distillation.teacher is not None:
        teacher = supernet_hook.distillation.teacher.double()
        teacher.register_forward_pre_hook(lambda module, args: (args[0].double(),))
    step = Gradients(supernet_hook)
    step.plain = copy.deepcopy(runner.model)
    runner.register_hook(step)
    runner.train()
    return step, runner


def scores(step, subnet, images):
    """Scores of a static network with the weights before the step, and its parameters."""
    static = copy.deepcopy(step.plain)
    static.load_state_dict(step.before)
    cut_(static, step.supernet.layout, subnet).train()
    return static(images, mode='tensor'), dict(static.named_parameters())


def soft_loss(score, teacher_score, temperature=1.0):
    """Cross entropy with soft targets; its gradient is that of the KL divergence."""
    target = (teacher_score.detach() / temperature).softmax(1)
    return -(target * (score / temperature).log_softmax(1)).sum(1).mean() * temperature**2


def add_gradients(total, loss, parameters, share):
    loss.backward()
    for name, p in parameters.items():
        if p.grad is not None:
            full = total[name][tuple(slice(0, size) for size in p.shape)]
            full += share * p.grad


def assert_same_gradient(step, expected):
    largest = max(g.abs().max() for g in expected.values())
    assert largest > 1e-2
    for name, gradient in expected.items():
        difference = (step.gradient[name] - gradient).abs().max()
        assert difference < 1e-6 * largest, name


def zeros(step):
    return {name: torch.zeros_like(g) for name, g in step.gradient.items()}


def test_sandwich_step_is_the_serial_passes_of_the_paper(supernet_cfg):
    """AutoSlim, US-Nets: every subnet on the whole batch, the max's softmax for the others."""
    step, runner = one_step(
        supernet_cfg, n=4, serial=True, distillation=dict(), accumulative_counts=4
    )
    space = step.supernet.space
    assert step.subnets[:2] == [space.fullnet, space.tinynet] and len(step.subnets) == 4
    expected = zeros(step)
    soft = None
    labels = []
    for subnet in step.subnets:
        score, parameters = scores(step, subnet, step.images)
        labels.append(F.cross_entropy(score, step.labels).item())
        loss = F.cross_entropy(score, step.labels) if soft is None else soft_loss(score, soft)
        soft = score.detach() if soft is None else soft
        add_gradients(expected, loss, parameters, 1 / 4)
    assert_same_gradient(step, expected)
    record = step.hook.record.state_dict()
    assert record['loss'].tolist() == pytest.approx(labels[2:], rel=1e-5)
    logged = {
        name: runner.message_hub.get_scalar(f'train/loss_{name}').current()
        for name in ('fullnet', 'tinynet', 'sampled')
    }
    assert logged['fullnet'] == pytest.approx(labels[0], rel=1e-5)
    assert logged['tinynet'] == pytest.approx(labels[1], rel=1e-5)
    assert logged['sampled'] == pytest.approx(sum(labels[2:]) / 2, rel=1e-5)


def test_single_path_step_is_one_random_subnet_on_the_batch(supernet_cfg):
    uniform = dict(type='mmpse.UniformSampler')
    step, runner = one_step(supernet_cfg, n=1, fullnet=False, tinynet=False, sampler=uniform)
    (subnet,) = step.subnets
    space = step.supernet.space
    assert subnet not in (space.fullnet, space.tinynet)
    expected = zeros(step)
    score, parameters = scores(step, subnet, step.images)
    add_gradients(expected, F.cross_entropy(score, step.labels), parameters, 1)
    assert_same_gradient(step, expected)


@pytest.mark.parametrize('execution', ['sliced', 'masked'])
def test_parallel_distillation_from_the_fullnet(supernet_cfg, execution):
    step, _ = one_step(
        supernet_cfg, n=4, execution=execution, distillation=dict(weight=0.7, temperature=2.0)
    )
    expected = zeros(step)
    soft, _ = scores(step, step.subnets[0], step.images)
    for g, subnet in enumerate(step.subnets):
        score, parameters = scores(step, subnet, step.images[g::4])
        loss = F.cross_entropy(score, step.labels[g::4])
        if g:
            loss = 0.3 * loss + 0.7 * soft_loss(score, soft[g::4], 2.0)
        add_gradients(expected, loss, parameters, 1 / 4)
    assert_same_gradient(step, expected)


@pytest.mark.parametrize('serial', [False, True])
def test_distillation_from_another_classifier(supernet_cfg, serial, tmp_path, scope):
    from mmpse.registry import MODELS

    teacher = MODELS.build(TEACHER).double()
    path = tmp_path / 'teacher.pth'
    torch.save(dict(state_dict=teacher.state_dict()), path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    step, runner = one_step(
        supernet_cfg,
        n=2,
        serial=serial,
        accumulative_counts=2 if serial else 1,
        distillation=dict(teacher=dict(TEACHER, init_cfg=init_cfg), weight=0.5),
    )
    teacher.eval()
    with torch.no_grad():
        soft = teacher(step.images, mode='tensor')
    expected = zeros(step)
    for g, subnet in enumerate(step.subnets):
        own = slice(None) if serial else slice(g, None, 2)
        score, parameters = scores(step, subnet, step.images[own])
        loss = 0.5 * F.cross_entropy(score, step.labels[own]) + 0.5 * soft_loss(score, soft[own])
        add_gradients(expected, loss, parameters, 1 / 2)
    assert_same_gradient(step, expected)
    assert not any('teacher' in name for name in runner.model.state_dict())


def test_timm_model_as_teacher(supernet_cfg):
    teacher = dict(type='TimmClassifier', model_name='resnet18', num_classes=10)
    step, _ = one_step(supernet_cfg, n=2, distillation=dict(teacher=teacher))
    assert max(g.abs().max() for g in step.gradient.values()) > 0


def test_teacher_of_other_classes(supernet_cfg):
    teacher = dict(type='TimmClassifier', model_name='resnet18', num_classes=7)
    with pytest.raises(ValueError, match=r'teacher gives scores \(32, 7\)|scores \(16, 7\)'):
        one_step(supernet_cfg, n=2, distillation=dict(teacher=teacher))


def test_serial_training_accumulates_over_iterations(supernet_cfg):
    """Two iterations of two subnets are one update: the mean of four gradients."""
    step, _ = one_step(
        supernet_cfg, n=2, serial=True, tinynet=False, accumulative_counts=4, iterations=2
    )
    # one update in two iterations; what Gradients kept last is the second iteration's data
    assert max(g.abs().max() for g in step.gradient.values()) > 0
    expected = zeros(step)
    first, _ = one_step(
        supernet_cfg, n=2, serial=True, tinynet=False, accumulative_counts=2, iterations=1
    )
    for part in (first, step):
        for subnet in part.subnets:
            score, parameters = scores(first, subnet, part.images)
            add_gradients(expected, F.cross_entropy(score, part.labels), parameters, 1 / 4)
    assert_same_gradient(step, expected)


@pytest.mark.parametrize(
    ('hook', 'message'),
    [
        (dict(serial=True), r'set optim_wrapper.accumulative_counts=4 \(got 1\)'),
        (dict(distillation=dict(weight=0)), r'weight must be in \(0, 1\], got 0'),
        (dict(distillation=dict(temperature=0)), 'temperature must be positive, got 0'),
        (dict(serial=True, fullnet=False, distillation=dict()), 'set fullnet=True or give'),
    ],
)
def test_bad_arguments(supernet_cfg, hook, message):
    with pytest.raises(ValueError, match=message):
        one_step(supernet_cfg, **hook)
