import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.runner import Runner

from mmpse.engine import Archive, ArchiveError, pareto_front, ranking_key, read_archive
from mmpse.engine.judge import Judge, Verdict
from mmpse.engine.racing import least_part
from mmpse.models import LatencyTable, latency_table
from mmpse.space import BudgetError, Subnet

SMALL = dict(population=6, generations=3, parents=2, mutants=3, calibration=2)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory, request):
    """A supernet checkpoint with a loss record, trained for one epoch."""
    return tmp_path_factory.mktemp('supernet')


@pytest.fixture
def cfg(supernet_cfg, search_cfg, checkpoint):
    path = checkpoint / 'epoch_1.pth'
    if not path.exists():
        supernet_cfg.work_dir = str(checkpoint)
        supernet_cfg.train_cfg.max_epochs = 1
        Runner.from_cfg(supernet_cfg).train()
    search_cfg.load_from = str(path)
    search_cfg.train_cfg.update(SMALL)
    return search_cfg


def search(cfg, **options):
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(options)
    cfg.experiment_name = f'{id(cfg)}'
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def log_of(runner):
    return (Path(runner.log_dir) / f'{runner.timestamp}.log').read_text()


def test_search_writes_the_best_subnet_inside_the_budget(cfg):
    runner = search(cfg, log_level='INFO')
    loop, judged = runner.train_loop, read_archive(f'{cfg.work_dir}/archive.db')
    assert len(judged) == 18 and len({row.widths for row in judged}) == 18
    best = Subnet.load(f'{cfg.work_dir}/best_subnet.json')
    loop.space.validate(best)
    highest = max(row.score for row in judged)
    loss = min(row.loss for row in judged if row.score == highest)
    assert (best.source['score'], best.source['loss']) == (highest, loss)
    top = json.loads(open(f'{cfg.work_dir}/topk.json').read())
    assert Subnet.load(top[0]) == best and len(top) == 10
    scores = [subnet['source']['score'] for subnet in top]
    assert scores == sorted((row.score for row in judged), reverse=True)[:10]
    for row in judged:
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
        'EvolutionSearchLoop: 18 subnets to judge in 1 processes; the archive holds 0',
        's a subnet, ETA',
    ):
        assert text in log, text
    content = json.loads(open(f'{cfg.work_dir}/best_subnet.json').read())
    assert content['source']['checkpoint'] == cfg.load_from
    assert len(content['source']['checkpoint_sha256']) == 64


def test_search_within_flops_and_latency(cfg, tmp_path, monkeypatch):
    def measure(calls, rounds, track):  # a layer's latency goes by its widths, a whole one's too
        return {
            widths: [1e-9 * np.prod(widths) if len(widths) == 2 else 1e-6 * sum(widths)] * rounds
            for widths in calls
        }

    monkeypatch.setattr(latency_table, 'measure_latencies', measure)
    table = LatencyTable(cfg.model.to_dict(), cfg.train_cfg.input_shape, tmp_path / 'table.json')
    table.build(points=2, rounds=1)
    _, full = table.cost()(table.space.array([table.space.tinynet, table.space.fullnet]))
    budget = dict(flops='60%', latency='70%')
    options = {'train_cfg.budget': budget, 'train_cfg.latency_table': str(table.path)}
    search(cfg, **options)
    judged = read_archive(f'{cfg.work_dir}/archive.db')
    assert len(judged) == 18
    taken = [row.resources['latency'] for row in judged]
    assert taken == table.cost()(np.array([row.widths for row in judged])).tolist()
    assert max(taken) <= 0.7 * full
    with pytest.raises(BudgetError, match='us of latency: this space reaches from'):
        search(cfg, **{**options, 'train_cfg.budget.latency': '1us'})


def test_killed_search_resumes_to_the_same_result(cfg, tmp_path, monkeypatch):
    cfg.work_dir = str(tmp_path / 'whole')
    search(cfg)
    whole = read_archive(f'{cfg.work_dir}/archive.db')
    best = Subnet.load(f'{cfg.work_dir}/best_subnet.json')

    cfg.work_dir = str(tmp_path / 'killed')
    judged_now = []
    judge = Judge.__call__

    def dying(self, subnet, least):
        if len(judged_now) == 8:
            raise KeyboardInterrupt
        judged_now.append(subnet)
        return judge(self, subnet, least)

    monkeypatch.setattr(Judge, '__call__', dying)
    with pytest.raises(KeyboardInterrupt):
        search(cfg)
    assert len(read_archive(f'{cfg.work_dir}/archive.db')) == 8

    judged_now.clear()
    monkeypatch.setattr(
        Judge, '__call__', lambda s, n, least: judged_now.append(n) or judge(s, n, least)
    )
    torch.manual_seed(999)
    search(cfg, resume=True)
    assert len(judged_now) == 10  # no subnet is judged twice
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
    assert len(read_archive(f'{cfg.work_dir}/archive.db')) == 18


