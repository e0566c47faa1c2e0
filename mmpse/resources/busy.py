"""Whether something was timed on a busy machine; needs the standard library only."""

import os
import time
from typing import NamedTuple

BUSY = 1.3  # from this factor on, a time says more of the machine than of what was timed


class Clocks(NamedTuple):
    """Seconds of the clock, and of a processor for this thread and for the whole process."""

    wall: float
    thread: float
    process: float


def clocks() -> Clocks:
    """What the clocks show now."""
    return Clocks(time.perf_counter(), time.thread_time(), time.process_time())


def worked(start: Clocks, end: Clocks, threads: int) -> float:
    """Seconds for which the processor worked for something: those that pass on an idle machine.

    They are those of the thread that waited for the result, which computes too or spins, or those
    of all threads, where others compute.

    Args:
        start, end: The :func:`clocks` before and after.
        threads: Threads that computed.
    """
    wall, thread, process = (after - before for before, after in zip(start, end))
    return min(max(thread, process / threads, 1e-9), wall)


def busy(start: Clocks, end: Clocks, threads: int) -> float:
    """How many times as long as on an idle machine something took.

    The time that passed is compared with that for which the processor worked, see :func:`worked`.

    Returns:
        About 1 on an idle machine, 2 where another job took half of the time.
    """
    return (end.wall - start.wall) / worked(start, end, threads)


def busy_sentence(
    factor: float, again: str = 'measure latency again when nothing else runs'
) -> str:
    """What to tell the user of a factor, and what to do; empty if the times are good."""
    if factor < BUSY:
        return ''
    return (
        f'the machine is busy (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors): '
        f'what was timed took {factor:.1f} times as long as the processor worked for it; {again}'
    )
