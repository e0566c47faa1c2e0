"""Widths of the least loss under a budget."""

import itertools
import time

import numpy as np
import pytest

from mmpse.search import allocate
from mmpse.space import (
    Budget,
    BudgetError,
    Cost,
    PriorSampler,
    SearchSpace,
)


def chain(units, rng, ratios):
    """Convolutions in a chain with some shortcuts, and their FLOPs, parameters and latency."""
    widths = {f'u{k}': 8 * int(rng.integers(8, 20)) for k in range(units)}
    space = SearchSpace(widths, dict(type='Toy'), ratios=ratios)
    flops, params, latency = Cost(space.names), Cost(space.names), Cost(space.names)
    for k, (a, b) in enumerate(zip(space.names, space.names[1:])):
        area = float(rng.integers(1, 50))
        flops.add(9 * area, a, b)
        params.add(9, a, b)
        if k % 3 == 0 and k + 3 < units:
            flops.add(area, a, space.names[k + 3])
    latency.add(50)
    for name in space.names:
        latency.add(rng.uniform(0.1, 1), name)
    return space, dict(flops=flops, params=params, latency=latency)


def power_laws(space, rng, noise=0.0):
    table = space.table
    share = np.where(table, table, 1) / table.max(axis=1, keepdims=True)
    power = rng.uniform(0.1, 1.5, (len(space), 1))
    losses = np.exp(rng.normal(size=(len(space), 1))) * (share**-power - 1) / power
    return np.where(table, losses + noise * rng.normal(size=table.shape), np.nan)


def total(space, losses, widths):
    """Of subnets, added up one by one."""
    return np.array(
        [
            sum(losses[u, unit.candidates.index(row[u])] for u, unit in enumerate(space.units))
            for row in np.asarray(widths).tolist()
        ]
    )


def within(budget, widths):
    fits = budget.cost(widths) <= budget.high
    for cost, limit in list(budget.limits.values())[1:]:
        fits &= cost(widths) <= limit
    return fits


LIMITS = [dict(flops='30%'), dict(flops='60%', params='50%'), dict(latency='70%', flops='60%')]


@pytest.mark.parametrize('noise', [0.0, 0.2], ids=['monotone', 'noisy'])
@pytest.mark.parametrize('limit', LIMITS, ids=lambda limit: '+'.join(limit))
def test_near_the_best_of_all(limit, noise, rng):
    gaps = []
    for _ in range(8):
        space, costs = chain(5, rng, (0.25, 0.4, 0.55, 0.7, 0.85, 1.0))
        losses, budget = power_laws(space, rng, noise), Budget(space, costs, limit, window=0.1)
        every = np.array(list(itertools.product(*[unit.candidates for unit in space.units])))
        inside = every[budget.contains(every)]
        inside = inside if len(inside) else every[within(budget, every)]
        found = allocate(space, budget, losses)
        assert within(budget, found)[0]
        # beside other limits the window can be out of reach of what loses little
        assert budget.contains(found)[0] or len(limit) > 1
        gap = total(space, losses, found)[0] - total(space, losses, inside).min()
        gaps.append(gap / np.nanstd(losses))
    assert np.mean(gaps) < 0.05
    assert np.median(gaps) < 1e-9


@pytest.mark.parametrize('limit', [dict(flops='50%'), dict(flops='10%')])
def test_beats_random_search_in_a_large_space_in_a_second(limit, rng):
    space, costs = chain(60, rng, np.linspace(0.2, 1, 9).tolist())
    losses, budget = power_laws(space, rng), Budget(space, costs, limit)
    started = time.process_time()
    found = allocate(space, budget, losses)
    assert time.process_time() - started < 3  # a third of it on an idle machine
    assert budget.contains(found)[0]
    assert budget.cost(found)[0] > 0.999 * budget.high
    random = PriorSampler(space, budget, kind='cost').sample(rng, 500)
    assert total(space, losses, found)[0] < 0.8 * total(space, losses, random).min()


def test_several_limits_of_a_large_space(rng):
    space, costs = chain(40, rng, np.linspace(0.2, 1, 9).tolist())
    losses = power_laws(space, rng)
    budget = Budget(space, costs, dict(flops='30%', latency='60%', params='30%'))
    found = allocate(space, budget, losses)
    assert within(budget, found)[0]
    for u, unit in enumerate(space.units):  # it is used up: no unit can be wider
        wider = np.array([[*found[0, :u], w, *found[0, u + 1 :]] for w in unit.candidates])
        wider = wider[wider[:, u] > found[0, u]]
        assert not len(wider) or not within(budget, wider).any()


