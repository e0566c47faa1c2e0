"""What was found of a model's widths, as data: units, and which layers read and write them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote

from mmpse.errors import UserError
from mmpse.space import SearchSpace
from mmpse.space.search_space import DEFAULT_RATIOS


class Segment(NamedTuple):
    """Consecutive channels of a layer's input or output."""

    unit: str | None  # that they belong to; None: nobody's, they always stay
    channels: int  # of the unit (all of them), or of nobody
    repeat: int = 1  # positions of each: 49 for a linear layer that reads flattened 7x7 maps

    @property
    def positions(self) -> int:
        return self.channels * self.repeat


Side = tuple[Segment, ...]


class LayerWidths(NamedTuple):
    """The input and output channels of a layer with weights.

    One that keeps channels apart (a normalisation, a depthwise or grouped convolution) has no
    ``inputs``: they are its outputs.
    """

    inputs: Side | None
    outputs: Side

    @property
    def units(self) -> set[str]:
        """The units that it reads or writes."""
        return {s.unit for side in (self.inputs or (), self.outputs) for s in side if s.unit}


@dataclass(frozen=True)
class Unit:
    """Channels that live and die together; layers are in the order of the forward."""

    name: str  # of the first layer that writes them
    width: int  # channels of the full model
    step: int  # they go in blocks of so many (a group of a grouped convolution or normalisation)
    writers: tuple[str, ...]  # layers that write them; of a residual sum several
    readers: tuple[str, ...]  # layers that mix them


class Boundary(NamedTuple):
    """What goes into and out of a part of the model: number of the tensor -> its channels."""

    inputs: dict[int, Side]
    outputs: dict[int, Side]
    leaky: frozenset[int] = frozenset()  # outputs not zero in the channels that a masked pass drops


@dataclass(frozen=True)
class Layout:
    """The width units of a model and the layers that they run through.

    Attributes:
        units: Name -> unit, in the order of the forward.
        layers: Name -> sides, of every layer that a unit runs through.
        fixed: Layer whose output cannot be pruned -> why.
        unseen: Layers with weights that the forward did not run.
        parts: Name -> what goes in and out, of the parts that were asked for.
        resizes: Channels that the k-th pooling or resizing of the forward works on.
        leaky: Layers whose input is not zero in the channels that a masked pass drops, unless it
            is masked: between them and the last BatchNorm is a bias, or an activation that does
            not keep zeros.
    """

    units: Mapping[str, Unit]
    layers: Mapping[str, LayerWidths]
    fixed: Mapping[str, str] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()
    parts: Mapping[str, Boundary] = field(default_factory=dict)
    resizes: tuple[Side, ...] = ()
    leaky: frozenset[str] = frozenset()

    def space(
        self,
        ratios: Sequence[float] = DEFAULT_RATIOS,
        divisor: int = 8,
        grids: Mapping[str, Mapping[str, Any]] | None = None,
        model: str = 'model',
    ) -> SearchSpace:
        """The search space of the units; arguments as of :class:`mmpse.space.SearchSpace`, and
        the type of the model.

        Raises:
            ValueError: If there is no unit, or the grid is none.
        """
        if not self.units:
            reasons = ', '.join(sorted(set(self.fixed.values()))) or 'it has no layers'
            raise UserError(f'nothing of this {model} can be pruned: {reasons}')
        units = self.units.items()
        widths = {name: unit.width for name, unit in units}
        steps = {
            name: dict(divisor=math.lcm(divisor, unit.step))
            for name, unit in units
            if divisor % unit.step
        }
        identity = dict(type=model, **self.to_dict())
        return SearchSpace(widths, identity, ratios, divisor, {**steps, **(grids or {})} or None)

    def to_dict(self, whole: bool = False) -> dict[str, Any]:
        """What cutting needs, for a subnet's file; as a whole, what passes and costs need, too."""
        units = {u.name: u.width if u.step == 1 else [u.width, u.step] for u in self.units.values()}
        content = dict(units=units, layers={name: _text(s) for name, s in self.layers.items()})
        if whole:

            def texts(sides: Mapping[int, Side]) -> dict[str, str]:
                return {str(k): _side_text(side) for k, side in sides.items()}

            content['parts'] = {
                name: dict(inputs=texts(p.inputs), outputs=texts(p.outputs), leaky=sorted(p.leaky))
                for name, p in self.parts.items()
            }
            content['resizes'] = [_side_text(side) for side in self.resizes]
            content['leaky'] = sorted(self.leaky)
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Layout:
        """The layout that :meth:`to_dict` wrote.

        Raises:
            ValueError: If a layer's text cannot be read.
        """
        sizes = {
            name: (size, 1) if isinstance(size, int) else tuple(size)
            for name, size in content['units'].items()
        }
        widths = {name: width for name, (width, _) in sizes.items()}
        layers = {name: _layer(text, widths) for name, text in content['layers'].items()}

        def sides(texts: Mapping[str, str]) -> dict[int, Side]:
            return {int(k): _side(text, widths) for k, text in texts.items()}

        return make_layout(
            sizes,
            layers,
            parts={
                name: Boundary(sides(p['inputs']), sides(p['outputs']), frozenset(p['leaky']))
                for name, p in content.get('parts', {}).items()
            },
            resizes=tuple(_side(text, widths) for text in content.get('resizes', ())),
            leaky=frozenset(content.get('leaky', ())),
        )


def make_layout(
    sizes: Mapping[str, tuple[int, int]], layers: Mapping[str, LayerWidths], **rest: Any
) -> Layout:
    """A layout of units (name -> width and step) and layers."""
    mixing = {name: sides for name, sides in layers.items() if sides.inputs is not None}
    units = {}
    for name, size in sizes.items():
        writers = (k for k, v in mixing.items() if any(s.unit == name for s in v.outputs))
        readers = (k for k, v in mixing.items() if any(s.unit == name for s in v.inputs))
        units[name] = Unit(name, *size, tuple(writers), tuple(readers))
    return Layout(units, layers, **rest)


def _text(layer: LayerWidths) -> str:
    """``'reads > writes'``, e.g. ``'conv1 + #3 > conv2'``, ``'conv5*49 > #4096'``."""
    outputs = _side_text(layer.outputs)
    return outputs if layer.inputs is None else f'{_side_text(layer.inputs)} > {outputs}'


def _side_text(side: Side) -> str:
    def one(segment: Segment) -> str:
        if segment.unit is None:
            return f'#{segment.positions}'
        # the signs that the text uses are written as in an URL
        name = re.sub('[ #%*+>]', lambda sign: f'%{ord(sign[0]):02X}', segment.unit)
        return f'{name}*{segment.repeat}' if segment.repeat > 1 else name

    return ' + '.join(map(one, side))


def _layer(text: str, widths: Mapping[str, int]) -> LayerWidths:
    reads, arrow, writes = text.rpartition(' > ')
    return LayerWidths(_side(reads, widths) if arrow else None, _side(writes, widths))


def _side(text: str, widths: Mapping[str, int]) -> Side:
    segments = []
    for part in text.split(' + '):
        match = re.fullmatch(r'#(\d+)|(.+?)(?:\*(\d+))?', part)
        name = unquote(match[2] or '') if match else ''
        if match is None or (name and name not in widths):
            raise UserError(
                f'cannot read {part!r} in the layer {text!r}: expected #CHANNELS, UNIT or '
                'UNIT*REPEAT, joined by " + "'
            )
        segments.append(
            Segment(None, int(match[1]))
            if match[1]
            else Segment(name, widths[name], int(match[3] or 1))
        )
    return tuple(segments)
