"""What a model does with half of each unit: where its code fails, and what masks let through."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .cutting import as_subnet, mask_of
from .layers import channel_dim
from .layout import Layout, Side
from .watch import Forward, Place


def stuck(layout: Layout, forward: Forward) -> tuple[str, list[str]] | None:
    """Where a forward fails that ran with full units: the model's code has a width as a number.

    Returns:
        The last layer that ran and put out channels of units, and these units; ``None`` if the
        forward runs, or no such layer did.
    """
    ran: list[str] = []
    try:
        with as_subnet(forward.model, layout, _half(layout)):
            forward(lambda name, *_: ran.append(name), lambda *_: None)
    except Exception:  # whatever code raises that gets fewer channels than it counts on
        for name in reversed(ran):
            sides = layout.layers.get(name)
            if sides is not None and (units := [s.unit for s in sides.outputs if s.unit]):
                return name, units
    return None


def _half(layout: Layout) -> dict[str, int]:
    return {name: max(1, u.width // u.step // 2) * u.step for name, u in layout.units.items()}


def with_leaks(layout: Layout, forward: Forward) -> Layout:
    """The layout with what gets more than zeros if BatchNorms alone are masked; see ``leaky`` of
    :class:`mmpse.slim.Layout` and its parts."""
    half = _half(layout)
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
