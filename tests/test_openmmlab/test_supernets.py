"""Whole models as supernets, through SupernetHook."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from search_runs import fresh_name
from test_distillation import build, faster_rcnn
from tiny_tasks import write_task
from torch.nn.modules.batchnorm import _BatchNorm

from mmpse.openmmlab import compat
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.models.batches import copied
from mmpse.openmmlab.supernet.building import find_supernet, supernet_of, whole_costs
from mmpse.openmmlab.teaching.distance import head_distance
from mmpse.openmmlab.teaching.hook import build_teacher
from mmpse.slim import GuardError, cut_

HOOK = dict(type='mmpse.SupernetHook', n=2, execution='sliced', divisor=4)


class Stop(Exception):
    pass


class Watch(Hook):
    """Keeps what an iteration started from: its weights, and its images as the model sees them."""

    priority = 'LOWEST'

    def __init__(self, hook, iteration=0, stop=False):
        self.hook, self.iteration, self.stop = hook, iteration, stop

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter != self.iteration:
            return
        if self.stop:
            raise Stop
        self.state = copy.deepcopy(runner.model.state_dict())
        self.subnets = self.hook.supernet.active_subnets
        self.data = runner.model.data_preprocessor(copy.deepcopy(data_batch), True)


@pytest.fixture
def task(digits, tmp_path):
    """The config of a supernet of a small model, and the files of that model."""

    def make(name, epochs=1, images=16, **hook):
        config, checkpoint = write_task(name, digits, tmp_path / name)
        cfg = Config.fromfile(config)
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.load_from, cfg.work_dir = str(checkpoint), str(tmp_path / 'work')
        cfg.train_dataloader.dataset.indices = images
        if name == 'segmentation':
            # no random numbers of the batch, and channels that stay are the first ones
            cfg.model.decode_head.update(dropout_ratio=0, concat_input=False)
        cfg.train_cfg = dict(by_epoch=True, max_epochs=epochs)
        cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=1e-4))
        cfg.randomness = dict(seed=0)
        cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=2))
        teacher = hook.pop('teacher', None)
        if teacher is not None:
            hook['teacher'] = dict(teacher, teacher=str(config), checkpoint=str(checkpoint))
        cfg.custom_hooks = [dict(HOOK, **hook)]
        return cfg

    return make


def runner_of(cfg):
    cfg = copy.deepcopy(cfg)
    cfg.experiment_name = fresh_name()
    runner = Runner.from_cfg(cfg)
    return runner, next(h for h in runner.hooks if type(h).__name__ == 'SupernetHook')


def cut_models(cfg, watch, layout):
    """Each subnet of a watched iteration as a plain model, and its images."""
    for g, subnet in enumerate(watch.subnets):
        model = build_model(cfg)
        model.load_state_dict(watch.state)
        inputs, samples = watch.data['inputs'][g::2], watch.data['data_samples'][g::2]
        cut_(model, layout, subnet).train()
        for norm in (m for m in model.modules() if isinstance(m, _BatchNorm)):
            norm.train()  # with norm_eval too
        yield model, dict(inputs=inputs, data_samples=samples)


@pytest.mark.parametrize('name', ['classification', 'segmentation'])
def test_a_step_adds_up_those_of_the_cut_subnets(task, name):
    cfg = task(name, images=8)
    cfg.optim_wrapper.optimizer.lr = 1.0  # so that weights lose no digits of the gradient
    runner, hook = runner_of(cfg)
    watch = Watch(hook)
    runner.register_hook(watch)
    runner.train()
    layout = hook.supernet.layout
    expected = {key: torch.zeros_like(p) for key, p in runner.model.named_parameters()}
    for model, data in cut_models(cfg, watch, layout):
        model.parse_losses(compat.forward_by_mode(model, data, 'loss'))[0].backward()
        grads = {key: p.grad for key, p in model.named_parameters()}
        for key, total in expected.items():
            grad, region = grads[key], tuple(slice(0, n) for n in grads[key].shape)
            total[region] += grad / 2  # the loss of the batch is the mean of the groups'
    for key, p in runner.model.named_parameters():
        step = watch.state[key] - p.detach()
        assert (step - expected[key]).norm() <= 1e-2 * expected[key].norm(), key
    assert {s.name for s in layout.units.values()} == set(hook.supernet.space.names)


@pytest.mark.parametrize('name', ['classification', 'detection'])
def test_distances_from_the_teacher_are_recorded(task, name):
    """Every second iteration, each group's as of its subnet alone."""
    cfg = task(name, epochs=2, fullnet=False, teacher=dict(weight=1e-3), tinynet=False)
    runner, hook = runner_of(cfg)
    watch = Watch(hook, iteration=2)
    runner.register_hook(watch)
    runner.train()
    checkpoint = torch.load(f'{cfg.work_dir}/epoch_2.pth', weights_only=False)
    record = checkpoint['meta']['mmpse_supernet']['record']
    assert record['iteration'].tolist() == [0, 0, 2, 2]
    space = hook.supernet.space
    assert record['widths'][2:].tolist() == space.array(watch.subnets).tolist()

    config = hook.teacher_cfg
    teacher = build_teacher(config['teacher'], config['checkpoint'])
    head = 'head' if name == 'classification' else 'bbox_head'
    expected = []
    for model, data in cut_models(cfg, watch, hook.supernet.layout):
        with torch.no_grad():
            of_model, of_teacher = (
                getattr(m, head).forward(m.extract_feat(data['inputs'])) for m in (model, teacher)
            )
            expected.append(head_distance(getattr(model, head), of_model, of_teacher)[0])
    torch.testing.assert_close(
        record['loss'][2:], torch.stack(expected).double(), rtol=1e-3, atol=1e-7
    )


