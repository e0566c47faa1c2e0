"""The evolutionary search: its results, how it goes on after a kill, what it refuses."""

import functools
import hashlib
import json
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from search_runs import log_of, search

from mmpse.openmmlab.checkpoints.supernet import file_digest
from mmpse.openmmlab.deploy import latency
from mmpse.openmmlab.deploy.latency import latency_cost
from mmpse.openmmlab.search.judge import Judge, Verdict
from mmpse.resources.timing import Latencies
from mmpse.search.archive import Archive, ArchiveError, read_archive
from mmpse.space import BudgetError, Subnet


@pytest.fixture
def cfg(small_search):
    return small_search


def test_search_writes_the_best_subnet_inside_the_budget(cfg):
    runner = search(cfg, log_level='INFO')
    loop, judged = runner.train_loop, read_archive(f'{cfg.work_dir}/archive.db')
    references, others = judged[:2], judged[2:]
    assert len(others) == 18 and len({row.widths for row in judged}) == 20
    assert [row.origin for row in references] == ['fullnet', 'uniform']
    assert [row.widths for row in references] == [loop.fullnet, loop.uniform]
    judged = judged[1:]  # the fullnet is beyond the budget
    best = Subnet.load(f'{cfg.work_dir}/best_subnet.json')
    assert all(best[unit.name] in unit.candidates for unit in loop.space.units)
    highest = max(row.score for row in judged)
    loss = min(row.loss for row in judged if row.score == highest)
    assert (best.source['score'], best.source['loss']) == (highest, loss)
    top = json.loads(open(f'{cfg.work_dir}/topk.json').read())
    assert Subnet.load(top[0]) == best and len(top) == 10
    scores = [subnet['source']['score'] for subnet in top]
    assert scores == sorted((row.score for row in judged), reverse=True)[:10]
    for row in others:
        assert loop.budget.low <= row.resources['flops'] <= loop.budget.high
    assert {row.origin for row in judged} == {'uniform', 'prior', 'mutation', 'crossover'}
    log = log_of(runner)
    space, budget = loop.space, loop.budget
    tiny, full = budget.cost(space.array([space.tinynet, space.fullnet]))
    for text in (
        f'search space: {len(space)} units, {space.size:.3g} subnets',
        f'flops: {tiny:,} (tinynet), ',
        f'{full:,} (fullnet)',
        f'the budget can be met: {budget.low:,.0f} to {budget.high:,.0f} FLOPs',
        'EvolutionSearchLoop: 18 subnets to judge in 1 process; the archive holds 0',
        f'references: 2 judged, accuracy/top1 fullnet {references[0].score:.4f}, uniform ',
        's a subnet, ETA',
    ):
        assert text in log, text
    # four lines: the references and three generations
    lines = [line for line in log.splitlines() if ' judged, accuracy/top1 ' in line]
    assert len(lines) == 4 and f'best {highest:.4f}' in lines[-1]
    scalars = Path(runner.log_dir, 'vis_data/scalars.json').read_text().splitlines()
    last = json.loads(scalars[-1])
    assert last['search/best'] == pytest.approx(highest, abs=1e-3) and last['step'] == 20
    content = json.loads(open(f'{cfg.work_dir}/best_subnet.json').read())
    assert content['source']['checkpoint'] == cfg.load_from
    assert len(content['source']['checkpoint_sha256']) == 64


@pytest.fixture
def measured(monkeypatch):
    """Times go by the number of a subnet's weights; the fixture counts the measurements."""
    measured = []

    def measure(calls, rounds, track):
        measured.append(len(calls))
        return Latencies({name: [1e-9 * call() + 1e-5] * rounds for name, call in calls.items()})

    def prepared(model, images, runtime):
        return lambda: sum(p.numel() for p in model.parameters())

    monkeypatch.setattr(latency, 'measure_latencies', measure)
    monkeypatch.setattr(latency, 'prepared', prepared)
    return measured


def test_search_within_flops_and_latency(cfg, tmp_path, measured):
    """Latency is measured once, kept in the work dir, and taken from there or from a file."""
    options = {'train_cfg.budget': dict(flops='60%', latency='70%')}
    loop = search(cfg, **options).train_loop
    assert len(measured) == 1
    judged = read_archive(f'{cfg.work_dir}/archive.db')
    cost = latency_cost(loop.space, json.loads(Path(cfg.work_dir, 'latency.json').read_text()))
    taken = [row.resources['latency'] for row in judged]
    assert taken == cost(np.array([row.widths for row in judged])).tolist()
    full, *others = taken
    assert max(others) <= 0.7 * full
    with pytest.raises(BudgetError, match='us of latency: this space reaches from'):
        search(cfg, **{**options, 'train_cfg.budget.latency': '1us'})
    file = shutil.copy(f'{cfg.work_dir}/latency.json', tmp_path / 'device.json')
    other = {'work_dir': str(tmp_path / 'other'), 'train_cfg.latency': str(file)}
    search(cfg, **options, **other)
    assert len(measured) == 1  # not again
    rows = read_archive(tmp_path / 'other/archive.db')
    assert [row.widths for row in rows] == [row.widths for row in judged]


