"""Racing against independent computations: the line, and which candidates it drops."""

import math

import numpy as np
import pytest

from mmpse.engine import Judged, Race
from mmpse.engine.racing import least_part, residual


@pytest.fixture
def scores(rng):
    """Whole scores, and part scores on another scale, as those of COCO's mAP are."""
    whole = rng.normal(30, 2, size=40)
    return whole, 0.25 * whole + 1 + rng.normal(0, 0.4, size=40)


def test_least_part_is_two_standard_errors_below_the_prediction(scores):
    """Against the textbook's matrices."""
    whole, part = scores
    x = np.stack([np.ones_like(whole), whole], axis=1)
    weights, (squares,), _, _ = np.linalg.lstsq(x, part, rcond=None)
    variance, bar = squares / (len(whole) - 2), np.array([1, 33.0])
    error = np.sqrt(variance * (1 + bar @ np.linalg.inv(x.T @ x) @ bar))
    assert least_part(whole, part, 33.0) == pytest.approx(bar @ weights - 2 * error)
    assert residual(whole, part) == pytest.approx(np.sqrt(variance))


def test_the_good_stay_and_the_clearly_worse_go(scores, rng):
    least = least_part(*scores, 33.0)
    noise = rng.normal(0, 0.4, size=10_000)
    assert np.mean(0.25 * 33 + 1 + noise < least) < 0.05
    assert np.mean(0.25 * 26 + 1 + noise < least) > 0.9


@pytest.mark.parametrize('bar', [33.0, -math.inf])
@pytest.mark.parametrize(
    ('whole', 'part'),
    [
        ([], []),
        ([30.0, 31, 32, 33], [7.0, 8, 9, 10]),  # too few
        ([30.0] * 9, [7.0, 8, 9] * 3),  # no line
        ([30.0, 31, 32, 33, 34], [9.0, 8, 7, 6, 5]),  # the part says nothing of the whole
    ],
)
def test_nothing_is_dropped_where_part_and_whole_do_not_go_together(whole, part, bar):
    assert least_part(np.array(whole), np.array(part), bar) == -math.inf


def test_the_line_leaves_out_what_is_dropped_or_not_a_number(scores):
    rows = [
        Judged(1, 0, 'prior', (k,), score, None, {}, part)
        for k, (score, part) in enumerate(zip(*scores))
    ]
    race = Race(share=0.25)
    race.note(rows, -math.inf)
    expected = race.least(32.0)
    assert expected == least_part(*scores, 32.0)
    race.note(
        [
            rows[0]._replace(widths=(100,), score=None, part=1.0),
            rows[0]._replace(widths=(101,), score=-math.inf),
            rows[0]._replace(widths=(102,), part=-math.inf),  # decides nothing
            rows[0]._replace(widths=(103,), part=None),  # of another search
        ],
        least=2.0,
    )
    assert race.least(32.0) == expected and race.dropped == {(100,)}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(share=0.0), r'between 0 and 1 \(0.25, say\); got 0.0'),
        (dict(share=1.0), 'got 1.0'),
        (dict(share='25%'), "got '25%'"),
        (dict(share=math.nan), 'got nan'),
        (dict(share=0.25, drop='no'), "racing.drop must be True or False, got 'no'"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        Race(**options)
