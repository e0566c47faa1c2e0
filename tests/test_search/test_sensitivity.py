"""Curves of single units from a few measured widths."""

import numpy as np
import pytest

from mmpse.search import candidate_losses
from mmpse.space import SearchSpace


@pytest.fixture
def space():
    return SearchSpace(
        dict(a=64, b=128, fixed=10),
        dict(type='Toy'),
        ratios=(0.125, 0.25, 0.5, 0.75, 1.0),
        grids={'fixed': dict(ratios=[1.0], divisor=10)},
    )


def curves(space, a, b):
    losses = dict(a=zip([16, 32, 48], a, strict=True), b=zip([32, 64, 96], b, strict=True))
    return candidate_losses(space, {unit: dict(points) for unit, points in losses.items()})


def test_measured_losses_are_kept_and_interpolated_by_octaves(space):
    table = curves(space, [4.0, 1.0, 0.5], [6.0, 2.0, 1.0])
    assert table.shape == (3, 5)
    assert table[0, 1:] == pytest.approx([4.0, 1.0, 0.5, 0.0])
    assert table[1, 1:] == pytest.approx([6.0, 2.0, 1.0, 0.0])
    assert table[2] == pytest.approx(np.zeros(5))
    table = candidate_losses(space, dict(a={16: 4.0}, b={32: 6.0}))
    assert table[0, 2] == pytest.approx(2.0)  # one of two octaves


def test_order_of_the_widths_does_not_matter(space):
    losses = dict(a={48: 0.5, 16: 4.0, 32: 1.0}, b={64: 2.0, 32: 6.0, 96: 1.0})
    expected = curves(space, [4.0, 1.0, 0.5], [6.0, 2.0, 1.0])
    assert candidate_losses(space, losses) == pytest.approx(expected)


def test_narrower_never_loses_less(space, rng):
    for _ in range(20):
        table = curves(space, rng.normal(size=3), rng.normal(size=3))[:2]
        assert (np.diff(table, axis=1) <= 1e-12).all()
        assert (table[:, -1] == 0).all()


def test_neighbours_in_the_wrong_order_share_their_mean(space):
    found = curves(space, [3.0, 1.0, 2.0], [-1.0, -2.0, -3.0])
    assert found[0, 1:4] == pytest.approx([3.0, 1.5, 1.5])
    assert found[1, 1:4] == pytest.approx([0.0, 0.0, 0.0])  # gains are noise


def test_below_the_narrowest_it_goes_on_steeply(space):
    found = curves(space, [4.0, 1.0, 0.5], [0.0, 0.0, 0.0])
    assert found[0, 0] == pytest.approx(4.0 + 3.0)  # its own slope is the steepest
    assert found[1, 0] == pytest.approx(1.5)  # no loss measured: the median slope


def test_losses_that_are_not_finite(space):
    with pytest.raises(ValueError, match='finite losses .* of b'):
        candidate_losses(space, dict(a={16: 1.0}, b={32: np.nan}))
