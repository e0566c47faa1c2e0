import numpy as np
import pytest

from mmpse.space import (
    Budget,
    BudgetError,
    Cost,
    PriorSampler,
    SearchSpace,
    UniformSampler,
)
from mmpse.space.budget import parse_amount


@pytest.fixture
def space():
    return SearchSpace({f'u{k}': 8 * (k % 5 + 2) for k in range(12)}, dict(type='Toy'))


@pytest.fixture
def costs(space):
    """Convolutions in a chain: FLOPs fall with their area, parameters do not; a latency."""
    flops, params, latency = Cost(space.names), Cost(space.names), Cost(space.names)
    for k, (a, b) in enumerate(zip(space.names, space.names[1:], strict=False)):
        flops.add(9 * 4 ** (5 - k // 2), a, b)
        params.add(9, a, b)
        latency.add(0.1 * (k + 1), a)
    latency.add(100)
    return dict(flops=flops, params=params, latency=latency)


def ends(space, cost):
    return cost(space.array([space.tinynet, space.fullnet]))


@pytest.mark.parametrize(
    ('amount', 'resource', 'number'),
    [
        (1000, 'flops', 1000),
        (2e5, 'flops', 2e5),
        ('1.5K', 'flops', 1500),
        (' 300 M ', 'flops', 3e8),
        ('4.1G', 'params', 4.1e9),
        ('3e8', 'flops', 3e8),
        ('50%', 'flops', 4000),
        ('5ms', 'latency', 5000),
        ('800 us', 'latency', 800),
        ('0.25s', 'latency', 250_000),
        ('50%', 'latency', 4000),
    ],
)
def test_amounts(amount, resource, number):
    assert parse_amount(amount, 8000, resource) == pytest.approx(number, rel=1e-12)


def test_share_without_a_percent_sign(space, costs):
    with pytest.raises(BudgetError, match="0.85 is 0.85 FLOPs .* is written '85%'"):
        Budget(space, costs, dict(flops=0.85))


@pytest.mark.parametrize(
    'amount', ['half', '-3M', '0', 0, None, True, '50 percent', '300m', '5ms', 'nan', float('inf')]
)
def test_amount_that_is_none(space, costs, amount):
    with pytest.raises(BudgetError, match="not an amount of flops; expected a number, '300M'"):
        Budget(space, costs, dict(flops=amount))


@pytest.mark.parametrize('amount', [5, '5', '5M', '5 min'])
def test_latency_without_a_unit_of_time(space, costs, amount):
    with pytest.raises(BudgetError, match="not an amount of latency; expected '5ms', '800us'"):
        Budget(space, costs, dict(latency=amount))


def test_unreachable_budget_prints_the_reachable_range(space, costs):
    tiny, full = ends(space, costs['flops'])
    for limit in (100, 10 * int(full)):
        with pytest.raises(BudgetError, match=f'reaches from {tiny:,} .* to {full:,}'):
            Budget(space, costs, dict(flops=limit))
    tiny, full = ends(space, costs['latency'])
    with pytest.raises(BudgetError, match=f'at most 7 us of latency: .* from {tiny:,} .* {full:,}'):
        Budget(space, costs, dict(flops='50%', latency='7us'))


def test_unknown_resource(space, costs):
    with pytest.raises(BudgetError, match=r"must name some of \['flops', 'latency', 'params'\]"):
        Budget(space, costs, dict(energy=3))
    with pytest.raises(BudgetError, match='must name some of'):
        Budget(space, costs, {})


@pytest.mark.parametrize('window', [1.5, -0.05, 0, 1, None, (0.95, 1.0)])
def test_bad_window(space, costs, window):
    with pytest.raises(BudgetError, match='window must be between 0 and 1'):
        Budget(space, costs, dict(flops='50%'), window)


@pytest.mark.parametrize('first', ['flops', 'params', 'latency'])
def test_several_budgets_the_first_has_the_window(space, costs, rng, first):
    shares = dict(flops='45%', params='45%', latency='85%')
    limit = {first: shares.pop(first), **shares}
    budget = Budget(space, costs, limit)
    sampler = PriorSampler(space, budget)
    rows = sampler.sample(rng, 100)
    fulls = {name: ends(space, cost)[1] for name, cost in costs.items()}
    for name, amount in limit.items():
        share = costs[name](rows) / fulls[name]
        high = float(amount[:-1]) / 100
        assert share.max() <= high
        assert share.min() >= 0.95 * high - 1e-9 or name != first
    cheap = UniformSampler(space, costs['flops']).sample(rng, 2000)
    inside = [costs[name](cheap) <= float(a[:-1]) / 100 * fulls[name] for name, a in limit.items()]
    inside.append(costs[first](cheap) >= budget.low)
    assert budget.contains(cheap).tolist() == np.all(inside, axis=0).tolist()


def test_budgets_that_no_subnet_meets_together_name_the_one_that_fails(space, costs, rng):
    tiny, _ = ends(space, costs['params'])
    budget = Budget(space, costs, dict(flops='80%', params=int(tiny) + 1))
    sampler = PriorSampler(space, budget, max_trials=3000)
    with pytest.raises(BudgetError, match=r'has .* \(those in the window have no less'):
        sampler.sample(rng, 1)


def test_a_window_between_two_subnets():
    space = SearchSpace(dict(a=64, b=64), dict(type='Toy'), ratios=(0.5, 1.0))
    cost = Cost(space.names)
    cost.add(1, 'a', 'b')  # 1024, 2048 or 4096
    with pytest.raises(BudgetError, match='leave a gap there'):
        PriorSampler(space, Budget(space, dict(flops=cost), dict(flops=3000)))


def test_repr_names_units(space, costs):
    budget = Budget(space, costs, dict(flops='50%', latency='90%'))
    assert 'FLOPs (multiply-adds) and at most' in repr(budget) and 'us of latency' in repr(budget)
