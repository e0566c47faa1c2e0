"""The search that judges what a predictor takes for best, with made-up losses of subnets."""

import numpy as np
import pytest
import torch
from search_runs import SHARED, log_of, search

from mmpse.openmmlab.search.judge import Judge, Verdict
from mmpse.search.archive import read_archive, read_chosen
from mmpse.space import Subnet


def loss_of(widths):
    """The first units matter more than the last."""
    widths = np.asarray(widths)
    return 0.1 + (1 / np.sqrt(widths) * np.linspace(4, 0, widths.shape[-1])).sum(-1)


@pytest.fixture
def made_up(monkeypatch):
    """A judge by those losses; ``noise`` differs by part of the images and by subnet."""

    class MadeUp:
        noise, judged, loss = 1e-3, (), True

        def __call__(self, judge, subnet):
            row = tuple(subnet.values())
            self.judged = (*self.judged, row)
            rng = np.random.default_rng(row)
            parts = loss_of(row) + self.noise * rng.normal(size=11)
            if not self.loss:
                return Verdict(-parts.mean(), None, tuple(-parts) if judge.parts else None)
            return Verdict(50.0, parts.mean(), tuple(parts))

    made_up = MadeUp()
    monkeypatch.setattr(Judge, '__call__', lambda judge, subnet: made_up(judge, subnet))
    return made_up


