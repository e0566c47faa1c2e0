"""Widths of a model that meet a limit of latency when they are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmengine.logging import MMLogger

from mmpse.openmmlab.deploy.latency import (
    error_sentence,
    latency_cost,
    measure_latency,
    measure_subnets,
)
from mmpse.openmmlab.progress import progress
from mmpse.space import Budget, Subnet
from mmpse.space.budget import parse_amount

from .subject import Subject

TOLERANCE, TRIES = 0.03, 4  # of the measured latency; choices, until it is met
AGAIN = 'start in another folder when nothing else runs'


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
    """Choose widths whose measured latency meets its limit, not only the predicted one.

    Args:
        choose: Chooses widths that meet a budget.

    Returns:
        The widths. Under a limit of latency their ``source['latency']`` has microseconds:
        ``'measured'``, ``'full'`` of the full model, and ``'limit'``.
    """
    if 'latency' not in limits:
        return choose(Budget(subject.space, subject.costs, limits))
    full, predicted = subject.space.fullnet, limits
    lowest, highest = (subject.cost_of(s)['latency'] for s in (subject.space.tinynet, full))
    correction, tried = 1.0, []
    for _ in range(TRIES):
        subnet = choose(Budget(subject.space, subject.costs, predicted))
        times = measure_subnets(
            subject.model, subject.layout, [full, subnet], subject.input_shape, runtime
        )
        whole, own = (1e6 * times.least[number] for number in (0, 1))
        target = parse_amount(limits['latency'], whole, 'latency')
        log.info(
            f'measured: {own / 1000:.2f} ms of {whole / 1000:.2f} ms ({own / whole:.0%}), asked '
            f'for {target / 1000:.2f} ms'
        )
        subnet.source['latency'] = dict(measured=own, full=whole, limit=target)
        tried.append((abs(own / target - 1), subnet))
        if tried[-1][0] < TOLERANCE:
            break
        correction *= target / own
        wanted = min(max(correction * target / whole * highest, lowest), highest)
        predicted = {**limits, 'latency': f'{wanted:.0f}us'}
    return min(tried, key=lambda one: one[0])[1]


def latency_notes(subnet: Subnet, error: float) -> list[str]:
    """What a user must know of widths that :func:`within_latency` gave; empty if all is well.

    Args:
        error: Of the prediction that they were chosen by, see :func:`add_latency`.
    """
    notes = [error_sentence(error, AGAIN)]
    found = {name: us / 1000 for name, us in subnet.source['latency'].items()}
    off = found['measured'] / found['limit'] - 1
    if abs(off) >= TOLERANCE:
        side = 'above' if off > 0 else 'below'
        notes.append(
            f'the limit of latency is missed: the nearest of {TRIES} choices was measured at '
            f'{found["measured"]:.3g} ms, {abs(off):.0%} {side} the {found["limit"]:.3g} ms that '
            f'were asked for; {AGAIN}, or ask for another latency'
        )
    return [note for note in notes if note]
