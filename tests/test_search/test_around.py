"""Drawing around a budget, and what a supernet's losses tell."""

import numpy as np
import pytest

from mmpse.search.around import BudgetSampler, around
from mmpse.search.record import best_widths, levelled
from mmpse.space import Budget, BudgetError, Cost, SearchSpace, uniform_within

UNITS = 6


@pytest.fixture
def space():
    return SearchSpace({f'u{k}': 64 for k in range(UNITS)}, dict(type='Net'))


@pytest.fixture
def costs(space):
    """A chain of convolutions."""
    cost = Cost(space.names)
    for one, other in zip(space.names, space.names[1:]):
        cost.add(1, one, other)
    return dict(flops=cost)


def losses_of(widths, rng, iterations):
    """The first unit matters, the others hardly; losses halve while the supernet is trained."""
    slopes = np.array([1.0, *[0.05] * (UNITS - 1)])
    loss = 2 ** (-(np.log2(widths / 64) * slopes).sum(1)) * 0.5 ** (iterations / iterations.max())
    return loss * rng.lognormal(0, 0.3, len(loss))


def record(space, rng, count=400):
    iterations = np.arange(count)
    widths = np.stack([[rng.choice(u.candidates) for u in space.units] for _ in range(count)])
    return iterations, widths, losses_of(widths, rng, iterations)


def test_costs_spread_around_the_budget_and_narrow(space, costs, rng):
    sampler = BudgetSampler(space, costs, dict(flops='40%'))
    shares = costs['flops'](sampler.sample(rng, 2000)) / sampler.budget.high
    assert np.quantile(shares, 0.1) < 0.6 and np.quantile(shares, 0.9) > 1.5
    sampler.narrow(1.0, *record(space, rng, 10))  # too few losses to tell of best widths
    narrow = costs['flops'](sampler.sample(rng, 2000)) / sampler.budget.high
    assert narrow.std() < 0.7 * shares.std()
    assert abs(narrow.mean() - 0.95) < 0.1


def test_half_of_the_subnets_are_near_the_best_widths(space, costs, rng):
    sampler = BudgetSampler(space, costs, dict(flops='40%'))
    sampler.narrow(0.4, *record(space, rng))
    assert sampler.best is None
    sampler.narrow(0.9, *record(space, rng))
    steps = np.array([u.candidates for u in space.units])
    rows = sampler.sample(rng, 1000)
    index = (rows[:, :, None] == steps).argmax(2)
    near = np.abs(index - (sampler.best[:, None] == steps).argmax(1)).max(1) <= 1
    assert 0.45 < near.mean() < 0.65
    assert set(np.unique(rows)) <= set(steps.ravel())


def test_all_units_move_around_a_subnet_at_about_the_budget(space, costs, rng):
    budget = Budget(space, costs, dict(flops='40%'))
    start = uniform_within(space, budget)
    rows = around(space, budget, start, 200, rng)
    steps = np.array(space.units[0].candidates)
    moved = np.searchsorted(steps, rows) - np.searchsorted(steps, start)
    assert rows.shape == (200, UNITS) and set(np.unique(moved)) == {-2, -1, 0, 1, 2}
    assert np.linalg.cond(moved - moved.mean(0)) < 3  # each tells of its own
    shares = budget.cost(rows) / budget.high
    assert (0.75 <= shares).all() and (shares <= 1.25).all()
    same = around(space, budget, start, 200, np.random.default_rng(5))
    assert (same == around(space, budget, start, 200, np.random.default_rng(5))).all()


def test_the_same_record_draws_the_same(space, costs):
    drawn = []
    for _ in range(2):
        sampler = BudgetSampler(space, costs, dict(flops='40%'))
        sampler.narrow(0.9, *record(space, np.random.default_rng(1)))
        drawn.append(sampler.sample(np.random.default_rng(2), 50).tolist())
    assert drawn[0] == drawn[1]


def test_unreachable_budget(space, costs):
    with pytest.raises(BudgetError):
        BudgetSampler(space, costs, dict(flops=10))


def test_time_is_taken_off_the_losses(space, costs, rng):
    iterations, widths, _ = record(space, rng)
    cost = costs['flops'](widths)
    level = levelled(iterations, cost, 3.0 / cost * 0.1 ** (iterations / 399))
    np.testing.assert_allclose(level, np.log(0.3 / cost), atol=1e-6)


def test_the_unit_that_matters_stays_wide(space, costs, rng):
    budget = Budget(space, costs, dict(flops='40%'))
    reference = uniform_within(space, budget)
    best = best_widths(space, budget, reference, *record(space, rng))
    assert best.shape == (UNITS,) and budget.meets(best[None]).all()
    assert best[0] > reference[0]
