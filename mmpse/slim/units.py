"""Width units of any model, found by watching where marked channels go.

No family is declared and nothing is traced: layers put out marks, and those whose inputs are marked
read the channels. Channels that arrive at one position, or go through one layer, live and die
together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear  # attention's own use of it

from .codes import NOBODY
from .halves import stuck, with_leaks
from .intervals import intervals_of, sides_of
from .layers import is_grouped, is_mixing, outputs_of, step_of
from .layout import Boundary, LayerWidths, Layout, Side, make_layout
from .marks import Marks, fix_joined, text_of
from .watch import Forward, Place, evaluating


def find_units(
    model: nn.Module,
    images: Tensor,
    run: Callable[[Tensor], Any] | None = None,
    parts: Sequence[str] = (),
    track: Callable[[Iterable], Iterable] = iter,
    also: Callable[[Tensor], Any] | None = None,
) -> Layout:
    """Find the width units of a model.

    Layers whose channels meet channel by channel (in a sum, a product, or as one input of a shared
    layer) share a unit. A layer is fixed if its channels reach an output, are mixed outside a
    layer, or meet something that cannot be cut.

    Args:
        model: Any model; its weights and mode are left as they are.
        images: An example of its input ``(1, C, H, W)``; a small one saves time.
        run: Runs the model on images and returns everything that it predicts from, raw;
            ``None``: ``model(images)``.
        parts: Names of modules that are run as wholes, whose inputs and outputs are to be known.
        track: Wraps an iterable of forwards, for a progress bar.
        also: Runs the model once more, in training mode: what it puts out then, too, has layers.

    Returns:
        The layout.

    Raises:
        ValueError: If a layer does not fit images of this size.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # to wait for each other would take longer than these tensors
    try:
        with torch.no_grad(), evaluating(model):
            forward = Forward(model, images, run or model, parts, also)
            marks = Marks(forward, track)
            with torch.device('cpu'):  # whatever the default is
                units = _Units(marks)
                layout = units.layout()
            while found := stuck(layout, forward):
                layer, names = found
                with torch.device('cpu'):
                    units.fix(names, f'the forward fails behind {layer} if it is narrower')
                    layout = units.layout()
            return with_leaks(layout, forward)
    finally:
        torch.set_num_threads(threads)


