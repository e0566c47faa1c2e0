"""A time is compared with what the processor worked for it."""

import pytest

from mmpse.resources.busy import Clocks, busy, busy_sentence, worked


@pytest.mark.parametrize(
    ('wall', 'thread', 'process', 'threads', 'expected'),
    [
        (10, 9.9, 9.9, 1, 1.01),  # alone
        (10, 5, 5, 1, 2),  # another job took half
        (10, 5, 10, 2, 2),  # in both threads
        (10, 9.5, 12, 2, 1.05),  # two threads that wait for each other: nobody took anything
        (10, 0.1, 19, 2, 1.05),  # others compute, and this one waits (OpenVINO, say)
        (10, 9.8, 9.8, 16, 1.02),  # it waits for a GPU
        (10, 11, 30, 2, 1),  # clocks are not of one mind
        (2605, 9, 9, 1, 2605 / 9),
    ],
)
def test_factor(wall, thread, process, threads, expected):
    start = Clocks(3.0, 5.0, 7.0)
    end = Clocks(3.0 + wall, 5.0 + thread, 7.0 + process)
    assert busy(start, end, threads) == pytest.approx(expected, rel=0.01)
    assert worked(start, end, threads) == pytest.approx(wall / expected, rel=0.01)


def test_it_is_said_in_one_sentence():
    assert busy_sentence(1.1) == ''
    assert 'took 4.2 times as long as the processor worked' in busy_sentence(4.2)
