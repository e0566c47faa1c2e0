"""Channels that meet, as intervals of layers and as segments."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .codes import NOBODY
from .layout import Segment, Side


def intervals_of(edges: Tensor, widths: Sequence[int]) -> list[list[tuple[int, int, int]]]:
    """Join numbered channels into units.

    Args:
        edges: Pairs of channels that meet ``(2, pairs)``, numbered through all layers.
        widths: Channels of every layer.

    Returns:
        For each unit the channels ``(layer, first, last + 1)`` that are its own.
    """
    total = sum(widths)
    label = torch.arange(total)
    while True:  # every channel takes the least number of those that it meets
        new = label.scatter_reduce(0, edges.flatten(), label[edges.flip(0)].flatten(), 'amin')
        new = new[new]
        if torch.equal(new, label):
            break
        label = new
    layer = torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths))
    # does every channel that is joined with c have a next one, and are just these joined?
    after = torch.full((total,), -1)
    inner = layer[1:] == layer[:-1]
    after[:-1][inner] = label[1:][inner]
    least = torch.full((total,), total).scatter_reduce(0, label, after, 'amin')
    most = torch.full((total,), -1).scatter_reduce(0, label, after, 'amax')
    size = torch.bincount(label, minlength=total)
    goes_on = (least == most) & (least >= 0)
    goes_on &= size == size[most.clamp(min=0)]
    starts = torch.ones(total, dtype=torch.bool)
    starts[1:] = ~(goes_on[label[:-1]] & inner)
    first = starts.nonzero()[:, 0].tolist()
    offsets = torch.tensor([0, *widths]).cumsum(0)
    units: dict[int, list[tuple[int, int, int]]] = {}
    for a, b in zip(first, [*first[1:], total]):
        k = int(layer[a])
        offset = int(offsets[k])
        units.setdefault(int(label[a]), []).append((k, a - offset, b - offset))
    return list(units.values())


def sides_of(
    unit: Tensor, channel: Tensor, alive: set[int], names: Sequence[str], sizes: Sequence[int]
) -> Side | None:
    """Positions as segments; ``None`` where a unit's channels are not whole and in order.

    Args:
        unit: Number of the unit that each position belongs to, or ``NOBODY``.
        channel: The channel of that unit.
        alive: Units that can be pruned; all others are nobody's.
    """
    unit = torch.where(torch.isin(unit, torch.tensor([*alive], dtype=torch.long)), unit, NOBODY)
    segments: list[Segment] = []
    at, total = 0, len(unit)
    while at < total:
        number = int(unit[at])
        change = (unit[at:] != number).nonzero()
        end = at + int(change[0]) if len(change) else total
        if number == NOBODY:
            segments.append(Segment(None, end - at))
            at = end
            continue
        width, own = sizes[number], channel[at:end]
        other = (own != 0).nonzero()
        repeat = int(other[0]) if len(other) else len(own)
        expected = torch.arange(width).repeat_interleave(repeat)
        if repeat == 0 or not torch.equal(own[: len(expected)], expected):
            return None
        segments.append(Segment(names[number], width, repeat))
        at += len(expected)
    return tuple(segments)
