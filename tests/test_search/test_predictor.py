"""Losses predicted from widths."""

import numpy as np
import pytest

from mmpse.search import Predictor, notch_table
from mmpse.search.predictor import cost_shares
from mmpse.search.ridge import Ridge
from mmpse.space import Budget, Cost, SearchSpace, SpreadSampler

RATIOS = np.linspace(0.2, 1, 9).tolist()


def chain(units, widths=80):
    """Convolutions in a chain, all of the same size."""
    space = SearchSpace(
        {f'u{k}': widths for k in range(units)}, dict(type='Toy'), RATIOS, divisor=4
    )
    cost = Cost(space.names)
    cost.add(30, space.names[0])
    for a, b in zip(space.names, space.names[1:]):
        cost.add(9, a, b)
    return space, cost


class Case:
    """A space with a reference, a record and true losses."""

    def __init__(self, rng, units=6, count=60, noise=0.0, power=0.25, spread=0.7):
        self.space, self.cost = chain(units)
        self.budget = Budget(self.space, dict(flops=self.cost), dict(flops='40%'))
        rows = self.space.uniform_rows()
        self.reference = rows[self.budget.meets(rows)][-1]
        shares = cost_shares(self.space, self.cost, self.reference)
        self.slopes = shares * np.exp(spread * rng.normal(size=units))
        self.power = power
        self.widths = SpreadSampler(self.space, self.cost, 0.1, 0.9).sample(rng, count)
        self.losses = self.truth(self.widths) + noise * rng.normal(size=count)

    def truth(self, widths):
        share = np.asarray(widths) / 80
        falls = (share**-self.power - 1) / self.power if self.power else -np.log(share)
        return 3.0 + falls @ self.slopes

    def predictor(self, **kwargs):
        record = self.widths, self.losses
        return Predictor(self.space, self.cost, self.reference, *record, **kwargs)


@pytest.mark.parametrize('power', [0.0, 0.25, 1.0])
def test_recovers_an_additive_loss(rng, power):
    case = Case(rng, power=power)
    predictor = case.predictor()
    assert predictor.power == power
    others = SpreadSampler(case.space, case.cost).sample(rng, 200)
    truth = case.truth(others)
    assert predictor.predict(others) == pytest.approx(truth, abs=0.01 * np.ptp(truth))
    gain = case.truth(case.reference[None]) - truth
    bound = predictor.lower_bound_gain(others, errors=0.0)
    assert bound == pytest.approx(gain, abs=0.01 * np.ptp(truth))


def test_noise_widens_the_bound_and_a_longer_record_narrows_it(rng):
    def widths_of_bounds(noise, count):
        case = Case(np.random.default_rng(1), noise=noise, count=count)
        predictor, others = case.predictor(), case.widths[:40]
        bounds = [predictor.lower_bound_gain(others, errors) for errors in (0.0, 1.0)]
        return np.mean(bounds[0] - bounds[1])

    assert widths_of_bounds(0.02, 60) < widths_of_bounds(0.2, 60)
    assert widths_of_bounds(0.2, 1000) < widths_of_bounds(0.2, 60)


def test_best_is_better_than_the_reference(rng, monkeypatch):
    case = Case(rng, noise=0.05, count=100)
    predictor = case.predictor()
    best = predictor.best(case.budget, count=5)
    bounds = predictor.lower_bound_gain(best)
    assert len(best) == 5
    assert case.budget.contains(best).all()
    assert (np.diff(bounds) <= 0).all() and bounds[-1] > 0
    uniform, chosen = case.truth([case.reference, best[0]])
    assert uniform - chosen > 0.1
    ratios = best / case.reference
    assert ratios.max() <= 3 and ratios.min() >= 1 / 3
    monkeypatch.setattr('mmpse.search.predictor.REACH', 1.3)
    near = predictor.best(case.budget)[0] / case.reference
    assert near.max() <= 1.3 and near.min() >= 1 / 1.3 - 1e-9


def test_nothing_is_surely_better_where_uniform_is_best():
    """Only noise tells the subnets of a cost apart: few are taken, and those lose little."""
    lost = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        case = Case(rng, noise=0.5, count=40, spread=0.0)
        best = case.predictor().best(case.budget)
        uniform = case.truth(case.reference[None])[0]
        lost.append(case.truth(best)[0] - uniform if len(best) else 0.0)
    assert np.mean(np.array(lost) > 0) < 0.4
    assert np.mean(lost) < 0.03


@pytest.mark.parametrize('power', [0.0, 0.25, 1.0])
def test_uniform_subnets_say_nothing_of_single_units(rng, power):
    case = Case(rng, power=power)
    ratios = rng.uniform(0.2, 1, 60)
    case.widths = case.space.array([case.space.uniform(ratio) for ratio in ratios])
    case.losses = case.truth(case.widths)
    predictor = case.predictor()
    everywhere = SpreadSampler(case.space, case.cost).sample(rng, 1000)
    cheaper = everywhere[case.cost(everywhere) <= case.cost(case.reference[None])]
    assert len(cheaper) > 100
    assert predictor.lower_bound_gain(cheaper, errors=0.0).max() < 0
    # what is better uses more of the budget
    assert case.cost(predictor.best(case.budget)) > case.cost(case.reference[None])


