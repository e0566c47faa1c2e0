"""Sorting: the most important channels of every unit come first, and the model stays the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmpse.errors import UserError

from .cutting import dims_of, layers_in
from .layout import Layout, Side

IMPORTANCES = ('l1', 'l2', 'bn', 'taylor')


@torch.no_grad()
def importances(model: nn.Module, layout: Layout, by: str = 'l1') -> dict[str, Tensor]:
    """How important the channels of every unit are.

    Args:
        model: The full-width model.
        layout: Its layout.
        by: ``'l1'`` or ``'l2'``, the norm of the filters that write a channel; ``'bn'``, the scale
            of its normalisations (where a unit has none: as ``'l1'``); ``'taylor'``,
            ``|sum of weight * gradient|`` of the filters, with the gradients that the parameters
            hold (Molchanov et al., arXiv 1906.10771). Layers of a unit add up, each divided by its
            mean for ``'bn'`` and ``'taylor'``.

    Returns:
        Unit -> ``(channels,)``.

    Raises:
        ValueError: If ``by`` is unknown, or gradients are missing.
    """
    if by not in IMPORTANCES:
        raise UserError(f'channels are sorted by one of {IMPORTANCES}, got {by!r}')
    total = {name: torch.zeros(unit.width, device='cpu') for name, unit in layout.units.items()}
    scaled: set[str] = set()
    if by == 'bn':
        for _, layer, sides in layers_in(model, layout):
            if isinstance(layer, (_NormBase, nn.GroupNorm)) and layer.weight is not None:
                scale = layer.weight.abs()
                scaled |= _add(total, sides.outputs, scale / scale.mean().clamp(min=1e-12))
    for name, layer, sides in layers_in(model, layout):
        if sides.inputs is None or not sides.outputs:
            continue
        weight = layer.weight.movedim(dims_of(layer)[0], 0).flatten(1)
        if by == 'taylor':
            if layer.weight.grad is None:
                raise UserError(
                    f"sorting by 'taylor' needs the gradient of {name}.weight, which has none; run "
                    'the loss of some batches backward first'
                )
            gradient = layer.weight.grad.movedim(dims_of(layer)[0], 0).flatten(1)
            value = (weight * gradient).sum(1).abs()
            value /= value.mean().clamp(min=1e-12)
        else:
            value = weight.norm(dim=1) if by == 'l2' else weight.abs().sum(1)
        _add(total, sides.outputs, value, without=scaled)
    return total


def _add(total: dict[str, Tensor], side: Side, value: Tensor, without=frozenset()) -> set[str]:
    """Add the values of positions to the units' channels; the units."""
    at = 0
    for segment in side:
        part = value[at : at + segment.positions]
        at += segment.positions
        if segment.unit is not None and segment.unit not in without:
            total[segment.unit] += part.view(segment.channels, -1).sum(1).float().cpu()
    return {s.unit for s in side if s.unit is not None}


def orders(layout: Layout, importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Unit -> its channels, the most important first; blocks of a unit stay together."""
    result = {}
    for name, unit in layout.units.items():
        blocks = importance[name].view(-1, unit.step).sum(1)
        blocks = blocks.argsort(descending=True, stable=True)
        channels = blocks[:, None] * unit.step + torch.arange(unit.step, device='cpu')
        result[name] = channels.flatten()
    return result


@torch.no_grad()
def sort_(model: nn.Module, layout: Layout, by: str = 'l1') -> dict[str, Tensor]:
    """Permute the channels of every unit, the most important first, in place.

    Writers, readers and what lies between are permuted alike, so that the model computes the same.

    Args:
        model: The full-width model.
        layout: Its layout.
        by: See :func:`importances`.

    Returns:
        Unit -> its permutation: the new channel k was channel ``permutation[k]``.
    """
    order = orders(layout, importances(model, layout, by))
    permute_(model, layout, order)
    return order


@torch.no_grad()
def permute_(model: nn.Module, layout: Layout, order: Mapping[str, Tensor]) -> None:
    """Permute the channels of units, in place.

    Args:
        order: Unit -> its channels in their new order.
    """
    for _, layer, sides in layers_in(model, layout):
        outputs = _positions(sides.outputs, order)
        out_of, into = dims_of(layer)
        for tensor in (*layer._parameters.values(), *layer._buffers.values()):
            if tensor is None or not tensor.dim():
                continue
            dim = out_of if tensor.dim() > 1 else 0
            new = tensor.index_select(dim, outputs.to(tensor.device))
            if tensor.dim() > 1 and into is not None:
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