def test_earlier_search_is_not_overwritten(cfg):
    search(cfg)
    with pytest.raises(ArchiveError, match='give --resume to go on'):
        search(cfg)
    assert len(read_archive(f'{cfg.work_dir}/archive.db')) == 18


def test_archive_of_another_checkpoint_is_refused(cfg, tmp_path):
    search(cfg)
    state = torch.load(cfg.load_from, weights_only=False)
    state['state_dict']['head.fc.bias'] += 1
    torch.save(state, tmp_path / 'other.pth')
    with pytest.raises(ArchiveError, match='of another supernet.*checkpoint'):
        search(cfg, load_from=str(tmp_path / 'other.pth'), resume=True)


def test_judging_equals_recalibrating_and_testing_by_hand(cfg):
    runner = search(cfg)
    loop = runner.train_loop
    row = read_archive(f'{cfg.work_dir}/archive.db')[3]
    from mmengine.runner import set_random_seed

    from mmpse.models import SlimmableMobileNetV2

    subnet = loop.space.subnet(row.widths)
    state = torch.load(cfg.load_from, weights_only=False)['state_dict']
    backbone = SlimmableMobileNetV2(widen_factor=0.35, subnet=subnet)
    backbone.load_state_dict({k[9:]: v for k, v in state.items() if k.startswith('backbone.')})
    set_random_seed(loop.seed)
    batches = [b for _, b in zip(range(2), loop.dataloader, strict=False)]
    images = [torch.stack(b['inputs']).float().sub(127.5).div(127.5) for b in batches]
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    backbone.train()
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    with torch.no_grad():
        for image in images:
            backbone(image)
        backbone.eval()
        weight = state['head.fc.weight'][:, : subnet['conv2']]
        right = total = loss = 0
        for batch in runner.val_loop.dataloader:
            x = torch.stack(batch['inputs']).float().sub(127.5).div(127.5)
            score = backbone(x)[0].mean((2, 3)) @ weight.t() + state['head.fc.bias']
            labels = torch.cat([s.gt_label for s in batch['data_samples']])
            right += (score.argmax(1) == labels).sum().item()
            loss += torch.nn.functional.cross_entropy(score, labels, reduction='sum').item()
            total += len(labels)
    assert row.score == pytest.approx(100 * right / total, abs=1e-4)
    assert row.loss == pytest.approx(loss / total, rel=1e-4)


@pytest.mark.parametrize('fp16', [False, True])
def test_mixed_precision_recalibrates_and_evaluates(cfg, monkeypatch, fp16):
    seen, slice_model = set(), Judge.slice

    def watched(judge, subnet):
        model = slice_model(judge, subnet)
        norm = model.backbone.conv1.bn
        model.backbone.register_forward_hook(
            lambda module, args, features: seen.add((norm.training, features[0].dtype))
        )
        return model

    monkeypatch.setattr(Judge, 'slice', watched)
    search(cfg, **{'val_cfg.fp16': fp16})
    dtype = torch.bfloat16 if fp16 else torch.float32
    assert seen == {(True, dtype), (False, dtype)}  # recalibrated, evaluated


def test_the_search_split_is_not_the_training_split(cfg):
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    assert train.split == 'train' and val.split == 'val'


def test_unreachable_budget_fails_at_once(cfg):
    with pytest.raises(BudgetError, match='no subnet has .* this space reaches from'):
        search(cfg, **{'train_cfg.budget.flops': '1K'})


def test_checkpoint_of_another_width(cfg):
    with pytest.raises(ValueError, match='another backbone width'):
        search(cfg, **{'model.backbone.widen_factor': 0.5})