@pytest.mark.parametrize(
    ('name', 'serial'),
    [
        ('classification', False),
        ('detection', False),
        ('detection', True),
        ('segmentation', False),
    ],
)
def test_losses_are_recorded_without_a_teacher(task, name, serial):
    """Each subnet's as of it alone, on its images."""
    cfg = task(name, images=8, fullnet=False, serial=serial)
    cfg.optim_wrapper.update(accumulative_counts=2 if serial else 1)
    runner, hook = runner_of(cfg)
    watch = Watch(hook)
    runner.register_hook(watch)
    runner.train()
    record = hook.record.state_dict()
    if serial:
        watch.subnets = [hook.supernet.space.subnet(row) for row in hook.drawing.rows(0, 0)]
    expected = []
    for model, data in cut_models(cfg, watch, hook.supernet.layout):
        data = watch.data if serial else data
        loss = model.parse_losses(compat.forward_by_mode(model, copied(data), 'loss'))[0]
        expected.append(float(loss))
    scalars = runner.message_hub.log_scalars
    found = [scalars[f'train/loss_{name}'].data[0][0] for name in ('tinynet', 'sampled')]
    assert found == pytest.approx(expected, rel=1e-4)
    assert record['loss'].tolist() == pytest.approx(expected[1:], rel=1e-4)
    assert record['iteration'].tolist() == [0]


def test_killed_and_resumed_around_a_budget(task, tmp_path):
    sampler = dict(type='mmpse.BudgetSampler', budget=dict(flops='60%'))
    options = dict(fullnet=False, tinynet=False, sampler=sampler, teacher=dict(every=1))
    cfg = task('classification', epochs=4, **options)
    results = []
    for name, kill_at in (('whole', None), ('killed', 5)):
        cfg.work_dir = str(tmp_path / name)
        runner, hook = runner_of(cfg)
        if kill_at is not None:
            runner.register_hook(Watch(hook, kill_at, stop=True))
            with pytest.raises(Stop):
                runner.train()
            torch.manual_seed(999)
            cfg.resume, cfg.load_from = True, None
            runner, hook = runner_of(cfg)
        runner.train()
        results.append((runner.model.state_dict(), hook.record.state_dict()))
    for first, second in zip(*results):
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert len(results[0][1]['loss']) == 4 * 2 * 2


def test_frozen_norms_normalise_by_group_and_track_nothing(task):
    cfg = task('detection', images=8)
    cfg.model.backbone.update(norm_eval=True, frozen_stages=1)
    runner, hook = runner_of(cfg)
    watch = Watch(hook)
    runner.register_hook(watch)
    modes = []
    watch.after_train_iter = lambda *args, **kwargs: modes.extend(
        norm.training for norm in hook.supernet.norms
    )
    runner.train()
    assert modes and all(modes)
    for key, value in runner.model.state_dict().items():
        if 'running' in key:
            assert torch.equal(value, watch.state[key]), key


