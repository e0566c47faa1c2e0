"""Stage-wise training in MMEngine's runner, and the stage-wise search."""

import copy
import datetime

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from search_runs import Killer, Stop, fresh_name
from torch import multiprocessing

from mmpse.openmmlab.models.pruned import look
from mmpse.openmmlab.search.judge import Judge
from mmpse.openmmlab.stagewise.stages import StageJudge
from mmpse.openmmlab.supernet.building import whole_supernet
from mmpse.openmmlab.supernet.record import relative_losses
from mmpse.registry import MODELS
from mmpse.search.archive import ArchiveError, read_archive
from mmpse.space import Subnet

ENDS = ['layer2', 'layer3']
SETTINGS = dict(type='mmpse.StageWiseSearchLoop', candidates=25, joined=4, batches=1)


def hook_of(runner):
    return next(h for h in runner.hooks if type(h).__name__ == 'SupernetHook')


def build(cfg):
    cfg = copy.deepcopy(cfg)
    cfg.experiment_name = fresh_name()
    return Runner.from_cfg(cfg)


# Training


def training_cfg(small_supernet, work_dir, **hook):
    cfg = Config.fromfile(small_supernet / 'config.py')
    cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
    cfg.model.update(type='mmpse.StageWiseClassifier', stages=ENDS)
    cfg.train_cfg.max_epochs = 2
    cfg.train_dataloader.update(batch_size=12)
    cfg.randomness = dict(seed=0)
    hook = dict(dict(n=4, fullnet=False, execution='sliced', divisor=2), **hook)
    cfg.custom_hooks = [dict(type='mmpse.SupernetHook', **hook)]
    cfg.work_dir = str(work_dir)
    return cfg


def test_killed_and_resumed_training_is_never_killed(small_supernet, tmp_path):
    results = []
    for name, kill_at in (('whole', None), ('killed', 5)):
        cfg = training_cfg(small_supernet, tmp_path / name)
        runner = build(cfg)
        if kill_at is not None:
            runner.register_hook(Killer(kill_at))
            with pytest.raises(Stop):
                runner.train()
            torch.manual_seed(999)
            np.random.seed(999)
            cfg.resume = True
            runner = build(cfg)
        runner.train()
        results.append((runner.model.state_dict(), hook_of(runner).record.state_dict()))
    (weights, record), (resumed_weights, resumed_record) = results
    assert all(torch.equal(weights[key], resumed_weights[key]) for key in weights)
    assert all(torch.equal(record[key], resumed_record[key]) for key in record)
    assert len(record['loss']) == 2 * 4 * 3  # epochs, batches, drawn subnets
    assert np.isfinite(relative_losses(record)[1]).all()
    scalars = runner.message_hub.log_scalars
    assert {'train/loss', 'train/loss_tinynet', 'train/loss_sampled'} <= scalars.keys()
    stages = sum(scalars[f'train/loss_{name}'].current() for name in (*ENDS, 'scores'))
    of_subnets = [scalars[f'train/loss_{name}'].current() for name in ('tinynet', 'sampled')]
    assert stages == pytest.approx(np.average(of_subnets, weights=[1, 3]), rel=1e-4)


@pytest.mark.parametrize('hook', [dict(n=4, serial=True), dict(distillation=dict())])
def test_what_stage_wise_training_cannot_be_combined_with(small_supernet, tmp_path, hook):
    cfg = training_cfg(small_supernet, tmp_path, **hook)
    cfg.optim_wrapper.accumulative_counts = 4
    cfg.custom_hooks[0].fullnet = True
    with pytest.raises(ValueError, match='serial=False, distillation=None and teacher=None'):
        build(cfg).train()