@pytest.fixture
def cfg(small_search, tmp_path):
    """A search in a checkpoint whose record says the same."""
    cfg = small_search
    kept = {key: cfg.train_cfg[key] for key in SHARED}
    cfg.train_cfg = dict(type='mmpse.PredictorSearchLoop', candidates=6, **kept)
    cfg.log_level = 'INFO'
    checkpoint = torch.load(cfg.load_from, weights_only=False)
    state = checkpoint['meta']['mmpse_supernet']
    full = np.array(list(state['fullnet']['widths'].values()))
    rng = np.random.default_rng(0)
    widths = np.maximum(rng.integers(1, full // 2 + 1, size=(400, len(full))) * 2, 2)
    state['record'] = dict(
        iteration=torch.arange(400),
        widths=torch.tensor(widths, dtype=torch.int16),
        loss=torch.tensor(loss_of(widths)) * torch.tensor(rng.lognormal(0, 0.1, 400)),
        running_mean=torch.ones(400, dtype=torch.float64),
    )
    cfg.load_from = str(tmp_path / 'recorded.pth')
    torch.save(checkpoint, cfg.load_from)
    return cfg


def test_what_the_record_says_is_found_by_few_judgements(cfg, made_up):
    runner = search(cfg)
    loop, rows = runner.train_loop, read_archive(f'{cfg.work_dir}/archive.db')
    assert [row.origin for row in rows] == ['fullnet', 'uniform'] + 6 * ['predictor']
    best = Subnet.load(f'{cfg.work_dir}/best_subnet.json')
    least = min(rows[1:], key=lambda row: row.loss)
    assert tuple(best.values()) == least.widths != loop.uniform
    assert loss_of(least.widths) < loss_of(loop.uniform)
    assert (loop.budget.cost([row.widths for row in rows[1:]]) <= loop.budget.high).all()
    log = log_of(runner)
    assert 'what a notch of a unit costs' in log and 'backbone.layer1.0.conv1' in log
    assert "Kendall's tau of what was predicted and judged of 8 subnets: 0." in log
    assert 'better than uniform' in log
    without = loop.history[loop.uniform]._replace(score=-np.inf, loss=None, parts=None)
    loop.history[loop.uniform] = without  # whose score is no number
    assert loop.ranked()[0].score == 50 and loop.ranked()[-1] is without


def test_uniform_stays_unless_it_is_surely_beaten(cfg, made_up):
    made_up.noise = 100.0
    loop = search(cfg).train_loop
    rows = {row.widths: row for row in read_archive(f'{cfg.work_dir}/archive.db')}
    uniform, best = rows[loop.uniform], Subnet.load(f'{cfg.work_dir}/best_subnet.json')
    gains = [np.array(uniform.parts) - np.array(row.parts) for row in list(rows.values())[2:]]
    gain = max(gains, key=np.mean)
    beaten = gain.mean() > gain.std(ddof=1) / np.sqrt(11)
    assert (tuple(best.values()) != loop.uniform) == beaten
    assert read_chosen(f'{cfg.work_dir}/archive.db') == {1: tuple(best.values())}


def test_scores_are_no_losses(cfg, made_up, monkeypatch):
    """Of a subnet that puts out no number for some image, only the parts of the score are known."""

    def judged(judge, subnet):
        verdict = made_up(judge, subnet)
        if len(made_up.judged) <= 2:  # fullnet and uniform
            return verdict
        return Verdict(40.0, None, 11 * (40.0,))

    monkeypatch.setattr(Judge, '__call__', judged)
    loop = search(cfg).train_loop
    best = Subnet.load(f'{cfg.work_dir}/best_subnet.json')
    assert tuple(best.values()) == loop.uniform


def test_without_a_record_subnets_around_the_budget_are_judged_first(cfg, made_up, tmp_path):
    """A detector's: scores without losses, in parts for those that are compared."""
    made_up.loss = False
    checkpoint = torch.load(cfg.load_from, weights_only=False)
    record = checkpoint['meta']['mmpse_supernet']['record']
    record.update({key: value[:0] for key, value in record.items()})
    torch.save(checkpoint, cfg.load_from)
    runner = search(cfg)
    loop, rows = runner.train_loop, read_archive(f'{cfg.work_dir}/archive.db')
    assert f'of {len(rows)} subnets, 26 of which it was fitted to: ' in log_of(runner)
    explored = [row for row in rows if row.origin == 'explored']
    assert len(explored) == 24 and all(row.parts is None for row in explored)
    shares = loop.budget.cost([row.widths for row in explored]) / loop.budget.high
    assert shares.min() < 0.7 and shares.max() > 1.4
    compared = [row for row in rows if row.origin in ('uniform', 'predictor')]
    assert len(compared) > 1 and all(len(row.parts) == 11 for row in compared)
    best = Subnet.load(f'{cfg.work_dir}/best_subnet.json')
    assert loss_of(list(best.values())) < loss_of(loop.uniform)


def test_killed_it_goes_on_to_the_same_result(cfg, made_up, tmp_path):
    cfg.train_cfg.explored = 4
    whole = search(cfg, work_dir=str(tmp_path / 'whole')).train_loop
    expected = read_archive(tmp_path / 'whole/archive.db')
    for moment in (3, 9):  # while it explores, while it compares
        cfg.work_dir = str(tmp_path / f'killed at {moment}')
        made_up.judged = ()
        judge = Judge.__call__

        def dying(self, subnet, judge=judge, moment=moment):
            if len(made_up.judged) == moment:
                raise KeyboardInterrupt
            return judge(self, subnet)

        Judge.__call__ = dying
        with pytest.raises(KeyboardInterrupt):
            search(cfg)
        Judge.__call__ = judge
        search(cfg, resume=True)
        assert len(made_up.judged) == len(expected)  # none twice
        assert read_archive(f'{cfg.work_dir}/archive.db') == expected
        best = Subnet.load(f'{cfg.work_dir}/best_subnet.json')
        assert tuple(best.values()) == whole.ranked()[0].widths


def test_evolution_may_start_from_what_is_predicted(cfg, made_up):
    cfg.train_cfg.pop('candidates')
    cfg.train_cfg.update(type='mmpse.EvolutionSearchLoop', population=6, generations=2, start=3)
    loop = search(cfg).train_loop
    rows = read_archive(f'{cfg.work_dir}/archive.db')
    assert [row.origin for row in rows[2:8]] == 3 * ['predictor'] + 3 * ['prior']
    assert loop.budget.contains(np.array([row.widths for row in rows[2:]])).all()


def test_bad_settings(cfg):
    with pytest.raises(ValueError, match='expected a positive number of candidates'):
        search(cfg, **{'train_cfg.candidates': 0})
