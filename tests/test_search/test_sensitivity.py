"""Curves of single units from a few measured widths."""

import numpy as np
import pytest

from mmpse.search import Curves
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
    return Curves(space, dict(a=[16, 32, 48], b=[32, 64, 96]), dict(a=a, b=b))


def test_measured_losses_are_kept_and_interpolated_by_octaves(space):
    found = curves(space, [4.0, 1.0, 0.5], [6.0, 2.0, 1.0])
    assert found.loss('a', [16, 32, 48, 64]) == pytest.approx([4.0, 1.0, 0.5, 0.0])
    assert found.loss('a', [np.sqrt(16 * 32)]) == pytest.approx([2.5])  # half an octave
    table = found.table()
    assert table.shape == (3, 5)
    assert table[1, 1:] == pytest.approx([6.0, 2.0, 1.0, 0.0])
    assert table[2] == pytest.approx(np.zeros(5))


def test_order_of_the_widths_does_not_matter(space):
    shuffled = Curves(
        space, dict(a=[48, 16, 32], b=[64, 32, 96]), dict(a=[0.5, 4, 1], b=[2.0, 6.0, 1.0])
    )
    expected = curves(space, [4.0, 1.0, 0.5], [6.0, 2.0, 1.0])
    assert shuffled.table() == pytest.approx(expected.table())


def test_narrower_never_loses_less(space, rng):
    for _ in range(20):
        table = curves(space, rng.normal(size=3), rng.normal(size=3)).table()[:2]
        assert (np.diff(table, axis=1) <= 1e-12).all()
        assert (table[:, -1] == 0).all()


def test_neighbours_in_the_wrong_order_share_their_mean(space):
    found = curves(space, [3.0, 1.0, 2.0], [-1.0, -2.0, -3.0])
    assert found.loss('a', [16, 32, 48]) == pytest.approx([3.0, 1.5, 1.5])
    assert found.loss('b', [32, 64, 96]) == pytest.approx([0.0, 0.0, 0.0])  # gains are noise


def test_repeated_widths_count_by_their_mean(space):
    found = Curves(space, dict(a=[16, 32, 32, 48], b=[64]), dict(a=[4.0, 1.0, 2.0, 0.5], b=[1.0]))
    assert found.loss('a', [32]) == pytest.approx([1.5])


def test_below_the_narrowest_it_goes_on_steeply(space):
    found = curves(space, [4.0, 1.0, 0.5], [0.0, 0.0, 0.0])
    assert found.loss('a', [8]) == pytest.approx([4.0 + 3.0])  # its own slope is the steepest
    assert found.loss('b', [16]) == pytest.approx([1.5])  # no loss measured: the median slope


def test_losses_that_are_not_finite(space):
    with pytest.raises(ValueError, match='finite losses .* of b'):
        Curves(space, dict(a=[16], b=[32]), dict(a=[1.0], b=[np.nan]))
