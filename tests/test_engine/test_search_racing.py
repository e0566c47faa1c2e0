"""Racing inside a search, every decision of it made once more from the archive."""

import json

import numpy as np
import pytest
from search_runs import SHARED, log_of, other_search, search

from mmpse.engine import ranking_key, read_archive
from mmpse.engine.judge import Judge, Verdict
from mmpse.engine.racing import least_part


@pytest.fixture
def cfg(trained_search_cfg):
    return trained_search_cfg


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
