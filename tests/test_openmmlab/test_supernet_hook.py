import copy
from contextlib import nullcontext
from itertools import pairwise
from types import SimpleNamespace

import mmpretrain.models
import numpy as np
import pytest
import torch
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from search_runs import Killer, Stop, fresh_name, log_of
from torch.utils.data import DataLoader

from mmpse.openmmlab.seeding import SeedHook
from mmpse.openmmlab.supernet.checks import check_batches
from mmpse.openmmlab.supernet.drawing import Drawing
from mmpse.openmmlab.supernet.losses import SubnetLosses
from mmpse.openmmlab.supernet.record import LossRecord, relative_losses
from mmpse.search.around import BudgetSampler
from mmpse.slim import cut_
from mmpse.slim.functions import is_channels_last
from mmpse.space import Cost, SearchSpace


def test_a_resumed_training_draws_as_if_its_record_had_held_all(rng):
    """A checkpoint has the latest losses alone, at large scale fewer than a stage has."""
    space = SearchSpace({f'u{k}': 64 for k in range(4)}, dict(type='Net'))
    cost = Cost(space.names)
    for one, other in pairwise(space.names):
        cost.add(1, one, other)

    def drawing(resumed=None):
        sampler = BudgetSampler(space, dict(flops=cost), dict(flops='40%'))
        return Drawing(space, sampler, 4, False, False, seed=0, resumed=resumed)

    iterations, record, live = 400, LossRecord(size=100), drawing()
    for iteration in range(380):  # 160 losses a stage
        live.narrow(iteration, iterations, record)
        rows = live.rows(0, iteration)
        record.extend(iteration, rows, (rng.lognormal(0, 0.1, 4) * 64 / rows[:, 0]).tolist())
    assert live.sampler.best is not None

    kept = LossRecord(size=100)
    kept.load_state_dict(record.state_dict())
    resumed = drawing(live.state())
    for iteration in (380, 399):
        live.narrow(iteration, iterations, record)
        resumed.narrow(iteration, iterations, kept)
        assert np.array_equal(resumed.rows(0, iteration), live.rows(0, iteration))
    assert np.array_equal(resumed.sampler.best, live.sampler.best)