@pytest.mark.parametrize(
    ('widths', 'losses'),
    [
        ([[80] * 6], [1.0]),
        ([[80] * 6, [40] * 6, [16] * 6], [1.0, 2.0, 3.0]),
        ([[80] * 6] * 10, np.arange(10.0)),
        (np.arange(60).reshape(10, 6) % 9 * 8 + 16, [2.0] * 10),
    ],
    ids=['one', 'three', 'equal subnets', 'equal losses'],
)
def test_records_that_teach_nothing(rng, widths, losses):
    case = Case(rng)
    predictor = Predictor(case.space, case.cost, case.reference, np.array(widths), losses)
    others = SpreadSampler(case.space, case.cost).sample(rng, 20)
    assert predictor.predict(others) == pytest.approx(np.full(20, np.mean(losses)))
    assert predictor.lower_bound_gain(others) == pytest.approx(np.zeros(20))
    assert predictor.best(case.budget).shape == (0, 6)


def test_fewer_subnets_than_units(rng):
    case = Case(rng, units=40, count=12)
    predictor = case.predictor()
    assert np.isfinite(predictor.predict(case.widths)).all()
    assert np.corrcoef(predictor.predict(case.widths), case.losses)[0, 1] > 0.8
    assert all(case.budget.contains(row[None])[0] for row in predictor.best(case.budget))


def test_a_unit_that_never_changes_counts_by_its_cost(rng):
    case = Case(rng)
    case.widths[:, 2] = 40
    case.losses = case.truth(case.widths)
    notches = {notch.unit: notch for notch in case.predictor().notches()}
    rates = {unit: notch.loss / notch.saved for unit, notch in notches.items()}
    others = [rate for unit, rate in rates.items() if unit != 'u2']
    assert min(others) < rates['u2'] < max(others)


def test_weights_are_repeats(rng):
    case = Case(rng, count=30, noise=0.1)
    double = np.repeat(case.widths, 2, axis=0), np.repeat(case.losses, 2)
    terms = np.log(case.widths / 80)
    fixed = np.ones((30, 1))
    penalty, ones = np.ones(1), np.ones((1, 60))
    a, b = Ridge(fixed, terms, case.losses, np.full(30, 2.0)).fit(np.full((1, 30), 2.0), penalty)
    repeated = Ridge(np.ones((60, 1)), np.log(double[0] / 80), double[1], np.ones(60))
    a2, b2 = repeated.fit(ones, 2 * penalty)
    assert (a, b) == (pytest.approx(a2), pytest.approx(b2))
    heavy = np.where(np.arange(30) < 29, 1.0, 0.0)
    without = case.predictor(weights=heavy)
    case.losses[29] = 1e6
    assert case.predictor(weights=heavy).predict(case.widths) == pytest.approx(
        without.predict(case.widths), rel=1e-6
    )


def test_left_out_errors_are_those_of_refitting_without_each_row(rng):
    count, terms, fixed = 12, rng.normal(size=(12, 20)), np.ones((12, 2))
    fixed[:, 1] = rng.normal(size=count)
    y, weights = rng.normal(size=count), rng.uniform(0.5, 2, count)
    ridge = Ridge(fixed, terms, y, weights)
    weights = weights / weights.mean()
    means = []
    for penalty in ridge.penalties:
        squared = []
        for k in range(count):
            rest, w = np.arange(count) != k, np.sqrt(weights)[:, None]
            design = np.concatenate([fixed, terms], axis=1)
            rows = np.concatenate([(w * design)[rest], np.diag([0] * 2 + [penalty**0.5] * 20)])
            solved = np.linalg.lstsq(rows, np.append((w[:, 0] * y)[rest], np.zeros(22)), None)[0]
            squared.append(weights[k] * (y[k] - design[k] @ solved) ** 2)
        means.append(np.mean(squared))
    assert ridge.errors.mean() == pytest.approx(min(means), rel=1e-4)
    assert ridge.likelihoods.argmax() == np.argmin(means)


def test_table_of_notches(rng):
    case = Case(rng, noise=0.01, count=100)
    case.reference = case.reference.copy()
    case.reference[3] = 16  # the narrowest
    predictor = case.predictor()
    notches = {notch.unit: notch for notch in predictor.notches()}
    assert 'u3' not in notches and len(notches) == 5
    notch = notches['u1']
    narrower = case.reference.copy()
    narrower[1] = notch.narrower
    losses = case.truth([case.reference, narrower])
    costs = case.cost(np.array([case.reference, narrower]))
    assert notch.loss == pytest.approx(losses[1] - losses[0], rel=0.1)
    assert notch.saved == pytest.approx(1 - costs[1] / costs[0])
    lines = notch_table(list(notches.values())).splitlines()
    assert len(lines) == 6 and lines[0].split()[:2] == ['unit', 'notch']
    rates = [float(line.split()[-1]) for line in lines[1:]]
    assert rates == sorted(rates)


def test_the_same_record_gives_the_same_predictor(rng):
    case = Case(rng, noise=0.1)
    first, second = case.predictor(seed=3), case.predictor(seed=3)
    assert (first.tables() == second.tables()).all()
    assert (first.tables() != case.predictor(seed=4).tables()).any()


def test_losses_that_are_not_finite(rng):
    case, widths = Case(rng), np.full((2, 6), 40)
    with pytest.raises(ValueError, match='got 1 that are not'):
        Predictor(case.space, case.cost, case.reference, widths, [np.nan, 1.0])
