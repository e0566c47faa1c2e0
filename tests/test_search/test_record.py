"""Predictors of what training recorded and what was judged, and what they are asked for."""

import numpy as np
import pytest

from mmpse.search import best_few, paired_gain, predictor_of, refitted
from mmpse.space import Budget, Cost, SearchSpace, UniformSampler, uniform_within

UNITS = 6


class Case:
    """A chain of convolutions, and losses to which the first units matter more than the last."""

    def __init__(self, rng):
        self.rng = rng
        self.space = SearchSpace({f'u{k}': 64 for k in range(UNITS)}, dict(type='Net'))
        cost = Cost(self.space.names)
        for one, other in zip(self.space.names, self.space.names[1:]):
            cost.add(1, one, other)
        self.budget = Budget(self.space, dict(flops=cost), dict(flops='40%'))
        self.reference = uniform_within(self.space, self.budget)
        self.draws = UniformSampler(self.space, cost)

    def sample(self, count):
        return self.draws.sample(self.rng, count)

    def truth(self, widths):
        """Logarithms of losses."""
        return (-np.log2(widths / 64) * np.linspace(1, 0.1, UNITS)).sum(1)

    def predictor(self, widths, logs):
        iterations = np.zeros(len(widths), dtype=int)
        return predictor_of(
            self.space, self.budget, self.reference, iterations, widths, np.exp(logs)
        )


@pytest.fixture
def case(rng):
    return Case(rng)


def test_a_subnet_that_is_recorded_often_is_one_subnet(case):
    """What is odd about it does not make the predictor surer of other subnets."""
    widths = case.sample(40)
    odd = case.truth(widths) + case.rng.normal(0, 1, 40)
    others = case.sample(300)

    def doubt(predictor):
        bounds = [predictor.lower_bound_gain(others, errors) for errors in (0, 1)]
        return (bounds[0] - bounds[1]).mean()

    once, often = (
        case.predictor(widths, odd),
        case.predictor(np.repeat(widths, 10, 0), odd.repeat(10)),
    )
    assert often.predict(others) == pytest.approx(once.predict(others), abs=0.3)
    assert 0.7 < doubt(often) / doubt(once) < 1.4


def test_judged_subnets_sharpen_a_predictor_whatever_their_unit(case):
    widths, others = case.sample(60), case.sample(300)
    predictor = case.predictor(widths, case.truth(widths) + case.rng.normal(0, 3, 60))
    judged = case.sample(30)
    scores = 90 - 5 * case.truth(judged) + case.rng.normal(0, 0.5, 30)

    def error(predictor):
        return 1 - np.corrcoef(predictor.predict(others), case.truth(others))[0, 1]

    assert error(refitted(predictor, judged, -scores)) < 0.5 * error(predictor)
    assert refitted(predictor, judged[:5], -scores[:5]) is predictor  # too few
    assert refitted(predictor, judged, scores) is predictor  # they say the opposite


def test_the_best_few_are_within_the_budget_and_not_all_alike(case):
    widths = case.sample(200)
    predictor = case.predictor(widths, case.truth(widths) + case.rng.normal(0, 0.3, 200))
    rows = best_few(predictor, case.budget, 10)
    assert rows.shape == (10, UNITS) and len(np.unique(rows, axis=0)) == 10
    assert (case.budget.cost(rows) <= case.budget.high).all()
    assert (case.truth(rows) < case.truth(case.reference[None])).all()


def test_a_record_of_noise_finds_nothing_better_than_uniform(case):
    widths = case.sample(40)
    flops = np.log(case.budget.cost(widths))
    predictor = case.predictor(widths, -flops)  # by cost alone
    rows = best_few(predictor, case.budget, 10)
    assert rows.shape[1] == UNITS and len(rows) <= 10


def test_a_gain_is_sure_beyond_a_standard_error():
    gain = paired_gain([3.0, 5.0, 4.0, 4.0], [2.0, 5.0, 3.0, 4.0])
    assert gain.mean == 0.5 and gain.error == pytest.approx(np.sqrt(1 / 3) / 2)
    assert gain.sure
    assert not paired_gain([3.0, 5.0], [2.0, 5.5]).sure
    assert not paired_gain([3.0], [2.0]).sure  # one part tells nothing