def test_checkpoint_without_a_loss_record_falls_back_to_cost(cfg, tmp_path):
    state = torch.load(cfg.load_from, weights_only=False)
    del state['mmpse_supernet']
    torch.save(state, tmp_path / 'plain.pth')
    options = {'train_cfg.generations': 1, 'load_from': str(tmp_path / 'plain.pth')}
    assert 'candidates are drawn by cost alone' in log_of(search(cfg, **options))
    assert len(read_archive(f'{cfg.work_dir}/archive.db')) == 6


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'load_from': None}, 'needs the checkpoint of a trained supernet: set load_from'),
        ({'load_from': 'no.pth'}, 'there is no supernet checkpoint no.pth .load_from.: train'),
        ({'train_cfg.metric': 'top5'}, "no metric 'top5'; set train_cfg.metric to one of"),
        ({'train_cfg.parents': 99}, 'expected 1 <= parents <= population'),
        ({'train_cfg.calibration': 99}, 'calibration=99, but the training data has 2 batches'),
        ({'train_cfg.budget': dict(latency=3)}, 'budget must name some of'),
        ({'train_cfg.window': -0.1}, 'window must be between 0 and 1'),
        ({'train_cfg.sampler': 'best'}, 'sampler must be one of'),
        ({'train_cfg.racing': True}, r'racing must be a dict such as dict\(share=0.25\), got True'),
        ({'train_cfg.racing': dict(share=2)}, 'racing.share .* between 0 and 1 .* got 2'),
        ({'train_cfg.racing': dict(part=0.5)}, "unexpected keyword argument 'part'"),
        (
            {'train_cfg.racing': dict(share=0.5), 'train_cfg.pareto': True},
            'pareto=True has no racing',
        ),
        ({'train_cfg.populaton': 3}, "unexpected keyword argument 'populaton'"),
    ],
)
def test_bad_settings(cfg, options, message):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        search(cfg, **options)


def test_space_smaller_than_the_search(cfg):
    search(
        cfg,
        **{'model.backbone.ratios': [1.0], 'train_cfg.budget': dict(flops='100%')},
    )
    assert len(read_archive(f'{cfg.work_dir}/archive.db')) == 1


def test_archive_holds_no_doubles_after_reopening(cfg):
    loop = search(cfg).train_loop
    archive = Archive(f'{cfg.work_dir}/archive.db', loop.identity)
    assert len(archive) == 18


SHARED = ('budget', 'input_shape', 'metric', 'calibration')


def other_search(cfg, name, **settings):
    kept = {key: cfg.train_cfg[key] for key in SHARED}
    cfg.train_cfg = dict(type=f'mmpse.{name}', **kept, **settings)
    return search(cfg).train_loop, read_archive(f'{cfg.work_dir}/archive.db')


def test_random_search_judges_as_many_draws_within_the_budget(cfg):
    loop, judged = other_search(cfg, 'RandomSearchLoop', population=6, generations=2)
    assert len({row.widths for row in judged}) == 12
    assert [row.origin for row in judged] == ['uniform'] + 11 * ['prior']
    assert loop.budget.contains(np.array([row.widths for row in judged])).all()


def test_uniform_search_judges_the_uniform_subnets_within_the_budget(cfg):
    loop, judged = other_search(cfg, 'UniformSearchLoop', window=0.3)
    uniform = {tuple(loop.space.uniform(r / 500).values()) for r in range(501)}
    inside = {w for w in uniform if loop.budget.contains(np.array([w]))[0]}
    assert {row.widths for row in judged} == inside and len(inside) > 1


def test_greedy_search_keeps_the_best_cut_until_the_budget_holds(cfg, monkeypatch):
    """Against AutoSlim's rule written down once more, with a made-up score."""
    cfg.model.backbone.ratios = [0.5, 1.0]
    weights = np.random.default_rng(0).random(99)
    value = lambda widths: round(float(weights[: len(widths)] @ widths), 3)  # noqa: E731
    monkeypatch.setattr(Judge, '__call__', lambda s, n, _: Verdict(value(list(n.values())), None))
    loop, judged = other_search(cfg, 'GreedySearchLoop')

    space, cost, high = loop.space, loop.costs['flops'], loop.budget.high
    best, steps = list(space.fullnet.values()), 0
    while cost([best])[0] > high:
        cuts = [
            [*best[:k], unit.candidates[0], *best[k + 1 :]]
            for k, unit in enumerate(space.units)
            if best[k] != unit.candidates[0]
        ]
        best, steps = max(cuts, key=value), steps + 1
    assert max(row.generation for row in judged) == steps
    assert list(Subnet.load(f'{cfg.work_dir}/best_subnet.json').values()) == best
    assert {row.origin for row in judged} == {'fullnet', 'cut'}


