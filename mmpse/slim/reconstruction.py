"""Reconstruction: what a cut model no longer reads is predicted from what it reads.

A layer of the cut model gets fewer channels than in the full one. Their best linear prediction of
all the channels, position by position, goes into its weights, layer after layer, so that each makes
up for what was lost before it (after He et al., arXiv 1707.06168, who fit the outputs of filters).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .cutting import dims_of, kept, take
from .layout import Layout, Side
from .reuse import Notes, noted_outputs, reused_outputs
from .samples import Moments, drawn, listening, moments_of, readers_in, repeat_of, sample_inputs

POSITIONS = 4096  # that are kept of what a layer reads in a call
RIDGE = 1e-3  # of the mean square of a channel; 0.1 where there are as few samples as channels


class Reconstruction:
    """Makes cut models compute what their full one does, as nearly as their channels allow.

    Args:
        model: In eval mode, its channels sorted.
        images: Images to fit on ``(B, C, H, W)``; a few dozen are enough for a detector.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        images: Tensor,
        run: Callable[[nn.Module, Tensor], Any],
    ) -> None:
        self.model = model
        self.layout = layout
        self.images = images
        self.run = run
        self.readers = readers_in(model, layout)
        self.samples = sample_inputs(model, layout, [images], run, POSITIONS)

    @torch.no_grad()
    def fit_(self, cut: nn.Module, widths: Mapping[str, int]) -> nn.Module:
        """Fit the layers of a cut model, in the order in which they run, in place.

        A layer that runs at other positions than in the full model keeps its weights.

        Args:
            cut: What :func:`mmpse.slim.cut_` made of the full model, in eval mode.
        """
        layers = dict(cut.named_modules())
        left = {
            name: (layers[name], sides.inputs)
            for name, (_, sides) in self.readers.items()
            if name in self.samples and _loses(sides.inputs, widths)
        }
        notes: Notes = {}
        while left:
            unfitted = [layer for layer, _ in left.values()]
            with (
                reused_outputs(cut, notes, unfitted),
                noted_outputs(cut, cut.children()) as notes,
            ):
                self._pass(cut, widths, left)
        return cut

    def _pass(
        self, cut: nn.Module, widths: Mapping[str, int], left: dict[str, tuple[nn.Module, Side]]
    ) -> None:
        """Run the cut model, and fit its layers when they are about to run.

        One that runs several times is fitted after its last call; as it is not until then what its
        readers should get, the pass ends there.

        Args:
            left: The layers that are to be fitted; those that are done are taken out.
        """
        calls: dict[str, list[Tensor]] = {}

        def note(name: str, rows: Tensor) -> None:
            if name not in left or calls.keys() - {name}:
                return
            wanted = self.samples[name]
            calls.setdefault(name, []).append(drawn(rows, POSITIONS))
            if len(calls[name]) == len(wanted):
                layer, _ = left.pop(name)
                self._fit(name, layer, widths, calls.pop(name))
                if len(wanted) > 1:
                    raise _EnoughError

        with listening(dict(left), note), suppress(_EnoughError):
            self.run(cut, self.images)
            # of what else there is, some runs less often than in the full model, or not at all
            for name in list(calls or left):
                del left[name]

    def _fit(
        self, name: str, layer: nn.Module, widths: Mapping[str, int], inputs: Sequence[Tensor]
    ) -> None:
        """Fit one layer to what it reads, if that is at the positions of the full model."""
        wanted = self.samples[name]
        if list(map(len, inputs)) != list(map(len, wanted)):
            return
        full, sides = self.readers[name]
        weight, bias = _predicting(full, sides.inputs, widths, moments_of(inputs, wanted))
        outputs = kept(sides.outputs, widths)
        layer.weight.copy_(take(weight, {dims_of(full)[0]: outputs}))
        if bias is not None:
            layer.bias.copy_(take(bias, {0: outputs}))

    @contextmanager
    def absorbed(self, widths: Mapping[str, int]) -> Iterator[None]:
        """For the time of a ``with`` block the channels that stay bring what the others brought.

        The layers of the full model are fitted to their own inputs, which is all there is to do if
        one unit is cut. :func:`mmpse.slim.as_subnet` inside it is the subnet.
        """
        with torch.no_grad(), ExitStack() as stack:
            for name, (squares, products, samples) in self._moments.items():
                layer, sides = self.readers[name]
                if not _loses(sides.inputs, widths):
                    continue
                here = _stay(sides.inputs, widths, repeat_of(sides.inputs)).to(squares.device)
                rows = torch.cat([here, here.new_tensor([len(squares) - 1])])
                moments = Moments(squares[rows][:, rows], products[rows], samples)
                weight, bias = _predicting(layer, sides.inputs, widths, moments)
                into = dims_of(layer)[1]
                at = _stay(sides.inputs, widths, 1).to(weight.device)
                whole = layer.weight.detach().index_copy(into, at, weight)
                stack.callback(layer._parameters.update, dict(layer._parameters))
                layer._parameters['weight'] = whole
                if bias is not None:
                    layer._parameters['bias'] = bias
            yield

    @cached_property
    def _moments(self) -> dict[str, Moments]:
        """Of what each layer reads in the full model, with itself."""
        return {name: moments_of(rows, rows) for name, rows in self.samples.items()}


