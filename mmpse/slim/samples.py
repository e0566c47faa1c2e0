"""What the layers of a model read: positions of their inputs, drawn while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .cutting import layers_in
from .layout import LayerWidths, Layout, Side

Samples = dict[str, list[Tensor]]  # layer -> what each of its calls read (positions, channels)


def readers_in(model: nn.Module, layout: Layout) -> dict[str, tuple[nn.Module, LayerWidths]]:
    """Name -> layer and sides, of the layers that mix the channels of units."""
    return {
        name: (layer, sides)
        for name, layer, sides in layers_in(model, layout)
        if sides.inputs is not None and any(segment.unit for segment in sides.inputs)
    }


def repeat_of(side: Side) -> int:
    """Positions of an input that each channel has, as flattened images do; 1 if they differ."""
    repeats = {segment.repeat for segment in side}
    return repeats.pop() if len(repeats) == 1 else 1


def rows_of(layer: nn.Module, side: Side, x: Tensor) -> Tensor:
    """An input of a layer with its channels last, ``(positions, channels)``."""
    rows = x.flatten(0, -2) if isinstance(layer, nn.Linear) else x.movedim(1, -1).flatten(0, -2)
    repeat = repeat_of(side)
    if repeat > 1:
        rows = rows.view(len(rows), -1, repeat).transpose(1, 2).flatten(0, 1)
    return rows


@contextmanager
def listening(
    layers: Mapping[str, tuple[nn.Module, Side]], note: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """For the time of a ``with`` block ``note`` is told name and rows of what layers read, before
    each call; ``layers``: name -> layer and its input in the full model."""

    def hook(name: str, side: Side) -> Callable:
        return lambda layer, args: note(name, rows_of(layer, side, args[0].detach()))

    with ExitStack() as stack:
        for name, (layer, side) in layers.items():
            stack.enter_context(layer.register_forward_pre_hook(hook(name, side)))
        yield


def drawn(rows: Tensor, count: int) -> Tensor:
    """So many of the rows, the same ones of every tensor of their number."""
    if len(rows) <= count:
        return rows
    generator = torch.Generator().manual_seed(0)
    return rows[torch.randperm(len(rows), generator=generator)[:count].to(rows.device)]


@torch.no_grad()
def sample_inputs(
    model: nn.Module,
    layout: Layout,
    batches: Iterable[Tensor],
    run: Callable[[nn.Module, Tensor], Any],
    count: int = 1024,
) -> Samples:
    """Run a model in eval mode, and keep some of what its layers read.

    Args:
        batches: Images ``(B, C, H, W)``.
        count: Positions that are kept of each call of a layer, at most.

    Returns:
        Layer that mixes channels -> ``(positions, channels)`` of each of its calls, in the order in
        which the layers first run.
    """
    samples: Samples = {}

    def note(name: str, rows: Tensor) -> None:
        samples.setdefault(name, []).append(drawn(rows, count))

    readers = readers_in(model, layout)
    with listening({n: (layer, sides.inputs) for n, (layer, sides) in readers.items()}, note):
        for images in batches:
            run(model, images)
    return samples


class Moments(NamedTuple):
    """What is known of two sets of channels; a last one of the first set is the constant 1.

    Attributes:
        squares: Mean products of the first set ``(inputs + 1, inputs + 1)``.
        products: Mean products of both ``(inputs + 1, channels)``.
        samples: Positions that they were seen at.
    """

    squares: Tensor
    products: Tensor
    samples: int


def moments_of(inputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> Moments:
    """The moments of what the calls of a layer read; each call has the same weight.

    Args:
        inputs, wanted: Of each call the two sets of channels ``(positions, channels)``.
    """
    squares = products = 0.0
    for x, y in zip(inputs, wanted, strict=True):
        x = torch.cat([x, x.new_ones(len(x), 1)], 1).double()
        squares = squares + x.T @ x / len(x)
        products = products + x.T @ y.double() / len(x)
    return Moments(squares / len(inputs), products / len(inputs), sum(map(len, inputs)))
