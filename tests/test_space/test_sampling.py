import numpy as np
import pytest
from conftest import ROOT

from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.supernet.building import find_supernet
from mmpse.space import (
    SAMPLERS,
    Budget,
    BudgetError,
    Cost,
    PriorSampler,
    SearchSpace,
    SpreadSampler,
    UniformSampler,
    expected_loss,
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


def test_tilted_distribution_has_the_expected_cost(space, cost, rng):
    cost.add(700, 'u2', 'u2')  # a layer whose two sides are one unit
    target = 0.4 * float(cost(space.array([space.fullnet]))[0])
    distribution = tilted(space, cost, target)
    expected = cost.expected(space.table, distribution.probabilities)
    assert expected == pytest.approx(target, rel=1e-6)
    assert cost(distribution.sample(rng, 20_000)).mean() == pytest.approx(target, rel=0.02)


def test_beside_is_the_cost_of_changing_one_unit(space, cost):
    cost.add(7, 'u3', 'u3')
    cost.add(3, 'u5', 'u3')
    rows = np.repeat(space.array([space.uniform(0.5)]), len(space.units[3].candidates), axis=0)
    rows[:, 3] = space.units[3].candidates
    beside = cost.beside(space.table, space.array([space.uniform(0.5)])[0])[3, : len(rows)]
    assert np.allclose(np.diff(beside), np.diff(cost(rows)))


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
    assert sampler.accepted == 200 and sampler.trials < 200 * 1.5


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


@pytest.mark.parametrize('kind', SAMPLERS)
def test_every_sampler_stays_in_the_budget_and_counts_its_trials(space, cost, rng, kind):
    energy = expected_loss(space, UniformSampler(space, cost).sample(rng, 2000), rng.random(2000))
    budget = Budget(space, dict(flops=cost), dict(flops='35%'))
    sampler = PriorSampler(space, budget, energy, kind)
    rows = np.concatenate([sampler.sample(rng, 100), sampler.sample(rng, 1)])
    assert budget.contains(rows).all() and sampler.accepted == len(rows) == 101
    blind = kind in ('loss', 'uniform')
    assert sampler.trials > 500 if blind else sampler.trials < 200


def test_only_priors_of_the_loss_follow_it(space, cost, rng):
    energy = np.zeros((len(space), max(len(unit.candidates) for unit in space.units)))
    energy[4, np.array(space.units[4].candidates) < 30] = 3
    budget = Budget(space, dict(flops=cost), dict(flops='35%'))

    def narrow(kind):
        return (PriorSampler(space, budget, energy, kind).sample(rng, 300)[:, 4] < 30).mean()

    assert max(narrow('prior'), narrow('loss')) < 0.2 < min(narrow('cost'), narrow('uniform'))


def test_unknown_sampler_and_one_without_its_losses(space, cost):
    budget = Budget(space, dict(flops=cost), dict(flops='50%'))
    with pytest.raises(ValueError, match="sampler must be one of .*, got 'priors'"):
        PriorSampler(space, budget, kind='priors')
    with pytest.raises(ValueError, match="'loss' needs the losses of a supernet's training"):
        PriorSampler(space, budget, kind='loss')


def test_rejection_ends(space, cost, rng):
    budget = Budget(space, dict(flops=cost), dict(flops='95%'))
    with pytest.raises(BudgetError, match='none of .* draws has .* a sampler that knows the cost'):
        PriorSampler(space, budget, kind='uniform', max_trials=5000).sample(rng, 10)


@pytest.fixture(scope='module')
def mobilenet():
    """MobileNetV2 1.5x on ImageNet."""
    cfg = load_config(ROOT / 'configs/supernet/psenet_mobilenet-v2-w1p5_8xb256_in1k.py')
    supernet, costs = find_supernet(build_model(cfg), cfg, {}, (3, 224, 224))
    return supernet.space, costs


@pytest.mark.parametrize('limit', ['500M', '300M', '210M', '150M', '105M', '50M'])
def test_mobilenet_needs_few_trials_where_uniform_draws_find_none(mobilenet, rng, limit):
    """Issue 5: at most 2 trials per valid sample at every budget."""
    space, costs = mobilenet
    sampler = PriorSampler(space, Budget(space, costs, dict(flops=limit)))
    rows = sampler.sample(rng, 1000)
    assert sampler.trials / sampler.accepted < 1.3
    assert len(np.unique(rows, axis=0)) > 990
