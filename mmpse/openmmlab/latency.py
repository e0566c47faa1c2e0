"""Measured latency of subnets of a whole model, and widths that meet a limit of it."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from mmpse.deploy.runtimes import prepared
from mmpse.models.latency import measure_latencies
from mmpse.resources.latency import FittedLatency, fit_latency
from mmpse.slim.cutting import cut_
from mmpse.space import Cost

from .losses import Track
from .outputs import raw_outputs
from .subject import Subject

ROUNDS = 15


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
) -> FittedLatency:
    """Latency in microseconds as a cost of any subnet, fitted to measured ones."""
    device = next(subject.model.parameters()).device
    return fit_latency(
        subject.model,
        subject.layout,
        subject.space,
        torch.zeros(1, *subject.input_shape, device=device),
        partial(measure_subnets, subject, runtime=runtime, track=track),
        partial(raw_outputs, subject.model, deployed=True),
        seed=seed,
    )


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
