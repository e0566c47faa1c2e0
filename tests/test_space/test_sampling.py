import numpy as np
import pytest

from mmpse.space import (
    Budget,
    BudgetError,
    Cost,
    PriorSampler,
    SearchSpace,
    SpreadSampler,
    UniformSampler,
    expected_loss,
    nearest_uniform,
    tilted,
)


@pytest.fixture
def space():
    return SearchSpace({f'u{k}': 8 * (k % 5 + 2) for k in range(12)}, dict(type='Toy'))


@pytest.fixture
def cost(space):
    """A chain of 3x3 convolutions with a depthwise one and a head."""
    cost = Cost(space.names)
    for a, b in zip(space.names, space.names[1:], strict=False):
        cost.add(9 * 16, a, b)
    cost.add(27 * 16, space.names[0])
    cost.add(10, space.names[-1])
    cost.add(10)
    return cost


def by_hand(space, widths):
    total = 27 * 16 * widths[0] + 10 * widths[-1] + 10
    return total + sum(9 * 16 * a * b for a, b in zip(widths, widths[1:], strict=False))


def test_cost_of_many_equals_cost_by_hand(space, cost, rng):
    rows = UniformSampler(space, cost).sample(rng, 50)
    assert cost(rows).tolist() == [by_hand(space, row.tolist()) for row in rows]


def test_expected_cost_equals_the_mean_of_draws(space, cost, rng):
    distribution = tilted(space, cost, 0.4 * float(cost(space.array([space.fullnet]))[0]))
    drawn = cost(distribution.sample(rng, 20_000)).mean()
    assert drawn == pytest.approx(distribution.expected_cost(cost), rel=0.02)


def test_marginal_is_the_cost_of_one_more_channel(space, cost):
    row = space.array([space.tinynet])
    more = row.copy()
    more[0, 3] += 1
    assert cost(more)[0] - cost(row)[0] == cost.marginal(row[0])[3]


def test_uniform_sampler_draws_every_candidate_evenly(space, cost, rng):
    rows = UniformSampler(space, cost).sample(rng, 20_000)
    for k, unit in enumerate(space.units):
        widths, counts = np.unique(rows[:, k], return_counts=True)
        assert tuple(widths) == unit.candidates
        assert np.abs(counts / len(rows) - 1 / len(widths)).max() < 0.02


def test_spread_sampler_covers_the_range_evenly_where_uniform_does_not(space, cost, rng):
    tiny, full = cost(space.array([space.tinynet, space.fullnet]))

    def deciles(sampler):
        share = (cost(sampler.sample(rng, 4000)) - tiny) / (full - tiny)
        return np.histogram(share, bins=10, range=(0, 1))[0] / 4000

    spread, uniform = deciles(SpreadSampler(space, cost)), deciles(UniformSampler(space, cost))
    assert spread.min() > 0.04 and spread.max() < 0.2
    assert uniform.min() < 0.01


def test_spread_sampler_keeps_to_its_range(space, cost, rng):
    tiny, full = cost(space.array([space.tinynet, space.fullnet]))
    rows = SpreadSampler(space, cost, low=0.3, high=0.5).sample(rng, 2000)
    assert ((cost(rows) - tiny) / (full - tiny)).mean() == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize('share', ['15%', '30%', '60%', '90%'])
def test_prior_samples_lie_in_the_budget(space, cost, rng, share):
    budget = Budget(space, dict(flops=cost), dict(flops=share))
    sampler = PriorSampler(space, budget)
    rows = sampler.sample(rng, 200)
    assert rows.shape == (200, len(space))
    assert budget.contains(rows).all()
    assert sampler.accepted == 200 and sampler.trials < 200 * 40


def test_prior_prefers_widths_with_low_losses(space, cost, rng):
    rows = UniformSampler(space, cost).sample(rng, 5000)
    losses = 1 + 0.5 * (rows[:, 4] < 30) + 0.01 * rng.standard_normal(len(rows))  # u4 is 48 wide
    energy = expected_loss(space, rows, losses)
    budget = Budget(space, dict(flops=cost), dict(flops='40%'))
    informed = PriorSampler(space, budget, energy).sample(rng, 500)
    blind = PriorSampler(space, budget).sample(rng, 500)
    assert (informed[:, 4] >= 30).mean() > (blind[:, 4] >= 30).mean() + 0.2


def test_a_width_never_seen_gets_the_worst_expectation(space, cost, rng):
    rows = UniformSampler(space, cost).sample(rng, 3000)
    rows[:, 2] = np.maximum(rows[:, 2], space.units[2].candidates[1])  # hide the narrowest
    energy = expected_loss(space, rows, rng.random(len(rows)))
    finite = energy[np.isfinite(energy)]
    assert energy[2, 0] == finite.max()


def test_nearest_uniform(space, cost):
    target = 0.5 * float(cost(space.array([space.fullnet]))[0])
    row = nearest_uniform(space, cost, target)
    others = [space.array([space.uniform(r)])[0] for r in np.linspace(0, 1, 50)]
    assert abs(cost(row[None])[0] - target) <= min(abs(cost(o[None])[0] - target) for o in others)
    assert cost(nearest_uniform(space, cost, target, at_most=True)[None])[0] <= target


@pytest.mark.parametrize(
    ('limit', 'expected'), [('50%', 0.5), (1000, None), ('1.5K', None), (2e5, None)]
)
def test_amounts(space, cost, limit, expected):
    full = int(cost(space.array([space.fullnet]))[0])
    amounts = {1000: 1000, '1.5K': 1500, 2e5: 2e5, '50%': full / 2}
    try:
        assert Budget(space, dict(flops=cost), dict(flops=limit)).high == amounts[limit]
    except BudgetError as error:
        assert 'no subnet has' in str(error) and amounts[limit] < cost(space.array([space.tinynet]))


def test_unreachable_budget_prints_the_reachable_range(space, cost):
    tiny, full = cost(space.array([space.tinynet, space.fullnet]))
    for limit in (1, 10 * int(full)):
        with pytest.raises(BudgetError, match=f'reaches from {tiny:,} .* to {full:,}'):
            Budget(space, dict(flops=cost), dict(flops=limit))


@pytest.mark.parametrize('limit', ['half', '-3M', '0', None, '50 percent'])
def test_amount_that_is_none(space, cost, limit):
    with pytest.raises(BudgetError, match="is not an amount; expected a number, '300M'"):
        Budget(space, dict(flops=cost), dict(flops=limit))


def test_unknown_resource_and_bad_window(space, cost):
    with pytest.raises(BudgetError, match=r"must name one of \['flops'\]"):
        Budget(space, dict(flops=cost), dict(latency=3))
    with pytest.raises(BudgetError, match='window must be between 0 and 1'):
        Budget(space, dict(flops=cost), dict(flops='50%'), window=1.5)


def test_rejection_ends(space, cost, rng):
    budget = Budget(space, dict(flops=cost), dict(flops='50%'), window=1e-7)
    with pytest.raises(BudgetError, match='found in .* draws; widen the window'):
        PriorSampler(space, budget, max_trials=5000).sample(rng, 10)
