"""Which channels are not zero in a masked pass though a subnet lacks them."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .cutting import mask_of
from .layout import Layout, Side
from .watch import Forward, Place, channel_dim


def with_leaks(layout: Layout, forward: Forward) -> Layout:
    """The layout with what gets more than zeros if BatchNorms alone are masked, to half of each
    unit; see ``leaky`` of :class:`mmpse.slim.Layout` and its parts."""
    half = {name: unit.width // 2 for name, unit in layout.units.items()}
    layers: set[str] = set()
    outputs: dict[str, set[int]] = {part: set() for part in layout.parts}
    random = torch.Generator(forward.images.device).manual_seed(0)

    def leaks(x: Tensor, dim: int, side: Side) -> bool:
        dropped = mask_of(side, half).to(x.device).logical_not()
        if len(dropped) != x.shape[dim]:  # points of a map, in one call more than in another
            return True
        return bool(x.movedim(dim, 0)[dropped].any())

    def see(name: str, layer: Any, x: Tensor, y: Tensor) -> None:
        if not name:
            return
        sides = layout.layers.get(name)
        if sides is not None and sides.inputs is not None:
            if leaks(x, channel_dim(x, layer), sides.inputs):
                layers.add(name)
        if not isinstance(layer, nn.PReLU):  # it keeps zeros
            # such that no activation is zero by chance
            y.copy_(torch.rand(y.shape, generator=random, device=y.device) + 0.1)
        if sides is not None and isinstance(layer, _BatchNorm):
            mask = mask_of(sides.outputs, half).to(y.device)
            y *= mask[(None, ...) + (None,) * (y.dim() - 2)]

    def note(place: Place, x: Tensor, dim: int) -> None:
        way, (part, k) = place
        if way == 'out of' and part in outputs and leaks(x, dim, layout.parts[part].outputs[k]):
            outputs[part].add(k)

    forward(see, note)
    parts = {
        name: part._replace(leaky=frozenset(outputs[name])) for name, part in layout.parts.items()
    }
    return dataclasses.replace(layout, leaky=frozenset(layers), parts=parts)