def test_room_is_used_where_it_loses_nothing(rng):
    space, costs = chain(8, rng, (0.25, 0.5, 0.75, 1.0))
    budget = Budget(space, costs, dict(flops='50%'))
    found = allocate(space, budget, np.zeros(space.table.shape))
    assert budget.contains(found)[0]


def test_floor_and_ceiling(rng):
    space, costs = chain(6, rng, np.linspace(0.2, 1, 9).tolist())
    losses, budget = power_laws(space, rng), Budget(space, costs, dict(flops='30%'))
    full = space.array([space.fullnet])[0]
    assert (allocate(space, budget, losses)[0] / full).min() < 0.35
    assert (allocate(space, budget, losses, floor=0.35)[0] / full).min() >= 0.35
    each = np.linspace(0.2, 0.6, 6)
    assert (allocate(space, budget, losses, floor=each)[0] / full >= each).all()
    ceiling = allocate(space, budget, losses, ceiling=[0.5, 1, 1, 1, 1, 1])[0] / full
    assert ceiling[0] <= 0.5 < ceiling.max()
    fixed = allocate(space, budget, losses, floor=0.4, ceiling=0.45)  # nothing between: above it
    assert (
        fixed[0] == [min(w for w in u.candidates if w >= 0.4 * u.max_width) for u in space.units]
    ).all()
    with pytest.raises(BudgetError, match='the floor allows have .* FLOPs .* lower the floor'):
        allocate(space, budget, losses, floor=0.9)


def test_a_bound_prefers_what_is_certain(rng):
    changed = 0
    for _ in range(5):
        space, costs = chain(6, rng, np.linspace(0.2, 1, 9).tolist())
        losses, budget = power_laws(space, rng), Budget(space, costs, dict(flops='40%'))
        refits = losses * (1 + rng.normal(size=(30, len(space), 1)))
        others = PriorSampler(space, budget, kind='cost').sample(rng, 50)

        def bound(widths, errors, refits=refits, space=space):
            of_refits = np.array([total(space, refit, widths) for refit in refits])
            return of_refits.mean(axis=0) + errors * of_refits.std(axis=0)

        found = allocate(space, budget, refits, errors=2.0)
        plain = allocate(space, budget, refits)
        assert budget.contains(found)[0]
        assert bound(found, 2.0)[0] <= bound([*plain, *others], 2.0).min()
        changed += bound(found, 2.0)[0] < bound(plain, 2.0)[0]
        mean = allocate(space, budget, refits.mean(axis=0))
        assert bound(plain, 0.0) == pytest.approx(bound(mean, 0.0))
    assert changed


def test_several_subnets_and_starts(rng):
    space, costs = chain(6, rng, np.linspace(0.2, 1, 9).tolist())
    losses, budget = power_laws(space, rng, 0.3), Budget(space, costs, dict(flops='40%'))
    best = allocate(space, budget, losses, count=12)
    assert len(np.unique(best, axis=0)) == 12
    assert budget.contains(best).all()
    assert (np.diff(total(space, losses, best)) >= 0).all()
    starts = PriorSampler(space, budget, kind='cost').sample(rng, 5)
    again = allocate(space, budget, losses, starts=starts)
    assert total(space, losses, again)[0] <= total(space, losses, [best[0], *starts]).min()
    rows = space.uniform_rows()
    outside = rows[np.abs(budget.cost(rows) - 1.3 * budget.high).argmin()][None]
    assert budget.contains(allocate(space, budget, losses, starts=outside))[0]


def test_one_unit(rng):
    space = SearchSpace(dict(only=80), dict(type='Toy'), ratios=(0.25, 0.5, 1.0))
    cost = Cost(space.names)
    cost.add(7, 'only')
    found = allocate(space, Budget(space, dict(flops=cost), dict(flops='50%')), [[2.0, 1.0, 0.0]])
    assert found.tolist() == [[40]]


def test_losses_that_are_not_finite(rng):
    space, costs = chain(4, rng, (0.25, 0.5, 0.75, 1.0))
    budget = Budget(space, costs, dict(flops='50%'))
    losses = power_laws(space, rng)
    losses[0, 0] = np.nan
    with pytest.raises(ValueError, match='a finite loss for every candidate'):
        allocate(space, budget, losses)
