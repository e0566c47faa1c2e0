"""Which execution of the subnets is the fastest here."""

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine import dist
from mmengine.runner import Runner
from torch import nn

from mmpse.errors import UserError
from mmpse.openmmlab import compat
from mmpse.openmmlab.models.batches import copied
from mmpse.openmmlab.seeding import drawn_aside
from mmpse.slim import Supernet
from mmpse.space import Subnet


def fastest_execution(
    runner: Runner, supernet: Supernet, data_batch: Any, draws: Sequence[Sequence[Subnet]]
) -> str:
    """Time a few steps; all processes take what is faster in the slowest of them.

    Weights, optimizer, buffers and random states are left as they were; gradients are cleared.

    Args:
        supernet: Its model is in training mode.
        data_batch: A batch as the training dataloader gives it.
        draws: The subnets of one step each; the first step of an execution warms up.

    Raises:
        MemoryError: If a step fits into memory in no execution.
        UserError: If a subnet gets so few images that its BatchNorms fail.
    """
    if runner.cfg.get('compile') and 'masked' in supernet.executions:
        runner.logger.info("SupernetHook: execution='masked', since the model is compiled.")
        return 'masked'  # its shapes do not change with the subnets
    medians = {}
    with left_as_it_was(supernet.model):
        # one after the other, as training goes on with one: in turn, each would pay for the
        # memory that the other left
        for execution in supernet.executions:
            try:
                times = [
                    _seconds(runner, supernet, copied(data_batch), subnets, execution)
                    for subnets in draws
                ]
                medians[execution] = statistics.median(times[1:])
            except (MemoryError, torch.OutOfMemoryError):
                medians[execution] = math.inf
            supernet.model.zero_grad()
            torch.cuda.empty_cache()
    everywhere = dist.all_gather_object(medians)
    seconds = {name: max(of_rank[name] for of_rank in everywhere) for name in medians}
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


def _seconds(
    runner: Runner, supernet: Supernet, batch: Any, subnets: Sequence[Subnet], execution: str
) -> float:
    """Seconds of one forward and backward."""
    model = supernet.model
    model.zero_grad()
    start = now()
    with supernet.active(subnets, execution), runner.optim_wrapper.optim_context(model):
        try:
            losses = compat.forward_by_mode(model, model.data_preprocessor(batch, True), 'loss')
        except ValueError as error:
            if not compat.is_of_one_value(error):
                raise
            raise UserError(
                f'SupernetHook: {len(subnets)} subnets share a batch of {count_images(batch)} '
                'images, too few for a BatchNorm of the model, which gets one value of a channel; '
                'give a larger train_dataloader.batch_size, a smaller n, or serial=True'
            ) from error
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
