"""Stage-wise training in MMEngine's runner, and the stage-wise search."""

import copy
import datetime

import numpy as np
import pytest
import torch
from conftest import ROOT, small
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from test_supernet_hook import Killer, Stop, build, supernet_hook
from torch import multiprocessing

from mmpse.models import SlimmableMobileNetV2, StageWiseClassifier
from mmpse.openmmlab.search.archive import ArchiveError, read_archive
from mmpse.openmmlab.search.judge import Judge
from mmpse.openmmlab.stagewise.judge import StageJudge
from mmpse.openmmlab.supernet.record import relative_losses
from mmpse.space import Subnet

STAGES = [
    ['conv1', 'layer1', 'layer2'],
    ['layer3', 'layer4', 'layer5', 'layer6'],
    ['layer7', 'conv2'],
]
SMALL = dict(stages=STAGES, candidates=25, joined=4, batches=1, calibration=1)


@pytest.fixture
def swp_supernet_cfg(digits, tmp_path):
    return small(ROOT / 'configs/quickstart/swp-supernet_mobilenet-v2_digits.py', digits, tmp_path)


@pytest.fixture
def swp_search_cfg(digits, tmp_path):
    cfg = small(ROOT / 'configs/quickstart/swp-search_mobilenet-v2_digits.py', digits, tmp_path)
    cfg.train_cfg.update(SMALL)
    return cfg


# Training


def test_killed_and_resumed_training_is_never_killed(swp_supernet_cfg, tmp_path):
    results = []
    for name, kill_at in (('whole', None), ('killed', 5)):
        swp_supernet_cfg.work_dir = str(tmp_path / name)
        runner = build(swp_supernet_cfg)
        assert type(runner.model) is StageWiseClassifier
        if kill_at is not None:
            runner.register_hook(Killer(kill_at))
            with pytest.raises(Stop):
                runner.train()
            torch.manual_seed(999)
            np.random.seed(999)
            swp_supernet_cfg.resume = True
            runner = build(swp_supernet_cfg)
        runner.train()
        results.append((runner.model.state_dict(), supernet_hook(runner).record.state_dict()))
    (weights, record), (resumed_weights, resumed_record) = results
    assert all(torch.equal(weights[key], resumed_weights[key]) for key in weights)
    assert all(torch.equal(record[key], resumed_record[key]) for key in record)
    assert len(record['loss']) == 4 * 2 * 3  # epochs, batches, drawn subnets
    assert np.isfinite(relative_losses(record)[1]).all()
    scalars = runner.message_hub.log_scalars
    assert {'train/loss', 'train/loss_tinynet', 'train/loss_sampled'} <= scalars.keys()
    stages = sum(scalars[f'train/loss_{stage.name}'].current() for stage in runner.model.stages)
    of_subnets = [scalars[f'train/loss_{name}'].current() for name in ('tinynet', 'sampled')]
    assert stages == pytest.approx(np.average(of_subnets, weights=[1, 3]), rel=1e-4)


@pytest.mark.parametrize('hook', [dict(n=4, serial=True), dict(distillation=dict())])
def test_what_stage_wise_training_cannot_be_combined_with(swp_supernet_cfg, hook):
    swp_supernet_cfg.optim_wrapper.accumulative_counts = 4
    with pytest.raises(ValueError, match='serial=False, distillation=None and teacher=None'):
        build(swp_supernet_cfg, **hook).train()


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
    model = StageWiseClassifier(
        backbone=SlimmableMobileNetV2(widen_factor=0.1),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=5, in_channels=1280),
    )
    space = model.backbone.search_space
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
        with getattr(model, 'module', model).backbone.active([space.tinynet, space.uniform(0.5)]):
            model.train_step(part, wrapper)
    if rank == world - 1:
        weights = getattr(model, 'module', model).named_parameters()
        torch.save({name: p.detach() for name, p in weights}, results)
    torch.distributed.destroy_process_group()


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
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('supernets')


@pytest.fixture
def checkpoint(folder, swp_supernet_cfg):
    """A stage-wise supernet trained for one epoch."""
    return trained(swp_supernet_cfg, folder / 'stagewise')


@pytest.fixture
def parallel_checkpoint(folder, supernet_cfg):
    return trained(supernet_cfg, folder / 'parallel')


def trained(cfg, folder):
    path = folder / 'epoch_1.pth'
    if not path.exists():
        cfg.work_dir = str(folder)
        build(cfg, max_epochs=1).train()
    return str(path)


def search(cfg, checkpoint, **options):
    cfg = copy.deepcopy(cfg)
    cfg.load_from = checkpoint
    cfg.merge_from_dict(options)
    cfg.experiment_name = f'{id(cfg)}'
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.train_loop


