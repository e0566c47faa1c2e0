"""Latency of a whole model's subnets: measured on this device, fitted, and kept in a file."""

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from torch import Tensor, nn

from mmpse.differences import differences
from mmpse.errors import UserError
from mmpse.openmmlab.models.outputs import deployed_outputs
from mmpse.openmmlab.progress import Track
from mmpse.resources.latency import fit_latency, spread
from mmpse.resources.timing import Latencies, device_name, measure_latencies
from mmpse.slim.cutting import cut_
from mmpse.slim.layout import Layout
from mmpse.space import Cost, SearchSpace

from .runtimes import prepared

SCHEMA = 'mmpse.latency/2'
ROUNDS = 15
EXPECTED, TRIES = 0.1, 3  # mean error of a fit to good times; measurements until it is reached


def measure_subnets(
    model: nn.Module,
    layout: Layout,
    subnets: Sequence[Mapping[str, int]],
    input_shape: Sequence[int],
    runtime: str = 'torch',
    track: Track = iter,
) -> Latencies:
    """Seconds that one image takes in each of several static subnets, in interleaved rounds.

    Args:
        input_shape: ``(C, H, W)`` of the image.
        runtime: See :func:`mmpse.deploy.prepared`.

    Returns:
        Number of a subnet -> its seconds in every round.
    """
    image = torch.zeros(1, *input_shape, device=next(model.parameters()).device)
    return measure_latencies(_calls(model, layout, subnets, image, runtime), ROUNDS, track=track)


def _calls(
    model: nn.Module,
    layout: Layout,
    subnets: Sequence[Mapping[str, int]],
    image: Tensor,
    runtime: str,
) -> dict[int, Callable[[], Any]]:
    """Number of a subnet -> a call that runs it."""
    calls = {}
    for number, widths in enumerate(subnets):
        static = cut_(copy.deepcopy(model), layout, widths)
        static.eval()
        calls[number] = prepared(static, image, runtime)
    return calls


def measure_latency(
    model: nn.Module,
    layout: Layout,
    space: SearchSpace,
    input_shape: Sequence[int],
    runtime: str = 'torch',
    track: Track = iter,
) -> dict[str, Any]:
    """Measure some subnets, and fit what all others take; see :mod:`mmpse.resources.latency`.

    A subnet takes the least seconds for which the processor worked for it. If these do not fit, as
    beside many other jobs, all subnets are measured again. Arguments are as of
    :func:`measure_subnets`.

    Returns:
        For JSON: ``cost``, see :func:`latency_cost`; ``error``, its mean relative error on subnets
        that were not fitted; ``measured``, widths and microseconds; ``busy``, see
        :func:`mmpse.resources.busy.busy`; and what they hold for.
    """
    image = torch.zeros(1, *input_shape, device=next(model.parameters()).device)
    rows = spread(space)
    calls = _calls(model, layout, [space.subnet(row) for row in rows], image, runtime)
    seconds = np.full(len(rows), np.inf)
    for _ in range(TRIES):
        times = measure_latencies(calls, ROUNDS, track=track)
        seconds = np.minimum(seconds, list(times.least.values()))
        found = fit_latency(
            model, layout, space, image, rows, seconds, partial(deployed_outputs, model)
        )
        if found.error <= EXPECTED:
            break
    return dict(
        schema=SCHEMA,
        of=_of(space, input_shape),
        on=_on(runtime),
        error=found.error,
        busy=round(times.busy, 2),
        measured=[(row, 1e6 * s) for row, s in zip(rows.tolist(), seconds.tolist())],
        cost=dict(
            constant=float(found.cost.constant),
            linear=found.cost.linear.tolist(),
            quadratic=found.cost.quadratic.tolist(),
        ),
    )


def error_sentence(error: float, again: str) -> str:
    """What to tell the user of the error of a fit, and what to do; empty if it is as expected."""
    if error <= EXPECTED:
        return ''
    return (
        f'the latency of subnets is predicted with a mean error of {error:.0%}, where at most '
        f'{EXPECTED:.0%} is expected: other jobs may have disturbed all {TRIES} measurements, or '
        'the latency does not follow from the work of the layers; widths that are chosen by it '
        f'may be poor; {again}'
    )


def latency_cost(space: SearchSpace, content: Mapping[str, Any]) -> Cost:
    """Microseconds of any subnet, from what :func:`measure_latency` gave."""
    cost = Cost(space.names)
    cost.constant = content['cost']['constant']
    cost.linear += content['cost']['linear']
    cost.quadratic += content['cost']['quadratic']
    return cost


def read_latency(
    path: str | os.PathLike,
    space: SearchSpace,
    input_shape: Sequence[int],
    runtime: str | None = None,
) -> dict[str, Any]:
    """Read a file of what :func:`measure_latency` gave.

    Args:
        space, input_shape: What it should be of.
        runtime: In which it should have been measured, on this device with as many threads;
            ``None``: it may be of any device.

    Raises:
        UserError: If it cannot be read or is of something else; the message names what.
    """
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
        if content['schema'] != SCHEMA:
            raise UserError(f'its schema is {content["schema"]!r}, expected {SCHEMA!r}')
        there = content['of'], content['on']
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'the latencies {path} cannot be read ({error!r}); measure them with '
            '`mmpse latency CONFIG -o FILE`'
        ) from error
    here = _of(space, input_shape), there[1] if runtime is None else _on(runtime)
    for found, wanted in zip(there, here):
        if found != wanted:
            raise UserError(
                f'the latencies {path} are of something else ({differences(found, wanted)}); '
                'measure them with `mmpse latency CONFIG -o FILE`, and give that file as '
                'train_cfg.latency'
            )
    return content


def _of(space: SearchSpace, input_shape: Sequence[int]) -> dict[str, Any]:
    units = {unit.name: unit.max_width for unit in space.units}
    return dict(units=units, input_shape=list(input_shape))


def _on(runtime: str) -> dict[str, Any]:
    return dict(
        device=device_name(get_device()),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        runtime=runtime,
    )
