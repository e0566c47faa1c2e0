"""Which execution of the subnets is the fastest here."""

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine import dist
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from mmpse.openmmlab import compat
from mmpse.openmmlab.models.batches import copied
from mmpse.openmmlab.seeding import drawn_aside
from mmpse.slim import Supernet
from mmpse.space import Subnet


def fastest_execution(
    runner: Runner, supernet: Supernet, data_batch: Any, draws: Sequence[Sequence[Subnet]]
) -> str:
    """Time a few steps; all processes take what is faster in the slowest of them.

    Args:
        runner: It trains the supernet's model.
        data_batch, draws: As of :func:`measure_executions`.

    Raises:
        MemoryError: If a step fits into memory in no execution.
    """
    if runner.cfg.get('compile') and 'masked' in supernet.executions:
        runner.logger.info("SupernetHook: execution='masked', since the model is compiled.")
        return 'masked'  # its shapes do not change with the subnets
    seconds = measure_executions(supernet.model, supernet, runner.optim_wrapper, data_batch, draws)
    everywhere = dist.all_gather_object(seconds)
    seconds = {name: max(of_rank[name] for of_rank in everywhere) for name in seconds}
    fastest = min(seconds, key=seconds.get)
    if seconds[fastest] == math.inf:
        raise MemoryError(
            f'SupernetHook: a step with {count_images(data_batch)} images does not fit into '
            'memory in any execution; choose a smaller train_dataloader.batch_size'
        )
    shown = ', '.join(
        f'{name} {"out of memory" if value == math.inf else f"{value:.3f} s"}'
        for name, value in seconds.items()
    )
    runner.logger.info(f"SupernetHook: execution='{fastest}' ({shown} per pass).")
    return fastest


def count_images(data_batch: Any) -> int:
    """Images in a batch as a dataloader gives it."""
    return len(data_batch['inputs'] if isinstance(data_batch, Mapping) else data_batch[0])


def measure_executions(
    model: nn.Module,
    supernet: Supernet,
    optim_wrapper: OptimWrapper,
    data_batch: Any,
    draws: Sequence[Sequence[Subnet]],
) -> dict[str, float]:
    """Median seconds of a forward and backward in each execution; ``inf``: out of memory.

    Weights, optimizer, buffers and random states are left as they were; gradients are cleared.

    Args:
        model: The model in training mode, not wrapped.
        supernet: The supernet that it is.
        optim_wrapper: Gives the context of the forward (mixed precision).
        data_batch: A batch as the training dataloader gives it.
        draws: The subnets of one step each; the first step of an execution warms up.
    """
    times = {}
    with left_as_it_was(model):
        # one after the other, as training goes on with one: in turn, each would pay for the
        # memory that the other left
        for execution in supernet.executions:
            try:
                seconds = [
                    _seconds(model, supernet, optim_wrapper, copied(data_batch), subnets, execution)
                    for subnets in draws
                ]
                times[execution] = statistics.median(seconds[1:])
            except (MemoryError, torch.OutOfMemoryError):
                times[execution] = math.inf
            model.zero_grad()
            torch.cuda.empty_cache()
    return times


def _seconds(
    model: nn.Module,
    supernet: Supernet,
    optim_wrapper: OptimWrapper,
    batch: Any,
    subnets: Sequence[Subnet],
    execution: str,
) -> float:
    """Seconds of one forward and backward."""
    model.zero_grad()
    start = now()
    with supernet.active(subnets, execution), optim_wrapper.optim_context(model):
        data = model.data_preprocessor(batch, True)
        losses = compat.forward_by_mode(model, data, 'loss')
    model.parse_losses(losses)[0].backward()
    return now() - start


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Put buffers and random states back afterwards."""
    buffers = [buffer.clone() for buffer in model.buffers()]
    try:
        with drawn_aside():
            yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(value)


def now() -> float:
    """Seconds, when the device has done what it was told so far."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