def test_search_joins_the_best_stages_within_the_budget(swp_search_cfg, checkpoint):
    loop = search(swp_search_cfg, checkpoint)
    judged = read_archive(f'{swp_search_cfg.work_dir}/archive.db')
    assert [row.origin for row in judged] == ['joined'] * 4
    assert all(row.resources['flops'] <= loop.budget.high for row in judged)
    best = Subnet.load(f'{swp_search_cfg.work_dir}/best_subnet.json')
    loop.space.validate(best)
    assert best.source['score'] == max(row.score for row in judged)

    rows = read_archive(f'{swp_search_cfg.work_dir}/stages.db')
    distance = {row.widths: -row.score for row in rows}
    masks = [[name in stage.units for name in loop.space.names] for stage in loop.stages]
    for k, mask in enumerate(masks):
        of_stage = [row for row in rows if row.generation == k]
        sizes = loop.space.restricted_to(loop.stages[k].units).size
        assert len(of_stage) == min(2 * 25, sizes)  # two rounds
        assert all(np.array_equal(np.array(row.widths) > 0, mask) for row in of_stage)

    def total(widths):
        return sum(distance[tuple(map(int, np.where(mask, widths, 0)))] for mask in masks)

    assert total(tuple(loop.space.fullnet.values())) == pytest.approx(0, abs=1e-4)
    totals = [total(row.widths) for row in judged]
    assert totals == sorted(totals)
    # the uniform subnets were among those to be joined
    uniform = {tuple(loop.space.uniform(r).values()) for r in np.arange(0, 1, 0.05)}
    known = [w for w in uniform if loop.within(np.array([w]))[0]]
    assert known and totals[0] <= min(map(total, known))


def test_mixed_precision_judges_stages_too(swp_search_cfg, checkpoint, tmp_path):
    found = []
    for fp16 in (False, True):
        swp_search_cfg.work_dir = str(tmp_path / str(fp16))
        search(swp_search_cfg, checkpoint, **{'val_cfg.fp16': fp16})
        rows = read_archive(f'{swp_search_cfg.work_dir}/stages.db')
        found.append({row.widths: -row.score for row in rows if row.generation == 0})
    plain, mixed = found  # the second round depends on the distances of the first
    both = [widths for widths in plain if widths in mixed]
    values = [[distance[widths] for widths in both] for distance in found]
    assert len(both) >= 25 and values[0] != values[1]
    assert values[1] == pytest.approx(values[0], rel=0.1, abs=0.02)


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


def test_killed_search_resumes_to_the_same_result(
    swp_search_cfg, checkpoint, tmp_path, monkeypatch
):
    results = []
    for name in ('whole', 'killed'):
        swp_search_cfg.work_dir = work_dir = str(tmp_path / name)
        resume = False
        if name == 'killed':
            for target, calls in ((StageJudge, 40), (Judge, 2)):
                with monkeypatch.context() as patch, pytest.raises(Stop):
                    Dying(patch, target, calls)
                    search(swp_search_cfg, checkpoint, resume=resume)
                resume = True
        search(swp_search_cfg, checkpoint, resume=resume)
        results.append(
            [read_archive(f'{work_dir}/{name}.db') for name in ('stages', 'archive')]
            + [Subnet.load(f'{work_dir}/best_subnet.json')]
        )
    assert results[0] == results[1]
    # batch statistics are part of the distances
    with pytest.raises(ArchiveError, match=r'judged in another way \(batch_size: 32 there, 16'):
        search(swp_search_cfg, checkpoint, resume=True, **{'val_dataloader.batch_size': 16})


def test_each_search_takes_the_supernets_of_both_trainings(
    swp_search_cfg, search_cfg, checkpoint, parallel_checkpoint
):
    loop = search(swp_search_cfg, parallel_checkpoint, **{'train_cfg.budget.params': '40%'})
    assert len(loop.history) == 4
    limit = loop.budget.others['params'][1]  # further limits hold too
    assert all(row.resources['params'] <= limit for row in loop.history.values())
    search_cfg.train_cfg.update(population=3, generations=2, parents=2, mutants=1, calibration=2)
    loop = search(search_cfg, checkpoint)
    assert {row.origin for row in loop.history.values()} >= {'uniform', 'prior'}
    # the prior knows the distances of the training's subnets
    probabilities = loop.prior.distribution.probabilities
    loop.prepare({})
    assert not np.allclose(probabilities, loop.prior.distribution.probabilities)


def test_arguments_that_a_search_cannot_use(swp_search_cfg, checkpoint):
    for name, value, message in (
        ('stages', STAGES[:2], 'layer7, conv2 in no stage'),
        ('joined', 0, 'joined must be a whole number from 1 on, got 0'),
    ):
        with pytest.raises(ValueError, match=message):
            search(swp_search_cfg, checkpoint, **{f'train_cfg.{name}': value})
