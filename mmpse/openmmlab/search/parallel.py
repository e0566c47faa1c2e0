"""Sharing work out over the processes of MMEngine's launcher."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mmengine import dist

from mmpse.errors import UserError


def processes() -> str:
    """'1 process', '2 processes': those of the launcher."""
    count = dist.get_world_size()
    return f'{count} process{"es" * (count != 1)}'


def gather(call: Callable[[], Any]) -> list[Any]:
    """What ``call`` returns in every process, in the order of the ranks, in every process.

    Raises:
        UserError: If it failed in another process, so that no process waits for a failed one for
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
            raise UserError(f'the process of rank {rank} failed: {failure}')
    return [result for _, result in outcomes]


def on_main(call: Callable[[], Any]) -> Any:
    """What ``call`` returns in the process of rank 0, in every process; others do not call it."""
    return gather(call if dist.is_main_process() else lambda: None)[0]


def shared(
    items: Sequence[Any], call: Callable[[Any], Any], each: int = 1
) -> Iterator[tuple[Sequence[Any], list[Any]]]:
    """Items in waves, ``each`` of them for a process, with what ``call`` gives of every one."""
    world, rank = dist.get_world_size(), dist.get_rank()
    for start in range(0, len(items), each * world):
        wave = items[start : start + each * world]
        shares = gather(lambda wave=wave: [call(item) for item in wave[rank::world]])
        results = [None] * len(wave)
        for k, share in enumerate(shares):
            results[k::world] = share
        yield wave, results
