"""Sharing work out over the processes of MMEngine's launcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine import dist
from mmengine.dist import utils


class RankError(RuntimeError):
    """Another process of the job failed."""


def gather(call: Callable[[], Any]) -> list[Any]:
    """What ``call`` returns in every process, in the order of the ranks, in every process.

    Raises:
        RankError: If it failed in another process, so that no process waits for a failed one for
            ever; where it failed, its own error.
    """
    if dist.get_world_size() == 1:
        return [call()]
    result = error = None
    try:
        result = call()
    except Exception as caught:
        error = caught
    text = None if error is None else f'{type(error).__name__}: {error}'
    outcomes = dist.all_gather_object((text, result))
    if error is not None:
        raise error
    for rank, (failure, _) in enumerate(outcomes):
        if failure is not None:
            raise RankError(f'the process of rank {rank} failed: {failure}')
    return [result for _, result in outcomes]


def on_main(call: Callable[[], Any]) -> Any:
    """What ``call`` returns in the process of rank 0, in every process; others do not call it."""
    return gather(call if dist.is_main_process() else lambda: None)[0]


@contextmanager
def alone() -> Iterator[None]:
    """Inside, MMEngine sees a job of one process.

    Processes judge different subnets, each on the same, whole data: nothing may be split among them
    by samplers, or gathered from them by metrics. MMEngine has no setting for that.
    """
    is_distributed = utils.is_distributed
    utils.is_distributed = lambda: False
    try:
        yield
    finally:
        utils.is_distributed = is_distributed
