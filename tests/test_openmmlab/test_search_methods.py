"""The searches beside evolution."""

import json

import numpy as np
import pytest
import torch
from search_runs import other_search, search

from mmpse.openmmlab.search.judge import Judge, Verdict
from mmpse.search.archive import read_archive
from mmpse.search.pareto import pareto_front
from mmpse.space import Subnet


@pytest.fixture
def cfg(small_search):
    return small_search


def test_random_search_judges_as_many_draws_within_the_budget(cfg):
    loop, judged = other_search(cfg, 'RandomSearchLoop', population=6, generations=2)
    assert len({row.widths for row in judged}) == 14
    assert [row.origin for row in judged] == ['fullnet', 'uniform'] + 12 * ['prior']
    assert loop.budget.contains(np.array([row.widths for row in judged[2:]])).all()


@pytest.mark.parametrize(
    ('population', 'parents', 'mutants'), [(50, 10, 25), (16, 3, 8), (2, 1, 1)]
)
def test_parents_and_mutants_follow_the_population(cfg, monkeypatch, population, parents, mutants):
    monkeypatch.setattr(Judge, '__call__', lambda s, n: Verdict(float(sum(n.values())), None))
    cfg.train_cfg.pop('parents'), cfg.train_cfg.pop('mutants')
    sizes = {'train_cfg.population': population, 'train_cfg.generations': 2}
    loop = search(cfg, **sizes).train_loop
    assert (loop.parents, loop.mutants) == (parents, mutants)
    origins = [row.origin for row in read_archive(f'{cfg.work_dir}/archive.db')]
    assert origins.count('mutation') == mutants and len(origins) == 2 + 2 * population


def test_uniform_search_judges_the_uniform_subnets_within_the_budget(cfg):
    loop, judged = other_search(cfg, 'UniformSearchLoop', window=0.3)
    uniform = {tuple(loop.space.uniform(r / 500).values()) for r in range(501)}
    inside = {w for w in uniform if loop.budget.contains(np.array([w]))[0]}
    assert {row.widths for row in judged[2:]} == inside - {loop.uniform} and len(inside) > 1


def test_greedy_search_keeps_the_best_cut_until_the_budget_holds(cfg, monkeypatch, tmp_path):
    """Against AutoSlim's rule written down once more, with a made-up score."""
    checkpoint = torch.load(cfg.load_from, weights_only=False)
    checkpoint['meta']['mmpse_supernet']['fullnet']['backbone']['grid']['ratios'] = [0.5, 1.0]
    cfg.load_from = str(tmp_path / 'two_widths.pth')
    torch.save(checkpoint, cfg.load_from)
    weights = np.random.default_rng(0).random(99)
    value = lambda widths: round(float(weights[: len(widths)] @ widths), 3)  # noqa: E731
    monkeypatch.setattr(Judge, '__call__', lambda s, n: Verdict(value(list(n.values())), None))
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
    assert tuple(best) in {row.widths for row in judged if row.generation == steps}
    inside = [row.widths for row in judged if cost([row.widths])[0] <= high]
    best = Subnet.load(f'{cfg.work_dir}/best_subnet.json')
    assert tuple(best.values()) == max(inside, key=value)
    assert {row.origin for row in judged} == {'fullnet', 'uniform', 'cut'}


def test_pareto_search_spreads_over_the_range(cfg):
    loop = search(cfg, **{'train_cfg.pareto': True, 'train_cfg.window': 0.5}).train_loop
    judged = read_archive(f'{cfg.work_dir}/archive.db')[1:]  # without the fullnet
    assert loop.budget.contains(np.array([row.widths for row in judged[1:]])).all()
    front = json.loads(open(f'{cfg.work_dir}/pareto.json').read())
    expected = [(row.score, row.resources['flops']) for row in pareto_front(judged)]
    assert [(s['source']['score'], s['resources']['flops']) for s in front] == expected
    assert Subnet.load(front[-1]).source['score'] == max(row.score for row in judged)