@pytest.mark.parametrize('serial', [True, False], ids=['serial', 'parallel'])
def test_the_fullnet_teaches_in_place(task, serial):
    """A step is that of the cut subnets, which learn from the scores of the whole model."""
    cfg = task('classification', images=8, n=2, serial=serial, distillation=dict(temperature=2.0))
    cfg.optim_wrapper.update(accumulative_counts=2 if serial else 1)
    cfg.optim_wrapper.optimizer.lr = 1.0
    runner, hook = runner_of(cfg)
    watch = Watch(hook)
    runner.register_hook(watch)
    runner.train()
    space, layout = hook.supernet.space, hook.supernet.layout
    full, tiny = build_model(cfg), build_model(cfg)
    for model in (full, tiny):
        model.load_state_dict(watch.state)
        model.train()
    cut_(tiny, layout, space.tinynet)
    data = [watch.data, watch.data]
    if not serial:
        data = [{key: value[g::2] for key, value in watch.data.items()} for g in range(2)]
    of_labels = full.parse_losses(compat.forward_by_mode(full, data[0], 'loss'))[0]
    with torch.no_grad():  # the fullnet sees the whole batch
        taught = full(watch.data['inputs'], mode='tensor')
    taught = taught if serial else taught[1::2]
    scores = tiny(data[1]['inputs'], mode='tensor')
    logs = [(x / 2).log_softmax(1) for x in (scores, taught)]
    of_teacher = 4 * (logs[1].exp() * (logs[1] - logs[0])).sum(1).mean()
    ((of_labels + of_teacher) / 2).backward()
    for (key, p), own in zip(runner.model.named_parameters(), tiny.parameters(), strict=True):
        expected = full.get_parameter(key).grad
        expected[tuple(slice(0, n) for n in own.shape)] += own.grad
        step = watch.state[key] - p.detach()
        assert (step - expected).norm() <= 1e-2 * expected.norm(), key


@pytest.mark.parametrize('name', ['classification', 'detection', 'segmentation'])
def test_a_checkpoint_carries_its_supernet(task, name, monkeypatch):
    cfg = task(name, images=8, epochs=2, grids={'backbone.layer4.*': dict(ratios=[0.5])})
    runner, hook = runner_of(cfg)
    runner.train()
    content = torch.load(f'{cfg.work_dir}/epoch_2.pth', weights_only=False)
    with monkeypatch.context() as watching:
        watching.setattr('mmpse.openmmlab.supernet.building.look', None)  # nothing is watched
        supernet, costs = supernet_of(build_model(cfg), content, cfg, (3, 128, 128))
    layout, space = hook.supernet.layout, hook.supernet.space
    assert supernet.space.units == space.units and supernet.space.backbone == space.backbone
    for key in ('units', 'layers', 'parts', 'resizes', 'leaky'):
        assert getattr(supernet.layout, key) == getattr(layout, key), key
    # of a new model: a norm that tracks nothing computes more
    expected = whole_costs(build_model(cfg), layout, space, (3, 128, 128))
    widths = space.array([space.fullnet, space.tinynet])
    for key, cost in costs.items():
        assert cost(widths).tolist() == expected[key](widths).tolist()


def test_any_checkpoint_is_of_a_supernet(task):
    cfg = task('classification')
    content = torch.load(cfg.load_from, weights_only=False)
    supernet, _ = supernet_of(build_model(cfg), content, cfg, (3, 32, 32))
    assert supernet.space.fullnet['backbone.layer4.0.conv1'] == 128


def test_units_that_run_on_regions_stay_whole():
    model = build(faster_rcnn(), 'mmdet').eval()
    supernet, costs = find_supernet(model, Config(dict(model={})), dict(divisor=4), (3, 64, 64))
    space = supernet.space
    assert supernet.held and all(name.startswith('roi_head') for name in supernet.held)
    for unit in space.units:
        assert (len(unit.candidates) == 1) == (unit.name in supernet.held)
    supernet.activate([space.tinynet])
    tiny, full = costs['flops'](space.array([space.tinynet, space.fullnet]))
    assert tiny < full


def classifier(**changes):
    cfg = Config.fromfile(compat.config_path('mmpretrain::resnet/resnet18_8xb16_cifar10.py'))
    cfg.merge_from_dict({'model.backbone.base_channels': 8, 'model.backbone.stem_channels': 8})
    head = dict(_delete_=True, type='LinearClsHead', num_classes=5, in_channels=64)
    cfg.merge_from_dict({'model.head': head, 'load_from': None})
    cfg.merge_from_dict(changes)
    return build_model(cfg), Config(dict(model={}))


def test_a_head_that_cannot_be_masked_is_run_sliced():
    csra = dict(_delete_=True, type='CSRAClsHead', num_heads=1, lam=0.1)
    csra.update(num_classes=5, in_channels=64)
    model, cfg = classifier(**{'model.neck': None, 'model.head': csra})
    assert find_supernet(model, cfg, {}, (3, 64, 64))[0].executions == ('sliced',)
    with pytest.raises(GuardError, match=r'masked .* behind head\.csra_heads\.0\.head'):
        find_supernet(model, cfg, {}, (3, 64, 64), 'masked')


def test_gradient_checkpointing_is_run_masked():
    model, cfg = classifier(**{'model.backbone.with_cp': True})
    assert find_supernet(model, cfg, {}, (3, 64, 64))[0].executions == ('masked',)
    with pytest.raises(ValueError, match="with_cp=True .* execution='masked'"):
        find_supernet(model, cfg, {}, (3, 64, 64), 'sliced')