def test_pareto_search_spreads_over_the_range(cfg):
    loop = search(cfg, **{'train_cfg.pareto': True, 'train_cfg.window': 0.5}).train_loop
    judged = read_archive(f'{cfg.work_dir}/archive.db')
    assert loop.budget.contains(np.array([row.widths for row in judged])).all()
    front = json.loads(open(f'{cfg.work_dir}/pareto.json').read())
    expected = [(row.score, row.resources['flops']) for row in pareto_front(judged)]
    assert [(s['source']['score'], s['resources']['flops']) for s in front] == expected
    assert Subnet.load(front[-1]).source['score'] == max(row.score for row in judged)


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
        search(cfg, **options)
        cfg.work_dir = options.get('work_dir', cfg.work_dir)
        best.append(json.loads(open(f'{cfg.work_dir}/best_subnet.json').read()))
    rows = read_archive(tmp_path / 'copy/archive.db')
    assert rows[:18] == first and {row.search for row in rows[18:]} == {2}
    assert len({row.widths for row in rows}) == len(rows) == 36  # nothing judged twice
    assert best[0]['widths'] == best[1]['widths']
    assert best[0]['source']['score'] == max(row.score for row in rows)


RACE = {
    'train_cfg.racing': dict(share=0.25),
    'train_cfg.population': 12,
    'train_cfg.generations': 4,
    'train_cfg.topk': 3,
}


@pytest.fixture
def raced(monkeypatch):
    """A made-up score, and a part score near it, in place of judging; the subnets it was for."""
    judged = []

    def judge(self, subnet, least):
        judged.append(tuple(subnet.values()))
        score = float(np.random.default_rng(0).random(len(subnet)) @ judged[-1])
        part = score / 4 + 3 * np.random.default_rng(judged[-1]).normal()
        return Verdict(None, None, part) if part < least else Verdict(score, None, part)

    monkeypatch.setattr(Judge, '__call__', judge)
    return judged


def rows_of(cfg):
    return read_archive(f'{cfg.work_dir}/archive.db', dropped=True)


def test_racing_drops_by_what_earlier_generations_say(cfg, raced):
    """Every decision made once more, from the archive."""
    runner = search(cfg, log_level='INFO', **RACE)
    rows, dropped = rows_of(cfg), 0
    assert len(rows) == 48 == len(raced)
    for row in rows:
        earlier = [r for r in rows if r.generation < row.generation and r.score is not None]
        least = -np.inf
        if row.generation:
            whole, part = np.array([(r.score, r.part) for r in earlier]).T
            least = least_part(whole, part, sorted(whole)[-3])
        assert (row.score is None) == (row.part < least)
        dropped += row.score is None
    assert 5 < dropped < 36
    scored = read_archive(f'{cfg.work_dir}/archive.db')
    assert len(scored) == 48 - dropped
    top = json.loads(open(f'{cfg.work_dir}/topk.json').read())
    best = sorted((row.score for row in scored), reverse=True)[:3]
    assert [subnet['source']['score'] for subnet in top] == best
    saved = dropped / 48 * (1 - 16 / 64)
    expected = f'racing on 16 of 64 images dropped {dropped} of 48 subnets and saved {saved:.1%}'
    assert expected in log_of(runner)


def test_raced_search_killed_resumes_to_the_same_archive(cfg, raced, tmp_path, monkeypatch):
    search(cfg, work_dir=str(tmp_path / 'whole'), **RACE)
    judge, count = Judge.__call__, []

    def dying(self, subnet, least):
        count.append(subnet)
        if len(count) == 31:
            raise KeyboardInterrupt
        return judge(self, subnet, least)

    monkeypatch.setattr(Judge, '__call__', dying)
    with pytest.raises(KeyboardInterrupt):
        search(cfg, **RACE)
    raced.clear()
    search(cfg, resume=True, **RACE)
    assert len(raced) == 18
    assert rows_of(cfg) == read_archive(tmp_path / 'whole/archive.db', dropped=True)


def test_audit_says_what_racing_would_have_dropped(cfg, raced):
    options = {**RACE, 'train_cfg.racing.drop': False}
    runner = search(cfg, log_level='INFO', **options)
    race, rows = runner.train_loop.race, rows_of(cfg)
    assert len(rows) == 48 and all(row.score is not None for row in rows)
    assert race.dropped and all(row.generation for row in rows if row.widths in race.dropped)
    ranked = sorted(rows, key=ranking_key)[:3]
    ranks = [str(k) for k, row in enumerate(ranked, 1) if row.widths in race.dropped]
    text = f'Of the best 3 it would have dropped {"ranks " + ", ".join(ranks) if ranks else "none"}'
    assert f'would have dropped {len(race.dropped)} of 48 subnets' in log_of(runner)
    assert text in log_of(runner)