def test_latency_of_what_an_earlier_search_judged(cfg, tmp_path, measured):
    """Its archive knows FLOPs alone: the latency of its subnets is that of this search."""
    archive = tmp_path / 'kept/archive.db'
    archive.parent.mkdir()
    search(cfg)
    shutil.copy(f'{cfg.work_dir}/archive.db', archive)
    cfg.work_dir = str(tmp_path / 'other')
    cfg.train_cfg.update(archive=str(archive), pareto=True, window=0.4, generations=1)
    cfg.train_cfg.budget = dict(latency='70%')
    loop = search(cfg).train_loop
    assert loop.known and any(row.widths in loop.history for row in loop.known)
    cost = latency_cost(loop.space, json.loads(Path(cfg.work_dir, 'latency.json').read_text()))
    for name in ('topk.json', 'pareto.json'):
        for subnet in map(Subnet.load, json.loads(Path(cfg.work_dir, name).read_text())):
            assert subnet.resources['latency'] == cost(loop.space.array([subnet]))[0]


def test_killed_search_resumes_to_the_same_result(cfg, tmp_path, monkeypatch):
    cfg.work_dir = str(tmp_path / 'whole')
    search(cfg)
    whole = read_archive(f'{cfg.work_dir}/archive.db')
    best = Subnet.load(f'{cfg.work_dir}/best_subnet.json')

    cfg.work_dir = str(tmp_path / 'killed')
    judged_now = []
    judge = Judge.__call__

    def dying(self, subnet):
        if len(judged_now) == 8:
            raise KeyboardInterrupt
        judged_now.append(subnet)
        return judge(self, subnet)

    monkeypatch.setattr(Judge, '__call__', dying)
    with pytest.raises(KeyboardInterrupt):
        search(cfg)
    assert len(read_archive(f'{cfg.work_dir}/archive.db')) == 8

    judged_now.clear()
    monkeypatch.setattr(Judge, '__call__', lambda s, n: judged_now.append(n) or judge(s, n))
    torch.manual_seed(999)
    log = log_of(search(cfg, resume=True, log_level='INFO'))
    assert 'the archive holds 8, which are not judged again.' in log
    assert len(judged_now) == 12  # no subnet is judged twice
    assert read_archive(f'{cfg.work_dir}/archive.db') == whole
    resumed = Subnet.load(f'{cfg.work_dir}/best_subnet.json')
    assert resumed == best and resumed.source['score'] == best.source['score']


def test_resuming_leaves_the_optimizer_of_the_supernet_alone(cfg):
    """Its groups of parameters need not be those of the search's config."""
    options = {
        'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0.0),
        'optim_wrapper.optimizer.weight_decay': 0.1,
    }
    search(cfg, resume=True, **options)
    search(cfg, resume=True, **options)
    assert len(read_archive(f'{cfg.work_dir}/archive.db')) == 20


def test_resumed_search_takes_the_seed_that_mmengine_drew(cfg):
    """Where the config names none, as mmdet's and mmseg's do."""
    cfg.randomness = dict(seed=None)
    killed = search(cfg).train_loop
    resumed = search(cfg, resume=True).train_loop
    assert resumed.seed == killed.seed and resumed.history == killed.history
    assert len(read_archive(f'{cfg.work_dir}/archive.db')) == 20


def test_nothing_is_found_in_a_supernet_without_scores(cfg, monkeypatch):
    monkeypatch.setattr(Judge, '__call__', lambda *args: Verdict(float('-inf'), None))
    with pytest.raises(FloatingPointError, match='not a number for the fullnet and for uniform'):
        search(cfg)
    assert not list(Path(cfg.work_dir).glob('*.json'))


def test_earlier_search_is_not_overwritten(cfg):
    search(cfg)
    with pytest.raises(ArchiveError, match='give --resume to go on'):
        search(cfg)
    assert len(read_archive(f'{cfg.work_dir}/archive.db')) == 20


def test_archive_of_another_checkpoint_is_refused(cfg, tmp_path):
    search(cfg)
    state = torch.load(cfg.load_from, weights_only=False)
    state['state_dict']['head.fc.bias'] += 1
    torch.save(state, tmp_path / 'other.pth')
    with pytest.raises(ArchiveError, match='of another supernet.*checkpoint'):
        search(cfg, load_from=str(tmp_path / 'other.pth'), resume=True)


