"""Conditional draws against the distribution that full enumeration gives."""

import itertools

import numpy as np
import pytest

from mmpse.space import ConditionalSampler, Cost, SearchSpace, WidthDistribution


def chain(cost, names):
    for a, b in zip(names, names[1:]):
        cost.add(9, a, b)
    cost.add(100)


def residual(cost, names):
    """Two residual sums (0, 3), a bottleneck (1, 2) between them, another (4, 5) on the second."""
    for a, b in [(0, 1), (1, 2), (2, 3), (0, 3), (3, 4), (4, 5), (5, 3)]:
        cost.add(5 + a, names[a], names[b])
    cost.add(40, names[2])
    cost.add(3, names[3], names[3])


def dense(cost, names):
    """Four units that all meet, and others that meet nothing."""
    for a, b in itertools.combinations(names[1:5], 2):
        cost.add(2, a, b)
    cost.add(100, names[0])


@pytest.mark.parametrize('couple', [chain, residual, dense])
@pytest.mark.parametrize('share', [0.25, 0.6])
def test_draws_follow_the_conditioned_prior(couple, share, rng):
    space = SearchSpace({f'u{k}': 24 + 8 * (k % 3) for k in range(6)}, dict(type='Toy'))
    cost = Cost(space.names)
    couple(cost, space.names)
    energy = rng.standard_normal((6, max(len(u.candidates) for u in space.units)))
    for row, unit in zip(energy, space.units):
        row[len(unit.candidates) :] = np.inf
    prior = WidthDistribution(space, energy)

    every = np.array(list(itertools.product(*(unit.candidates for unit in space.units))))
    high = share * float(cost(space.array([space.fullnet]))[0])
    low = 0.9 * high
    inside = (low <= cost(every)) & (cost(every) <= high)
    index = (every[inside][:, :, None] == space.table).argmax(axis=2)
    exact = np.prod(prior.probabilities[np.arange(6), index], axis=1)

    sampler = ConditionalSampler(space, prior.probabilities, cost, low, high)
    assert exact.sum() <= sampler.mass < 1.5 * exact.sum()
    drawn = sampler.sample(rng, 40_000)
    drawn = drawn[(low <= cost(drawn)) & (cost(drawn) <= high)]
    assert len(drawn) / 40_000 == pytest.approx(exact.sum() / sampler.mass, abs=0.02)

    number = {tuple(row): k for k, row in enumerate(every[inside].tolist())}
    counts = np.bincount([number[tuple(row)] for row in drawn.tolist()], minlength=len(number))
    expected = exact / exact.sum() * len(drawn)
    often = expected >= 5  # the others are lumped together
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(expected[often], expected[~often].sum() + 1e-9)
    chi_square = ((observed - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_nothing_in_the_window():
    space = SearchSpace(dict(a=64, b=64), dict(type='Toy'), ratios=(0.5, 1.0))
    cost = Cost(space.names)
    cost.add(1, 'a', 'b')
    half = np.full((2, 2), 0.5)
    assert ConditionalSampler(space, half, cost, 2500, 3500).mass == 0
    assert ConditionalSampler(space, half, cost, 10, 20).mass == 0
    assert ConditionalSampler(space, half, cost, 2000, 2100).mass == 0.5
