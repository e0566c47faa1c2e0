"""How long calls take on this device, beside each other."""

import ctypes
import math
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from .busy import busy, clocks, worked


class Latencies(dict[Any, list[float]]):
    """Seconds of every round, by the name of what was called.

    Args:
        least: Name -> the least seconds for which the processor worked for a call, in any round,
            which other jobs disturb less; by default the least that passed.

    Attributes:
        busy (float): How many times as long they took as on an idle machine; see
            :func:`mmpse.resources.busy.busy`.
    """

    busy: float = 1.0

    def __init__(
        self, seconds: Mapping[Any, list[float]], least: Mapping[Any, float] | None = None
    ) -> None:
        super().__init__(seconds)
        self.least = dict(least or {name: min(values) for name, values in seconds.items()})


def measure_latencies(
    calls: Mapping[Any, Callable[[], Any]],
    rounds: int = 50,
    warmup: int = 5,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
    few: int = 5,
    enough: float = 60.0,
) -> Latencies:
    """Seconds that each of several calls takes, in every round.

    The calls run interleaved, round by round, so that a slow moment of the machine meets them all;
    each runs twice in a row and the second time counts, since in use a model meets its own weights
    in the caches, not those of others.

    Args:
        calls: Name -> call that returns when its result is there.
        rounds: Measured rounds, at most.
        warmup: Rounds before them.
        track: Wraps the iterator over rounds, for a progress bar.
        few, enough: So many measured rounds suffice after so many seconds.
    """
    keep_freed_memory()
    times = Latencies({name: [] for name in calls}, dict.fromkeys(calls, math.inf))
    threads = torch.get_num_threads()
    begin = start = clocks()
    for k in track(range(warmup + rounds)):
        if k == warmup:
            start = clocks()
        if k >= warmup + few and clocks().wall - begin.wall > enough:
            break
        for name, call in calls.items():
            call()
            before = clocks()
            call()
            after = clocks()
            if k >= warmup:
                times[name].append(after.wall - before.wall)
                times.least[name] = min(times.least[name], worked(before, after, threads))
    times.busy = busy(start, clocks(), threads)
    return times


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, as the allocators of servers do.

    By default glibc gives large blocks back and gets them anew, a page fault for every 4 KiB, or
    not, depending on what was allocated before: MobileNetV2 1.5x took 20 or 27 ms for it.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:  # glibc
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def device_name(device: str | torch.device) -> str:
    """The device as its maker calls it."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r'model name\s*:\s*(.+)', Path('/proc/cpuinfo').read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
