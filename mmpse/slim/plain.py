"""Layers that normalise their weights: a masked pass has to run them subnet by subnet.

Of a plain layer the kept outputs are the same whether what is dropped is zero or gone. A layer that
divides by the norm of its weights (a cosine classifier, weight standardisation) sees the dropped
weights, too.
"""

from collections.abc import Sequence

import torch
from torch import nn

from .cutting import cut_of, kept, mask_of, swapped, take
from .layers import is_mixing
from .layout import LayerWidths
from .watch import evaluating

Row = tuple[str, nn.Module, LayerWidths]
STOCK = (nn.Linear.forward, nn.Conv2d.forward, nn.ConvTranspose2d.forward)


def not_plain(rows: Sequence[Row]) -> list[Row]:
    """The layers that a masked pass cannot run as they are; one of each class is tried."""

    def size(row: Row) -> tuple[bool, int]:
        _, layer, sides = row
        return not any(s.unit for s in sides.inputs), layer.weight.numel()  # inputs may be dropped

    tried: dict[type, Row] = {}
    mixing = [row for row in rows if is_mixing(row[1]) and not _is_stock(type(row[1]))]
    for row in sorted(mixing, key=size):
        tried.setdefault(type(row[1]), row)
    classes = {own for own, row in tried.items() if not _is_plain(row)}
    return [row for row in rows if type(row[1]) in classes]


def _is_stock(own: type[nn.Module]) -> bool:
    convolving = getattr(own, '_conv_forward', None)
    return own.forward in STOCK and convolving in (None, nn.Conv2d._conv_forward)


@torch.no_grad()
def _is_plain(row: Row) -> bool:
    name, layer, sides = row
    if any(True for _ in layer.children()):  # deformable: its offsets' layer has sides of its own
        return True
    units = {s.unit: max(1, s.channels // 2) for s in (*sides.inputs, *sides.outputs) if s.unit}
    mask = mask_of(sides.inputs, units).to(layer.weight.device)
    size = [max(8, n) for n in layer.weight.shape[2:]]
    x = torch.rand(2, *size, len(mask), device=mask.device, dtype=layer.weight.dtype)
    x = (x * mask).movedim(-1, 1)
    cut = cut_of(layer, sides, units)
    with evaluating(layer):
        try:
            whole = layer(x)
        except TypeError:  # it is given more than its input: offsets
            return True
        with swapped([row], {name: cut}):
            alone = layer(take(x, {1: kept(sides.inputs, units)}))
    if any(s.unit for s in sides.outputs):
        whole = take(whole, {1: kept(sides.outputs, units)})
    return bool((whole - alone).abs().max() <= 1e-3 * alone.abs().max())