def ddp_step(rank: int, world: int, file: str, results) -> None:
    """One step of a process; the last one reports the weights."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo',
        init_method=f'file://{file}',
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(
                type='mmpse.StageWiseClassifier',
                backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=5, in_channels=64),
            )
        )
    supernet = whole_supernet(model, look(model, parts=model.stages.parts)[0])
    model.supernet, space = supernet, supernet.space
    data = [  # what each process sees; alone, a process sees them one after the other
        dict(
            inputs=torch.randn(4, 3, 32, 32),
            data_samples=[DataSample().set_gt_label(k % 5) for k in range(4)],
        )
        for _ in range(2)
    ]
    wrapper = OptimWrapper(
        torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=2 // world
    )
    if world > 1:
        model = MMDistributedDataParallel(model, broadcast_buffers=False)
    for part in data[rank::world]:
        with supernet.active([space.tinynet, space.uniform(0.5)]):
            model.train_step(part, wrapper)
    if rank == world - 1:
        weights = getattr(model, 'module', model).named_parameters()
        torch.save({name: p.detach() for name, p in weights}, results)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_average_their_stages_gradients(tmp_path):
    for world in (1, 2):
        files = str(tmp_path / f'store{world}'), str(tmp_path / f'weights{world}.pth')
        multiprocessing.start_processes(
            ddp_step, (world, *files), nprocs=world, start_method='spawn'
        )
    alone, together = (torch.load(tmp_path / f'weights{world}.pth') for world in (1, 2))
    for name, value in alone.items():
        assert torch.allclose(together[name], value, rtol=1e-4, atol=1e-5), name


# Search


@pytest.fixture(scope='module')
def checkpoint(small_supernet, tmp_path_factory):
    """A stage-wise supernet trained for two epochs."""
    folder = tmp_path_factory.mktemp('stagewise')
    build(training_cfg(small_supernet, folder)).train()
    return str(folder / 'epoch_2.pth')


@pytest.fixture
def stage_search(small_search, checkpoint):
    cfg = small_search
    kept = {key: cfg.train_cfg[key] for key in ('budget', 'metric', 'calibration')}
    cfg.train_cfg = dict(SETTINGS, stages=ENDS, **kept)
    cfg.load_from = checkpoint
    return cfg


def search(cfg, **options):
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(options)
    runner = build(cfg)
    runner.train()
    return runner.train_loop


def test_search_joins_the_best_stages_within_the_budget(stage_search):
    loop = search(stage_search)
    judged = read_archive(f'{stage_search.work_dir}/archive.db')
    joined = [row for row in judged if row.generation]
    assert all(row.resources['flops'] <= loop.budget.high for row in joined)
    best = Subnet.load(f'{stage_search.work_dir}/best_subnet.json')
    assert all(best[unit.name] in unit.candidates for unit in loop.space.units)

    rows = read_archive(f'{stage_search.work_dir}/stages.db')
    assert len(rows) == 2 * 25  # two rounds
    units = loop.stages.units(loop.supernet.layout)
    places = [[loop.space.names.index(name) for name in own] for own in units]
    distance = {
        (k, tuple(np.array(row.widths)[own])): row.parts[k]
        for row in rows
        for k, own in enumerate(places)
    }

    def total(widths):
        return sum(distance[k, tuple(np.array(widths)[own])] for k, own in enumerate(places))

    assert total(loop.fullnet) == pytest.approx(0, abs=1e-4)
    totals = [total(widths) for widths in loop._joined]
    assert totals == sorted(totals) and len(totals) == 4
    assert totals[0] <= min(-r.score for r in rows if loop.within(np.array([r.widths]))[0])
    assert {row.widths for row in joined} <= {tuple(row) for row in loop._joined.tolist()}


def test_a_stage_has_one_distance_whatever_the_others_are(stage_search):
    loop = search(stage_search)
    judge = StageJudge(loop.stages, loop._supernet(), loop._images())
    space, units = loop.space, loop.stages.units(loop.supernet.layout)
    tiny, full = judge(space.tinynet), judge(space.fullnet)
    for k, own in enumerate(units):
        mixed = space.subnet(
            [(space.tinynet if n in own else space.fullnet)[n] for n in space.names]
        )
        assert judge(mixed)[k] == pytest.approx(tiny[k], rel=1e-4)
    assert max(full) < 1e-4 < min(tiny)


def test_the_images_of_stages_are_spread_over_the_split(stage_search):
    """They may lie in the order of the classes: a batch of the first ones would be of one class."""
    stage_search.val_dataloader.batch_size = 10
    stage_search.train_cfg.batches = 2
    loop = build(stage_search).build_train_loop(stage_search.train_cfg)
    dataset = loop.runner.val_loop.dataloader.dataset
    assert len(dataset) == 32
    first, second = loop._images()
    preprocess = loop.supernet.model.data_preprocessor
    for images, numbers in ((first, range(0, 20, 2)), (second, range(1, 20, 2))):
        expected = [dataset[k * 32 // 20]['inputs'] for k in numbers]
        assert torch.equal(images, preprocess(dict(inputs=expected))['inputs'])


def test_mixed_precision_judges_stages_too(stage_search, tmp_path):
    found = []
    for fp16 in (False, True):
        stage_search.work_dir = str(tmp_path / str(fp16))
        search(stage_search, **{'val_cfg.fp16': fp16, 'train_cfg.rounds': 1})
        found.append([row.parts for row in read_archive(f'{stage_search.work_dir}/stages.db')])
    plain, mixed = map(np.array, found)
    assert (plain != mixed).any()
    np.testing.assert_allclose(mixed, plain, rtol=0.1, atol=0.02)


class Dying:
    """Lets a few calls through, and then raises."""

    def __init__(self, monkeypatch, target, calls):
        self.left, call = calls, target.__call__

        def dying(judge, *args):
            if not self.left:
                raise Stop
            self.left -= 1
            return call(judge, *args)

        monkeypatch.setattr(target, '__call__', dying)


def test_killed_search_resumes_to_the_same_result(stage_search, tmp_path, monkeypatch):
    results = []
    for name in ('whole', 'killed'):
        stage_search.work_dir = work_dir = str(tmp_path / name)
        resume = False
        if name == 'killed':
            for target, calls in ((StageJudge, 30), (Judge, 2)):
                with monkeypatch.context() as patch, pytest.raises(Stop):
                    Dying(patch, target, calls)
                    search(stage_search, resume=resume)
                resume = True
        search(stage_search, resume=resume)
        results.append(
            [read_archive(f'{work_dir}/{name}.db') for name in ('stages', 'archive')]
            + [Subnet.load(f'{work_dir}/best_subnet.json')]
        )
    assert results[0] == results[1]
    # batch statistics are part of the distances
    with pytest.raises(ArchiveError, match=r'judged in another way \(batch_size: '):
        search(stage_search, resume=True, **{'val_dataloader.batch_size': 4})


def test_each_search_takes_the_supernets_of_both_trainings(
    stage_search, small_search, small_supernet, checkpoint, tmp_path
):
    """Stages need not be those of the training, and further limits hold too."""
    train_cfg = dict(stage_search.train_cfg, stages=None)
    small_search.train_cfg.budget = dict(flops='50%')
    stage_search.update(train_cfg=train_cfg, load_from=str(small_supernet / 'epoch_2.pth'))
    loop = search(stage_search, **{'train_cfg.budget.params': '40%'})
    limit = loop.budget.limits['params'][1]
    rows = [row for row in loop.history.values() if row.origin == 'joined']
    assert rows and all(row.resources['params'] <= limit for row in rows)


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('stages', ['layer9'], "'layer9'"),
        ('joined', 0, 'joined must be a whole number from 1 on, got 0'),
    ],
)
def test_arguments_that_a_search_cannot_use(stage_search, name, value, message):
    with pytest.raises(ValueError, match=message):
        search(stage_search, **{f'train_cfg.{name}': value})