@pytest.mark.parametrize(
    ('options', 'differing'),
    [
        ({'val_evaluator.thrs': 0.9}, 'evaluator.thrs: nothing there, 0.9 now'),
        (
            {'model.data_preprocessor': dict(mean=[0.0] * 3, std=[9.0] * 3)},
            r'model.data_preprocessor.mean: \[127.5, .*\] there, \[0.0, 0.0, 0.0\] now; .*',
        ),
        ({'val_dataloader.dataset.indices': 8}, 'dataset.indices: 32 there, 8 now'),
    ],
)
def test_scores_of_another_way_to_judge_are_refused(cfg, options, differing):
    search(cfg)
    with pytest.raises(ArchiveError, match=rf'judged in another way \({differing}\)'):
        search(cfg, resume=True, **options)


def test_digest_of_a_checkpoint_behind_a_url(tmp_path):
    (tmp_path / 'epoch_1.pth').write_bytes(b'weights')
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}/epoch_1.pth'
        assert file_digest(url) == hashlib.sha256(b'weights').hexdigest()
        server.shutdown()


def test_unreachable_budget_fails_at_once(cfg):
    with pytest.raises(BudgetError, match='no subnet has .* this space reaches from'):
        search(cfg, **{'train_cfg.budget.flops': '1K'})


def test_checkpoint_of_another_width(cfg):
    with pytest.raises(ValueError, match='not one of this supernet: .* Missing key'):
        search(cfg, **{'model.backbone.base_channels': 16})


def test_checkpoint_of_another_training_has_the_default_space_and_no_prior(cfg, tmp_path):
    state = torch.load(cfg.load_from, weights_only=False)
    del state['meta']
    torch.save(state, tmp_path / 'plain.pth')
    options = {'train_cfg.generations': 1, 'load_from': str(tmp_path / 'plain.pth')}
    options['train_cfg.budget.flops'] = '80%'  # of widths in multiples of 8
    runner = search(cfg, **options)
    assert 'candidates are drawn by cost alone' in log_of(runner)
    units = runner.train_loop.space.units
    assert {unit.candidates for unit in units if unit.max_width == 16} == {(8, 16)}
    assert len(read_archive(f'{cfg.work_dir}/archive.db')) == 8


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'load_from': None}, 'needs the checkpoint of a trained supernet: set load_from'),
        ({'load_from': 'no.pth'}, 'there is no supernet checkpoint no.pth .load_from.: train'),
        ({'train_cfg.metric': 'top5'}, "no metric 'top5'; set train_cfg.metric to one of"),
        ({'train_cfg.parents': 99}, 'expected 1 <= parents <= population'),
        ({'train_cfg.calibration': 99}, 'calibration=99, but the training data has 2 batches'),
        ({'train_cfg.latency': 'no.json', 'train_cfg.budget': dict(latency='50%')}, 'be read'),
        ({'train_cfg.budget': dict(energy=3)}, 'budget must name some of'),
        ({'train_cfg.window': -0.1}, 'window must be between 0 and 1'),
        ({'train_cfg.sampler': 'best'}, 'sampler must be one of'),
        ({'train_cfg.racing': dict(share=0.25)}, "unexpected keyword argument 'racing'"),
        ({'train_cfg.populaton': 3}, "unexpected keyword argument 'populaton'"),
    ],
)
def test_bad_settings(cfg, options, message):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        search(cfg, **options)


def test_space_smaller_than_the_search(cfg):
    search(cfg, **{'train_cfg.budget': dict(flops='100%'), 'train_cfg.window': 1e-6})
    (row,) = read_archive(f'{cfg.work_dir}/archive.db')
    assert row.origin == 'uniform'  # which is the fullnet


def test_archive_holds_no_doubles_after_reopening(cfg):
    loop = search(cfg).train_loop
    archive = Archive(f'{cfg.work_dir}/archive.db', loop.identity)
    assert len(archive.rows()) == 20


def test_new_budget_reuses_what_was_judged(cfg, tmp_path, monkeypatch):
    """In the same work dir and from another one; the same winner when it is killed and resumed."""
    search(cfg)
    first = read_archive(f'{cfg.work_dir}/archive.db')
    shutil.copytree(cfg.work_dir, tmp_path / 'copy')
    best = []
    for options in (
        {'train_cfg.window': 0.2, 'resume': True},
        {'train_cfg.window': 0.2, 'train_cfg.archive': str(tmp_path / 'copy/archive.db')}
        | {'work_dir': str(tmp_path / 'other')},
    ):
        runner = search(cfg, log_level='INFO', **options)
        known = 'holds 20, which are not judged again; 19 of an earlier search are within the'
        assert known in log_of(runner)
        cfg.work_dir = options.get('work_dir', cfg.work_dir)
        best.append(json.loads(open(f'{cfg.work_dir}/best_subnet.json').read()))
    rows = read_archive(tmp_path / 'copy/archive.db')
    assert rows[:20] == first and {row.search for row in rows[20:]} == {2}
    assert len({row.widths for row in rows}) == len(rows) == 38  # nothing judged twice
    assert best[0]['widths'] == best[1]['widths']
    assert best[0]['source']['score'] == max(row.score for row in rows)
