"""How far a job is, and how long it will take."""

import datetime
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from mmengine import dist
from rich.console import Console
from rich.progress import Progress, track

Track = Callable[[Iterable], Iterable]  # wraps an iterable, for a progress bar


def progress(description: str) -> Track:
    """A progress bar with the time that is left."""
    return partial(track, description=description, transient=True)


class Clock:
    """How long new subnets take."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.new = 0

    def text(self, remaining: int) -> str:
        seconds = (time.monotonic() - self.started) / max(self.new, 1)
        eta = datetime.timedelta(seconds=round(seconds * remaining))
        return f'{seconds:.2f} s a subnet, ETA {eta}'


@contextmanager
def search_bar(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on the terminal; yields what advances it and says where the search is."""
    with Progress(
        console=Console(file=sys.stdout),  # which stays when others' output is silenced
        transient=True,
        disable=not dist.is_main_process(),
    ) as progress:
        task = progress.add_task('search', total=total)
        yield lambda text: progress.update(task, advance=1, description=text)