class Watch(Hook):
    """Keeps what every iteration trained."""

    priority = 'VERY_LOW'

    def __init__(self, hook):
        self.hook, self.subnets = hook, {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.subnets[runner.iter] = self.hook.subnets.tolist()


def build(cfg, max_epochs=4, **hook):
    cfg = copy.deepcopy(cfg)
    cfg.custom_hooks[-1].update(hook)
    cfg.train_cfg.max_epochs = max_epochs
    cfg.default_hooks.checkpoint.interval = 1
    cfg.experiment_name = fresh_name()
    return Runner.from_cfg(cfg)


def supernet_hook(runner):
    return next(h for h in runner.hooks if type(h).__name__ == 'SupernetHook')


@pytest.mark.parametrize(
    'hook',
    [dict(execution='sliced'), dict(execution='masked'), dict(serial=True, distillation=dict())],
    ids=['sliced', 'masked', 'sandwich'],
)
def test_killed_and_resumed_is_never_killed(supernet_cfg, tmp_path, hook):
    if hook.get('serial'):
        supernet_cfg.optim_wrapper.accumulative_counts = 4
    results = []
    for name, kill_at in (('whole', None), ('killed', 5)):
        supernet_cfg.work_dir = str(tmp_path / name)
        runner = build(supernet_cfg, **hook)
        if kill_at is not None:
            runner.register_hook(Killer(kill_at))
            with pytest.raises(Stop):
                runner.train()
            torch.manual_seed(999)
            np.random.seed(999)
            supernet_cfg.resume = True
            runner = build(supernet_cfg, **hook)
        runner.train()
        results.append((runner.model.state_dict(), supernet_hook(runner).record.state_dict()))
    (weights, record), (resumed_weights, resumed_record) = results
    assert all(torch.equal(weights[key], resumed_weights[key]) for key in weights)
    assert all(torch.equal(record[key], resumed_record[key]) for key in record)
    assert len(record['loss']) == 4 * 2 * 2  # epochs, batches, drawn subnets


def test_iteration_based_training_resumes_to_the_same_weights(supernet_cfg, tmp_path):
    """The dropout of the first resumed iteration too."""
    supernet_cfg.model.head = dict(
        type='StackedLinearClsHead', in_channels=1280, mid_channels=[16], num_classes=10
    )
    supernet_cfg.model.head.dropout_rate = 0.5
    supernet_cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    supernet_cfg.default_hooks.checkpoint.update(by_epoch=False, save_last=False)
    weights = []
    for name, iterations in (('whole', [4]), ('resumed', [2, 4])):
        supernet_cfg.work_dir = str(tmp_path / name)
        for number, max_iters in enumerate(iterations):
            supernet_cfg.train_cfg = dict(by_epoch=False, max_iters=max_iters)
            supernet_cfg.resume = number > 0
            cfg = copy.deepcopy(supernet_cfg)
            cfg.custom_hooks[-1].execution = 'sliced'
            cfg.experiment_name = fresh_name()
            runner = Runner.from_cfg(cfg)
            runner.train()
        weights.append(runner.model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_resumed_run_is_not_sorted_again(supernet_cfg, tmp_path):
    public = str(tmp_path / 'public.pth')
    torch.save(mmpretrain.models.MobileNetV2(widen_factor=0.35).state_dict(), public)
    supernet_cfg.model.init_cfg = dict(type='mmpse.WarmStart', checkpoint=public, sort='l2')
    weights = []
    for name, epochs in (('whole', [2]), ('resumed', [1, 2])):
        supernet_cfg.work_dir = str(tmp_path / name)
        for max_epochs in epochs:
            supernet_cfg.resume = max_epochs == 2 and len(epochs) == 2
            runner = build(supernet_cfg, max_epochs=max_epochs)
            runner.train()
        weights.append(runner.model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    start = torch.load(public)['conv2.conv.weight'].flatten(1).norm(dim=1)
    end = weights[0]['backbone.conv2.conv.weight'].flatten(1).norm(dim=1)
    assert torch.allclose(end, start.sort(descending=True).values, rtol=0.1)


def test_both_executions_train_the_same(supernet_cfg, tmp_path):
    weights = []
    for execution in ('sliced', 'masked'):
        supernet_cfg.work_dir = str(tmp_path / execution)
        runner = build(supernet_cfg, max_epochs=1, execution=execution)
        runner.model.double()
        runner.model.data_preprocessor.float()
        register_double_input(runner.model)
        runner.train()
        weights.append(runner.model.state_dict())
    for key in weights[0]:
        assert torch.allclose(weights[0][key], weights[1][key], rtol=1e-5, atol=1e-7), key


def register_double_input(model):
    model.backbone.register_forward_pre_hook(lambda module, args: (args[0].double(),))


def test_subnets_are_drawn_as_asked(supernet_cfg):
    runner = build(supernet_cfg, n=4)
    watch = Watch(supernet_hook(runner))
    runner.register_hook(watch)
    runner.train()
    supernet = supernet_hook(runner).supernet
    space = supernet.space
    full, tiny = space.array([space.fullnet, space.tinynet]).tolist()
    assert len(watch.subnets) == 8
    for rows in watch.subnets.values():
        assert rows[0] == full and rows[1] == tiny and rows[2] not in (full, tiny)
    assert len({str(rows) for rows in watch.subnets.values()}) == 8
    logged = runner.message_hub.log_scalars
    assert {'train/loss_fullnet', 'train/loss_tinynet', 'train/loss_sampled'} <= logged.keys()
    assert supernet.active_subnets == ()


def test_recorded_losses_are_those_of_the_groups(supernet_cfg):
    runner = build(supernet_cfg, n=4, fullnet=False, tinynet=False)
    seen = []

    class Independent(Hook):
        """Recomputes every group's loss with a static network before the step."""

        priority = 'LOWEST'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            model, hook = runner.model, supernet_hook(runner)
            data = model.data_preprocessor(data_batch, True)
            for g, row in enumerate(hook.subnets):
                static = copy.deepcopy(plain)
                static.load_state_dict(model.state_dict())
                cut_(static, hook.supernet.layout, hook.supernet.space.subnet(row)).train()
                with torch.no_grad():
                    losses = static.loss(data['inputs'][g::4], data['data_samples'][g::4])
                seen.append(losses['loss'].item())

    plain = copy.deepcopy(runner.model)
    runner.register_hook(Independent())
    runner.train()
    record = supernet_hook(runner).record.state_dict()
    assert record['loss'].tolist() == pytest.approx(seen, rel=1e-3, abs=1e-6)
    assert record['iteration'].tolist() == sorted(list(range(8)) * 4)


def test_fullnet_alone_trains_as_the_stock_network(supernet_cfg, tmp_path):
    runner = build(supernet_cfg, n=1, tinynet=False)
    runner.train()
    supernet_cfg.work_dir = str(tmp_path / 'stock')
    stock = build(supernet_cfg)
    stock._hooks = [h for h in stock.hooks if type(h).__name__ != 'SupernetHook']

    stock.register_hook(SeedHook())
    stock.train()
    ours, theirs = dict(runner.model.named_parameters()), dict(stock.model.named_parameters())
    for name in theirs:
        assert torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize(
    ('hook', 'loader', 'message'),
    [
        (dict(n=3), dict(), r'n=3 subnets cannot share a batch of 32 images'),
        (dict(n=64), dict(), r'n=64 subnets cannot share a batch of 32 images'),
        (dict(n=4), dict(batch_size=20, drop_last=False), 'set .*drop_last=True'),
        (dict(n=4), dict(batch_size=30, drop_last=True), 'a batch of 30 images'),
    ],
)
def test_batch_that_n_does_not_divide(supernet_cfg, hook, loader, message):
    if 'drop_last' in loader and not loader['drop_last']:
        supernet_cfg.train_dataloader.dataset.indices = 62  # the last batch has 2 images
    supernet_cfg.train_dataloader.update(loader)
    with pytest.raises(ValueError, match=message):
        build(supernet_cfg, **hook).train()


@pytest.mark.parametrize(
    ('sampler', 'drop_last', 'fits'),
    [(DefaultSampler, False, False), (DefaultSampler, True, True), (InfiniteSampler, False, True)],
)
def test_batches_of_a_batch_sampler(sampler, drop_last, fits):
    """mmdet's detectors have one, which groups images by their aspect ratio."""
    images = range(30)
    batches = AspectRatioBatchSampler(sampler(images), batch_size=8, drop_last=drop_last)
    runner = SimpleNamespace(train_dataloader=DataLoader(images, batch_sampler=batches))
    expected = nullcontext() if fits else pytest.raises(ValueError, match='batch of 6 images')
    with expected:
        check_batches(runner, 4, serial=False)


def test_empty_batch_is_named(supernet_cfg):
    runner = build(supernet_cfg)
    hook = supernet_hook(runner)
    hook.before_train(runner)
    with pytest.raises(ValueError, match='batch of rank 0 in iteration 0 is empty'):
        hook.before_train_iter(runner, 0, dict(inputs=[], data_samples=[]))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(n=0), 'n must be a positive whole number'),
        (dict(n=1), 'n=1 subnets cannot hold fullnet=True and tinynet=True'),
        (dict(execution='serial'), "must be one of .* got 'serial'"),
        (dict(groups=4), "unexpected keyword argument 'groups'"),
    ],
)
def test_bad_arguments(supernet_cfg, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build(supernet_cfg, **arguments)


def test_supernet_without_statistics_is_not_validated(supernet_cfg):
    supernet_cfg.update(val_cfg=dict(), val_dataloader=supernet_cfg.train_dataloader)
    supernet_cfg.val_evaluator = dict(type='Accuracy')
    with pytest.raises(ValueError, match='no BatchNorm statistics.*set val_cfg=val_dataloader'):
        build(supernet_cfg).train()


def test_missing_data_folder(supernet_cfg, tmp_path):
    supernet_cfg.train_dataloader.dataset.data_root = str(tmp_path / 'nowhere')
    with pytest.raises(FileNotFoundError, match='nowhere.*prepare_digits.py'):
        build(supernet_cfg).train()


def test_loss_that_is_not_a_number_names_the_subnet(supernet_cfg):
    class Spoil(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            torch.nn.init.constant_(runner.model.head.fc.bias, float('nan'))

    runner = build(supernet_cfg)
    runner.register_hook(Spoil())
    with pytest.raises(FloatingPointError, match=r'nan .*Subnet\(backbone.conv1.conv='):
        runner.train()


@pytest.mark.parametrize(
    ('scaled', 'iterations', 'ends'),
    [
        (False, [5], True),
        (True, [5, 6], False),
        (True, [*range(1, 10), *range(11, 20)], False),  # nine in a row, and nine again
        (True, range(3, 13), True),
    ],
)
def test_a_scaled_loss_may_overflow_now_and_then(
    supernet_cfg, monkeypatch, scaled, iterations, ends
):
    runner = build(supernet_cfg, max_epochs=10, execution='sliced')
    of_subnets = SubnetLosses.of_subnets

    def overflowing(self):
        losses = of_subnets(self)
        if runner.iter in iterations:
            losses[2] = float('inf')
        return losses

    monkeypatch.setattr(SubnetLosses, 'of_subnets', overflowing)
    if scaled:
        monkeypatch.setattr(OptimWrapper, 'loss_scaler', 'that of AmpOptimWrapper', raising=False)
    if ends:
        with pytest.raises(FloatingPointError, match='loss of a subnet is inf in iteration'):
            runner.train()
        assert runner.iter == list(iterations)[-1]
    else:
        runner.train()
        record = supernet_hook(runner).record.state_dict()
        assert len(record['loss']) == 2 * 20 - len(iterations)
        assert torch.isfinite(record['loss']).all()


@pytest.mark.parametrize(('execution', 'tunes'), [('sliced', False), ('masked', True)])
def test_cudnn_does_not_tune_for_shapes_that_change(supernet_cfg, execution, tunes):
    supernet_cfg.env_cfg.cudnn_benchmark = True
    supernet_cfg.log_level = 'INFO'
    runner = build(supernet_cfg, max_epochs=1, execution=execution)
    try:
        assert torch.backends.cudnn.benchmark
        runner.train()
        assert torch.backends.cudnn.benchmark == tunes
    finally:
        torch.backends.cudnn.benchmark = False
    assert ('cudnn_benchmark is switched off' in log_of(runner)) != tunes


def test_channels_last_hook_lays_out_weights_and_features(supernet_cfg):
    runner = build(supernet_cfg, max_epochs=1)
    layouts = []

    def watch(module, args, feature):
        if module.training:  # not while the model is looked at
            layouts.append(feature.is_contiguous(memory_format=torch.channels_last))

    runner.model.backbone.conv2.register_forward_hook(watch)
    runner.train()
    weight = runner.model.backbone.conv1.conv.weight
    assert is_channels_last(weight) and layouts and all(layouts)


def test_loss_record_is_bounded_and_relative():
    record = LossRecord(size=10)
    for k in range(100):
        record.extend(k, np.full((2, 3), 8), [10.0, 10.0])
    state = record.state_dict()
    assert len(state['loss']) == 10 and state['iteration'].tolist()[-1] == 99
    widths, losses = relative_losses(state)
    assert widths.shape == (10, 3) and losses.tolist() == [1.0] * 10
    again = LossRecord(size=10)
    again.load_state_dict(state)
    for r in (record, again):
        r.extend(100, np.full((1, 3), 8), [5.0])
    assert all(torch.equal(a, again.state_dict()[k]) for k, a in record.state_dict().items())