class _EnoughError(Exception):
    """All is known of a forward that is needed."""


def _loses(side: Side, widths: Mapping[str, int]) -> bool:
    return any(widths.get(s.unit, s.channels) < s.channels for s in side)


def _stay(side: Side, widths: Mapping[str, int], repeat: int) -> Tensor:
    """Which channels of a side stay, if each is so many positions."""
    keep = kept(tuple(s._replace(repeat=s.repeat // repeat) for s in side), widths)
    return torch.arange(keep) if isinstance(keep, int) else keep


def _predicting(
    layer: nn.Module, side: Side, widths: Mapping[str, int], moments: Moments
) -> tuple[Tensor, Tensor | None]:
    """The weight and bias of a full layer whose input is predicted from the channels that stay.

    Args:
        side: Its input.
        moments: Of the channels that stay, and of the full input.
    """
    repeat, into = repeat_of(side), dims_of(layer)[1]
    bias = getattr(layer, 'bias', None)
    here = _stay(side, widths, repeat).to(layer.weight.device)
    found = prediction(moments, here, bias is not None)
    linear, constant = (x.to(layer.weight) for x in found)
    weight = layer.weight.detach().movedim(into, -1).unflatten(-1, (-1, repeat))
    new = torch.einsum('...cr,kc->...kr', weight, linear).flatten(-2).movedim(-1, into)
    if bias is None:
        return new, None
    # the dimension of inputs is gone: the first one that is left is that of outputs
    shift = torch.einsum('...cr,c->...', weight, constant).flatten()
    return new, bias.detach() + shift.view(len(bias), -1).sum(1)


def prediction(moments: Moments, here: Tensor, constant: bool) -> tuple[Tensor, Tensor]:
    """The best linear prediction of channels.

    Args:
        moments: Of what predicts and what is predicted.
        here: Which channel each input was ``(inputs,)``: the prediction where little is known.
        constant: Whether a constant may be added.

    Returns:
        Weights ``(inputs, channels)`` and constants ``(channels,)``.
    """
    squares, products, samples = moments
    if not constant:
        squares, products = squares[:-1, :-1], products[:-1]
    start = torch.zeros_like(products)
    start[torch.arange(len(here), device=here.device), here] = 1.0
    ridge = max(RIDGE, 0.1 * len(here) / samples)
    ridge = ridge * squares.diagonal()[: len(here)].mean().clamp(min=1e-12)
    eye = torch.eye(len(squares)).to(squares)
    solved = torch.linalg.solve(squares + ridge * eye, products + ridge * start)
    return solved[: len(here)], solved[-1]
