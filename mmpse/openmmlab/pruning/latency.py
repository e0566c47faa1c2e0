"""Widths of a model that meet a limit of latency when they are measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.logging import MMLogger

from mmpse.openmmlab.deploy.latency import latency_cost, measure_latency, measure_subnets
from mmpse.openmmlab.progress import progress
from mmpse.resources.busy import busy_sentence
from mmpse.space import Budget, Subnet
from mmpse.space.budget import parse_amount

from .subject import Subject

TOLERANCE, TRIES = 0.03, 4  # of the measured latency; choices, until it is met


def add_latency(subject: Subject, runtime: str) -> dict[str, Any]:
    """Add latency to what subnets cost; what was measured, for JSON."""
    model, layout, shape = subject.model, subject.layout, subject.input_shape
    track = progress(f'latency in {runtime}')
    content = measure_latency(model, layout, subject.space, shape, runtime, track)
    subject.costs['latency'] = latency_cost(subject.space, content)
    return content


def within_latency(
    subject: Subject,
    limits: Mapping[str, str | float],
    runtime: str,
    choose: Callable[[Budget], Subnet],
    log: MMLogger,
) -> Subnet:
    """Choose widths whose measured latency meets its limit, not only the predicted one."""
    if 'latency' not in limits:
        return choose(Budget(subject.space, subject.costs, limits))
    full, predicted = subject.space.fullnet, limits
    correction, tried = 1.0, []
    for _ in range(TRIES):
        subnet = choose(Budget(subject.space, subject.costs, predicted))
        times = measure_subnets(
            subject.model, subject.layout, [full, subnet], subject.input_shape, runtime
        )
        whole, own = (statistics.median(times[number]) for number in (0, 1))
        target = parse_amount(limits['latency'], 1e6 * whole, 'latency') / 1e6
        if sentence := busy_sentence(times.busy):
            log.warning(sentence)
        log.info(
            f'measured: {1000 * own:.2f} ms of {1000 * whole:.2f} ms ({own / whole:.0%}), asked '
            f'for {1000 * target:.2f} ms'
        )
        tried.append((abs(own / target - 1), subnet))
        if tried[-1][0] < TOLERANCE:
            return subnet
        correction *= target / own
        wanted = min(correction * target / whole, 1.0) * subject.cost_of(full)['latency']
        predicted = {**limits, 'latency': f'{wanted:.0f}us'}
    off, subnet = min(tried, key=lambda one: one[0])
    log.warning(f'after {TRIES} choices the nearest one is measured {off:.0%} off the limit')
    return subnet