def test_what_is_dropped_is_judged_in_full_by_the_next_search(cfg, raced):
    """And the first search still goes on as if that had not been."""
    kept = {key: cfg.train_cfg[key] for key in SHARED}
    cfg.train_cfg = dict(type='mmpse.RandomSearchLoop', **kept)  # proposes whatever the scores are
    search(cfg, **RACE)
    first = rows_of(cfg)
    dropped = [row.widths for row in first if row.score is None]
    raced.clear()
    plain = {key: value for key, value in RACE.items() if 'racing' not in key}
    search(cfg, resume=True, **plain)
    assert raced == dropped and len(dropped) > 5
    rows = rows_of(cfg)
    assert rows[:48] == first and [row.widths for row in rows[48:]] == dropped
    assert {row.search for row in rows[48:]} == {2}
    assert len(read_archive(f'{cfg.work_dir}/archive.db')) == 48
    raced.clear()
    search(cfg, resume=True, **RACE)
    top = json.loads(open(f'{cfg.work_dir}/topk.json').read())
    best = sorted((row.score for row in first if row.score is not None), reverse=True)[:3]
    assert [subnet['source']['score'] for subnet in top] == best
    assert not raced and rows_of(cfg) == rows


@pytest.mark.parametrize('name', ['UniformSearchLoop', 'GreedySearchLoop'])
def test_racing_needs_generations_to_compare_with(cfg, name):
    with pytest.raises(ValueError, match=f'{name} has no racing: .* earlier generations'):
        other_search(cfg, name, racing=dict(share=0.25))


def test_score_that_is_not_a_number_ranks_last(cfg, monkeypatch):
    judge, count = Judge.evaluate, []

    def sometimes(self, model, least):
        count.append(model)
        self.evaluator.metrics[0].compute_metrics = lambda results: dict(
            top1=float('nan') if len(count) % 2 else float(len(count))
        )
        return judge(self, model, least)

    monkeypatch.setattr(Judge, 'evaluate', sometimes)
    search(cfg, **{'train_cfg.generations': 2})
    rows = read_archive(f'{cfg.work_dir}/archive.db')
    assert [row.score for row in rows[:4]] == [-np.inf, 2.0, -np.inf, 4.0]
    assert Subnet.load(f'{cfg.work_dir}/best_subnet.json').source['score'] == 12.0


def test_supernet_whose_scores_are_never_numbers(cfg, monkeypatch):
    monkeypatch.setattr(Judge, '__call__', lambda s, n, _: Verdict(-np.inf, None))
    with pytest.raises(FloatingPointError, match='not a number for any of the first 6 .*trained?'):
        search(cfg)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'metric'),
    [('retinanet_mobilenet-v2_digits', 'coco/bbox_mAP'), ('fpn_mobilenet-v2_digits', 'mIoU')],
)
def test_detectors_and_segmentors_are_searched_by_their_own_metric(name, metric, digits, tmp_path):
    cfg = Config.fromfile(ROOT / f'configs/quickstart/{name}.py')
    cfg.work_dir, cfg.log_level, cfg.launcher = str(tmp_path / name), 'WARNING', 'none'
    cfg.model.backbone.update(widen_factor=0.35, ratios=[0.5, 1.0], subnet=None, init_cfg=None)
    if 'ann_file' in cfg.test_evaluator:
        cfg.test_evaluator.ann_file = str(digits / 'scenes/annotations/test.json')
    cfg.model.test_cfg.update(score_thr=0.0)  # what is not trained is sure of nothing
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.batch_size = 4
        loader.dataset.update(data_root=str(digits), indices=8)
    cfg.update(val_dataloader=cfg.test_dataloader, val_evaluator=cfg.test_evaluator, val_cfg=dict())
    cfg.update(test_dataloader=None, test_evaluator=None, test_cfg=None, param_scheduler=None)
    shared = dict(input_shape=(3, 128, 128), metric=metric, calibration=1)
    budget = dict(budget=dict(flops='100%'), window=0.9)
    cfg.train_cfg = dict(type='mmpse.UniformSearchLoop', **budget, **shared)
    cfg.load_from = str(tmp_path / 'supernet.pth')
    cfg.experiment_name = name
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    torch.save(dict(state_dict=runner.model.state_dict()), cfg.load_from)
    runner.train()
    rows = read_archive(f'{cfg.work_dir}/archive.db')
    assert len(rows) > 1 and all(np.isfinite(row.score) and row.loss is None for row in rows)
    best = Subnet.load(f'{cfg.work_dir}/best_subnet.json')
    assert best.source['metric'] == metric
