"""Measured latency of subnets of a whole model, and widths that meet a limit of it."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.logging import MMLogger

from mmpse.deploy.runtimes import prepared
from mmpse.models.latency import measure_latencies
from mmpse.openmmlab.models.losses import Track, progress
from mmpse.openmmlab.models.outputs import raw_outputs
from mmpse.resources import latency
from mmpse.slim.cutting import cut_
from mmpse.space import Budget, Cost, Subnet
from mmpse.space.budget import parse_amount

from .subject import Subject

ROUNDS = 15
TOLERANCE, TRIES = 0.03, 4  # of the measured latency; choices, until it is met


def measure_subnets(
    subject: Subject,
    subnets: Sequence[Mapping[str, int]],
    runtime: str = 'torch',
    rounds: int = ROUNDS,
    track: Track = iter,
) -> list[float]:
    """Seconds that one image takes in each of several subnets, the median of interleaved rounds.

    Args:
        subject: The model; its input shape is that of the image.
        subnets: The subnets.
        runtime: See :func:`mmpse.deploy.runtimes.prepared`.
        rounds: Measured rounds.
        track: Wraps the iterator over rounds, for a progress bar.
    """
    device = next(subject.model.parameters()).device
    image = torch.zeros(1, *subject.input_shape, device=device)
    calls: dict[Any, Any] = {}
    for number, widths in enumerate(subnets):
        model = cut_(copy.deepcopy(subject.model), subject.layout, widths).eval()
        calls[number] = prepared(model, image, runtime)
    times = measure_latencies(calls, rounds, track=track)
    return [statistics.median(times[number]) for number in calls]


def latency_cost(
    subject: Subject, runtime: str = 'torch', seed: int = 0, track: Track = iter
) -> latency.FittedLatency:
    """Latency in microseconds as a cost of any subnet, fitted to measured ones."""
    device = next(subject.model.parameters()).device
    return latency.fit_latency(
        subject.model,
        subject.layout,
        subject.space,
        torch.zeros(1, *subject.input_shape, device=device),
        partial(measure_subnets, subject, runtime=runtime, track=track),
        partial(raw_outputs, subject.model, deployed=True),
        seed=seed,
    )


def fit_latency(subject: Subject, runtime: str) -> dict[str, Any]:
    """Add latency to what subnets cost; what was found, for JSON."""
    found = latency_cost(subject, runtime, track=progress(f'latency in {runtime}'))
    subject.costs['latency'] = found.cost
    return dict(cost_to_dict(found.cost), error=found.error, full=found.measured[0][1])


def within_latency(
    subject: Subject,
    limits: Mapping[str, str | float],
    runtime: str,
    choose: Callable[[Budget], Subnet],
    log: MMLogger,
) -> Subnet:
    """Choose widths whose measured latency meets its limit, not only the predicted one."""
    subnet = choose(Budget(subject.space, subject.costs, limits))
    if 'latency' not in limits:
        return subnet
    full = subject.space.fullnet
    asked = str(limits['latency']).strip()
    correction = 1.0
    for _ in range(TRIES):
        whole, own = measure_subnets(subject, [full, subnet], runtime)
        target = whole * float(asked[:-1]) / 100 if asked.endswith('%') else None
        if target is None:
            target = parse_amount(asked, 1e6 * whole, 'latency') / 1e6
        log.info(
            f'measured: {1000 * own:.2f} ms of {1000 * whole:.2f} ms ({own / whole:.0%}), asked '
            f'for {1000 * target:.2f} ms'
        )
        if abs(own / target - 1) < TOLERANCE:
            break
        correction *= target / own
        predicted = subject.cost_of(full)['latency']
        wanted = min(correction * target / whole, 1.0) * predicted
        subnet = choose(
            Budget(subject.space, subject.costs, {**limits, 'latency': f'{wanted:.0f}us'})
        )
    return subnet


def cost_to_dict(cost: Cost) -> dict[str, Any]:
    """A cost as JSON has it."""
    return dict(
        constant=float(cost.constant),
        linear=cost.linear.tolist(),
        quadratic=cost.quadratic.tolist(),
    )


def cost_from_dict(units: Sequence[str], content: Mapping[str, Any]) -> Cost:
    """The opposite of :func:`cost_to_dict`."""
    cost = Cost(units)
    cost.constant = content['constant']
    cost.linear += content['linear']
    cost.quadratic += content['quadratic']
    return cost