class _Units:
    """The channels of all writers, joined where they meet.

    Attributes:
        names, sizes: Of every unit, the name and channels.
        table: Writer -> unit of each of its channels, and the channel in it.
        alive: Numbers of the units that can be pruned.
        fixed: Layer whose width is kept -> why.
    """

    def __init__(self, marks: Marks) -> None:
        self.marks = marks
        self.layers = marks.layers
        self.fixed = dict(marks.fixed)
        self.writers = marks.writers
        self.widths = {n: outputs_of(self.layers[n]) for n in self.writers}
        self.intervals = intervals_of(self._meetings(), list(self.widths.values()))
        self.names, self.sizes = [], []
        self.table = {n: torch.empty(2, w, dtype=torch.long) for n, w in self.widths.items()}
        for number, places in enumerate(self.intervals):
            k, first, last = places[0]
            whole = last - first == self.widths[self.writers[k]]
            self.names.append(self.writers[k] + ('' if whole else f':{first}-{last}'))
            self.sizes.append(last - first)
            for k, first, last in places:
                unit, channel = self.table[self.writers[k]]
                unit[first:last], channel[first:last] = number, torch.arange(last - first)
        self.alive = set(range(len(self.names)))
        for place, found in marks.maps.items():
            if place[0] == 'layer':
                self._check_groups(place[1], found)
        self.steps = self._steps()
        read = {n for found in marks.maps.values() for n in found}
        for name in self.writers:
            if name not in read:
                self.fixed.setdefault(name, 'nothing reads it')
        self._fix_joined()

    def _meetings(self) -> Tensor:
        """Pairs of channels that arrive at one position, numbered through all writers."""
        starts, total = {}, 0
        for name, width in self.widths.items():
            starts[name], total = total, total + width
        pairs = [torch.empty(2, 0, dtype=torch.long)]
        for found in self.marks.maps.values():
            numbers = [torch.where(c < 0, NOBODY, c + starts[n]) for n, c in found.items()]
            for k, one in enumerate(numbers):
                pairs += [
                    torch.stack([one, other])[:, (one >= 0) & (other >= 0)] for other in numbers[:k]
                ]
        return torch.cat(pairs, 1)

    def _check_groups(self, name: str, found: dict[str, Tensor]) -> None:
        """Fix layers whose channels a grouped layer cannot keep apart."""
        layer, step = self.layers[name], step_of(self.layers[name])
        for writer, channel in found.items():
            at = int((channel >= 0).nonzero()[0])
            if step > 1 and (at % step or self.widths[writer] % step):
                self.fixed.setdefault(writer, f'its channels lie across the groups of {name}')
            if getattr(layer, 'deform_groups', 1) > 1:
                self.fixed.setdefault(writer, f'each part of its channels has offsets in {name}')
            if is_grouped(layer) and layer.out_channels % layer.in_channels:
                self.fixed.setdefault(writer, f'{name} is a grouped convolution that narrows')

    def _steps(self) -> list[int]:
        """The blocks of channels in which each unit goes; fixes what arrives in parts."""
        steps = [1] * len(self.names)
        for place, found in self.marks.maps.items():
            side = self._side(place)
            for writer, channel in found.items():
                own = channel[channel >= 0]
                # what splits an output has its channels' numbers, be they of whole units or not
                if side is None or len(own.unique()) < self.widths[writer]:
                    self.fixed.setdefault(
                        writer, f'{text_of(place)} gets a part of its channels, or shuffled'
                    )
                elif place[0] == 'layer':
                    step = step_of(self.layers[place[1]])
                    for number in set(self.table[writer][0][own].tolist()):
                        steps[number] = math.lcm(steps[number], step)
        return steps

    def _fix_joined(self) -> None:
        """Fix what is joined with something fixed."""
        members = [[self.writers[k] for k, _, _ in places] for places in self.intervals]
        fix_joined(self.fixed, members)
        self.alive = {k for k, names in enumerate(members) if names[0] not in self.fixed}

    def fix(self, names: Sequence[str], why: str) -> None:
        """Keep the width of units."""
        for number in self.alive:
            if self.names[number] in names:
                for k, _, _ in self.intervals[number]:
                    self.fixed.setdefault(self.writers[k], why)
        self._fix_joined()

    def _side(self, place: Place) -> Side | None:
        """The segments of what goes through a place."""
        unit = torch.full((self.marks.positions.get(place, 0),), NOBODY)
        channel = torch.zeros_like(unit)
        for writer, found in self.marks.maps.get(place, {}).items():
            at = (found >= 0).nonzero()[:, 0]
            units, channels = self.table[writer]
            unit[at], channel[at] = units[found[at]], channels[found[at]]
        return sides_of(unit, channel, self.alive, self.names, self.sizes)

    def _twin(self, carrier: str) -> str:
        """A carrier, or one beside it in a list that runs instead: a cascade may leave out in its
        prediction what its loss runs."""
        carriers, ran = self.marks.forward.carriers, self.marks.positions

        def kind(name: str) -> tuple:
            beside, _, number = name.rpartition('.')
            return (
                beside,
                number.isdigit() or name,
                type(carriers[name]),
                carriers[name].out_channels,
            )

        alike = [name for name in carriers if kind(name) == kind(carrier)]
        return next((n for n in (carrier, *alike) if ('out of', (n, 0)) in ran), carrier)

    def layout(self) -> Layout:
        """What was found, as data."""
        positions, order = self.marks.positions, self.marks.order
        layers = {}
        for name in order:
            layer, reads = self.layers[name], self._side(('layer', name))
            if is_mixing(layer):
                writes = sides_of(*self.table[name], self.alive, self.names, self.sizes)
                sides = LayerWidths(reads, writes)
            else:
                times = outputs_of(layer) // positions['layer', name]
                sides = LayerWidths(None, tuple(s._replace(repeat=s.repeat * times) for s in reads))
            if sides.units:
                layers[name] = sides
        for name in self.marks.forward.carriers:
            sides = LayerWidths(None, self._side(('out of', (self._twin(name), 0))))
            if sides.units:
                layers[name] = sides

        def boundary(way: str, part: str) -> dict[int, Side]:
            places = [p for p in positions if p[0] == way and p[1][0] == part]
            return {p[1][1]: self._side(p) for p in places}

        return make_layout(
            {self.names[k]: (self.sizes[k], self.steps[k]) for k in sorted(self.alive)},
            layers,
            fixed={n: self.fixed[n] for n in order if n in self.fixed},
            unseen=tuple(
                name
                for name, layer in self.layers.items()
                if name not in order and not isinstance(layer, NonDynamicallyQuantizableLinear)
            ),
            parts={
                p: Boundary(boundary('into', p), boundary('out of', p))
                for p in self.marks.forward.parts
            },
            resizes=tuple(self._side(p) for p in sorted(p for p in positions if p[0] == 'resize')),
        )
