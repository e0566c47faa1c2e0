"""Sorting: the most important channels of every unit come first, and the model stays the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmpse.errors import UserError

from .cutting import dims_of, layers_in
from .layout import Layout, Side
from .samples import Samples
from .selection import selected

IMPORTANCES = ('selection', 'group', 'l1', 'l2', 'bn', 'taylor')


@torch.no_grad()
def importances(
    model: nn.Module, layout: Layout, by: str, samples: Samples | None
) -> dict[str, Tensor]:
    """How important the channels of every unit are.

    Args:
        by: ``'selection'``: how soon it is selected for what it tells of all that the layers which
            read the unit get, see :mod:`mmpse.slim.selection`.
            ``'group'``: the squared norms of the filters that write it, of the scales of its
            normalisations, and of the weights that read it, each kind divided by its mean over the
            unit (after Fang et al., arXiv 2301.12900).
            ``'l1'`` or ``'l2'``: the norm of the filters that write it.
            ``'bn'``: the scale of its normalisations; where a unit has none, as ``'l1'``.
            ``'taylor'``: ``|sum of weight * gradient|`` of the filters that write it, with the
            gradients that the parameters hold (Molchanov et al., arXiv 1906.10771).
        samples: What the layers read, of :func:`sample_inputs`, for ``'selection'``.

    Returns:
        Unit -> ``(channels,)``.

    Raises:
        UserError: If ``by`` is unknown, or gradients or samples are missing.
    """
    if by not in IMPORTANCES:
        raise UserError(f'channels are sorted by one of {IMPORTANCES}, got {by!r}')
    if by == 'selection' and samples is None:
        raise UserError("sorting by 'selection' needs samples of what the layers read of images")
    written, scaled, read = (
        {name: torch.zeros(unit.width, device='cpu') for name, unit in layout.units.items()}
        for _ in range(3)
    )
    for name, layer, sides in layers_in(model, layout):
        weight = getattr(layer, 'weight', None)
        if sides.inputs is None:
            if isinstance(layer, (_NormBase, nn.GroupNorm)) and weight is not None:
                _add(scaled, sides.outputs, _mean_one(weight.abs() ** (1 if by == 'bn' else 2)))
            continue
        out_of, into = dims_of(layer)
        filters = weight.movedim(out_of, 0).flatten(1)
        if by == 'taylor':
            value = _mean_one((filters * _gradient(name, layer)).sum(1).abs())
        elif by in ('l1', 'bn'):
            value = filters.abs().sum(1)
        elif by == 'l2':
            value = filters.norm(dim=1)
        else:
            value = filters.square().sum(1)
        _add(written, sides.outputs, value)
        if into is not None and by == 'group':
            _add(read, sides.inputs, weight.movedim(into, 0).flatten(1).square().sum(1))
    if by == 'group':
        kinds = written, scaled, read
        return {name: sum(_mean_one(kind[name]) for kind in kinds) for name in layout.units}
    if by in ('selection', 'bn'):
        found = scaled if by == 'bn' else selected(model, layout, samples)
        return {name: value if value.any() else written[name] for name, value in found.items()}
    return written


def _gradient(name: str, layer: nn.Module) -> Tensor:
    if layer.weight.grad is None:
        raise UserError(
            f"sorting by 'taylor' needs the gradient of {name}.weight, which has none; run the "
            'loss of some batches backward first'
        )
    return layer.weight.grad.movedim(dims_of(layer)[0], 0).flatten(1)


def _mean_one(value: Tensor) -> Tensor:
    return value / value.mean().clamp(min=1e-12)


def _add(total: dict[str, Tensor], side: Side, value: Tensor) -> None:
    """Add the values of positions to the units' channels."""
    at = 0
    for segment in side:
        part = value[at : at + segment.positions]
        at += segment.positions
        if segment.unit is not None:
            total[segment.unit] += part.view(segment.channels, -1).sum(1).float().cpu()


@torch.no_grad()
def sort_(
    model: nn.Module, layout: Layout, by: str = 'group', samples: Samples | None = None
) -> dict[str, Tensor]:
    """Permute the channels of every unit, the most important first, in place.

    Writers, readers and what lies between are permuted alike, so that the model computes the same.
    Blocks of a unit stay together. ``by`` and ``samples`` are as of :func:`importances`.

    Returns:
        Unit -> its permutation: the new channel k was channel ``permutation[k]``.
    """
    order = {}
    for name, value in importances(model, layout, by, samples).items():
        step = layout.units[name].step
        blocks = value.view(-1, step).sum(1).argsort(descending=True, stable=True)
        order[name] = (blocks[:, None] * step + torch.arange(step, device='cpu')).flatten()
    permute_(model, layout, order)
    return order


@torch.no_grad()
def permute_(model: nn.Module, layout: Layout, order: Mapping[str, Tensor]) -> None:
    """Permute the channels of units, in place; ``order``: unit -> its channels as they will be."""
    for _, layer, sides in layers_in(model, layout):
        outputs = _positions(sides.outputs, order)
        out_of, into = dims_of(layer)
        for tensor in (*layer._parameters.values(), *layer._buffers.values()):
            if tensor is None or not tensor.dim():
                continue
            dim = out_of if tensor.dim() > 1 else 0
            new = tensor.index_select(dim, outputs.to(tensor.device))
            if tensor.dim() > 1 and into is not None and tensor.shape[into] > 1:
                # of one entry: a buffer that only outputs have values of their own in
                inputs = _positions(sides.inputs, order)
                new = new.index_select(into, inputs.to(tensor.device))
            tensor.copy_(new)


def _positions(side: Side, order: Mapping[str, Tensor]) -> Tensor:
    """Old position of every new one."""
    runs, at = [], 0
    for unit, channels, repeat in side:
        channel = torch.arange(channels, device='cpu') if unit is None else order[unit]
        runs.append(at + (channel[:, None] * repeat + torch.arange(repeat, device='cpu')).flatten())
        at += channels * repeat
    return torch.cat(runs)
