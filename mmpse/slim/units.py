"""Width units of any model, found by watching where marked channels go.

No family is declared and nothing is traced. One layer at a time puts out marks (NaN) while all
others put out zeros, and the layers whose inputs are marked read its channels. Every image of the
batch marks other channels: those whose number has a bit set, or has not. So one forward tells for
every input of every layer which channel it is, through joining, flattening and shuffling.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from .layout import LayerWidths, Layout, Part, Segment, Side, make_layout
from .watch import (
    carriers_of,
    evaluating,
    has_nan,
    is_grouped,
    is_mixing,
    is_resize,
    layers_of,
    loose_tensors,
    step_of,
    stubbed,
    tensors_in,
)

Place = tuple[str, Any]  # ('layer', name), ('resize', k), ('into' or 'out of', (module, k))
MIXED = -2  # in a map of channels: a position that depends on several


def find_units(
    model: nn.Module,
    images: Tensor,
    run: Callable[[Tensor], Any] | None = None,
    parts: Sequence[str] = (),
    track: Callable[[Iterable], Iterable] = iter,
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
        track: Wraps the iterable of layers, for a progress bar.

    Returns:
        The layout.
    """
    return _Finder(model, images, run or model, parts).find(track)


class _Finder:
    def __init__(
        self, model: nn.Module, images: Tensor, run: Callable[[Tensor], Any], parts: Sequence[str]
    ) -> None:
        self.model = model
        self.images = images
        self.run = run
        self.parts = parts
        self.layers = layers_of(model)
        self.carriers = carriers_of(model)
        self.maps: dict[Place, dict[str, Tensor]] = {}  # place -> layer -> channel of positions
        self.positions: dict[Place, int] = {}
        self.fixed: dict[str, str] = {}
        self.order: list[str] = []

    @torch.no_grad()
    def find(self, track: Callable[[Iterable], Iterable]) -> Layout:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # to wait for each other would take longer than these tensors
        try:
            with evaluating(self.model):
                self._pass(None)
                for name in track([n for n in self.order if is_mixing(self.layers[n])]):
                    self._pass(name)
                with torch.device('cpu'):  # whatever the default is
                    self._unite()
                for tensor in loose_tensors(self.model):
                    self._check_loose(*tensor)
                with torch.device('cpu'):
                    layout = self._layout()
                return self._with_leaks(layout)
        finally:
            torch.set_num_threads(threads)

    # One forward with one layer's channels marked

    def _pass(self, writer: str | None) -> None:
        """Follow the channels of a layer; without one, note which layers there are."""
        width = 1 if writer is None else len(outputs_of(self.layers[writer]))
        if writer is not None and width == 1:
            self.fixed[writer] = 'it has one channel'
            return
        bits = max(1, (width - 1).bit_length())
        channels = torch.arange(width, device=self.images.device)
        ones = torch.stack([channels >> b & 1 for b in range(bits)]).bool()
        marked = torch.stack([ones, ~ones], 1).flatten(0, 1)  # (2 bits, width)
        seen: dict[Place, Tensor] = {}

        def note(place: Place, x: Tensor, dim: int) -> None:
            self.positions.setdefault(place, x.shape[dim])
            if writer is None:
                return
            found, old = decode(x, dim, bits), seen.get(place)
            if found is None:
                return
            if old is not None:
                if len(old) != len(found):
                    found = torch.full_like(old, MIXED)
                else:
                    clash = (old != found) & (old != -1) & (found != -1)
                    found = torch.where(found == -1, old, found).masked_fill(clash, MIXED)
            seen[place] = found

        resizes = 0

        def see(name: str, layer: Any, x: Tensor, y: Tensor) -> None:
            nonlocal resizes
            if not name:
                if is_resize(layer[0]):
                    note(('resize', resizes), x, 1)
                    resizes += 1
                return
            if writer is None and name not in self.order:
                self.order.append(name)
            self._check_size(name, layer, x)
            note(('layer', name), x, channel_dim(x, layer))
            if name == writer:
                marks = torch.zeros_like(marked, dtype=y.dtype).masked_fill(marked, torch.nan)
                y += spread(marks, y, -1 if isinstance(layer, nn.Linear) else 1)

        with ExitStack() as stack:
            stack.enter_context(stubbed(self.model, see, self.layers))
            for name in {*self.parts, *self.carriers}:
                stack.enter_context(self._boundaries(name, note))
            outputs = self.run(self.images.repeat(2 * bits, 1, 1, 1))  # some write into them
        if writer is None:
            return
        if has_nan(outputs):
            self.fixed[writer] = 'it is an output of the model'
        for place, found in seen.items():
            if (found == MIXED).any():
                where = place[1] if place[0] == 'layer' else 'a pooling or resizing'
                self.fixed.setdefault(writer, f'its channels are mixed before {where}')
            if (found >= 0).any():
                self.maps.setdefault(place, {})[writer] = found.clamp(min=-1)

    def _check_size(self, name: str, layer: nn.Module, x: Tensor) -> None:
        """A stub takes any input; the layer does not."""
        expected = getattr(layer, 'in_features', getattr(layer, 'in_channels', None))
        given = x.shape[channel_dim(x, layer)]
        if expected not in (None, given):
            raise ValueError(
                f'{name} reads {expected} channels, and gets {given} from images of '
                f'{tuple(self.images.shape[2:])} pixels; give images of the size that the model is '
                'made for'
            )

    @contextmanager
    def _boundaries(self, name: str, note: Callable[[Place, Tensor, int], None]):
        module = self.model.get_submodule(name)
        stock = module.forward  # hooks would miss those who call it

        def forward(*args, **kwargs) -> Any:
            noted('into', (args, kwargs))
            output = stock(*args, **kwargs)
            noted('out of', output)
            return output

        def noted(way: str, value: Any) -> None:
            for k, x in enumerate(tensors_in(value)):
                if x.dim() > 1:
                    note((way, (name, k)), x, channel_dim(x))

        module.forward = forward
        try:
            yield
        finally:
            del module.forward

    # Which channels share a unit

    def _unite(self) -> None:
        """Number the channels of all writers, and join those that meet somewhere."""
        self.writers = [n for n in self.order if is_mixing(self.layers[n])]
        self.widths = {n: len(outputs_of(self.layers[n])) for n in self.writers}
        starts, total = {}, 0
        for name, width in self.widths.items():
            starts[name], total = total, total + width
        edges = [torch.empty(2, 0, dtype=torch.long)]
        for found in self.maps.values():
            atoms = [(c + starts[n]).masked_fill(c < 0, -1).cpu() for n, c in found.items()]
            for k, one in enumerate(atoms):
                edges += [
                    torch.stack([one, other])[:, (one >= 0) & (other >= 0)] for other in atoms[:k]
                ]
        self.intervals = intervals_of(torch.cat(edges, 1), list(self.widths.values()))
        for place, found in self.maps.items():
            if place[0] == 'layer':
                self._check_groups(place[1], found)

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

    def _check_loose(self, name: str, tensor: Tensor) -> None:
        """Fix the layers whose channels a loose tensor meets one by one."""
        keep = tensor.data
        for dim, size in enumerate(tensor.shape):
            if size == 1:
                continue
            halves = []
            for first, last in ((0, size // 2), (size // 2, size)):
                marked: dict[Place, Tensor] = {}

                def see(layer_name, layer, x, y, marked=marked) -> None:
                    if layer_name:
                        d = channel_dim(x, layer)
                        now = x.isnan().movedim(d, 0).flatten(1).any(1)
                        place = ('layer', layer_name)
                        if place in self.maps and len(now) == self.positions[place]:
                            marked[place] = marked.get(place, torch.zeros_like(now)) | now

                tensor.data = keep.clone()
                tensor.data.narrow(dim, first, last - first).fill_(torch.nan)
                try:
                    with stubbed(self.model, see, self.layers):
                        self.run(self.images)
                finally:
                    tensor.data = keep
                halves.append(marked)
            for place in halves[0].keys() & halves[1].keys():
                own = halves[0][place] != halves[1][place]
                for writer, channel in self.maps[place].items():
                    if (own & (channel != -1)).any():
                        self.fixed.setdefault(writer, f'{name} is a tensor of its width')

    # The result

    def _layout(self) -> Layout:
        unit_of: dict[str, list[tuple[int, int, int]]] = {n: [] for n in self.writers}
        members: list[list[str]] = []
        for number, places in enumerate(self.intervals):
            members.append([self.writers[k] for k, _, _ in places])
            for k, first, last in places:
                unit_of[self.writers[k]].append((first, last, number))
        names = []
        for places in self.intervals:
            k, first, last = places[0]
            whole = last - first == self.widths[self.writers[k]]
            names.append(self.writers[k] + ('' if whole else f':{first}-{last}'))
        sizes = [places[0][2] - places[0][1] for places in self.intervals]
        # position -> number of the unit, and channel in it
        self.table = {}
        for name, intervals in unit_of.items():
            unit, channel = torch.empty(2, self.widths[name], dtype=torch.long)
            for first, last, number in intervals:
                unit[first:last], channel[first:last] = number, torch.arange(last - first)
            self.table[name] = unit, channel
        steps = [1] * len(names)
        for place, found in self.maps.items():
            side = self._side(place, set(range(len(names))), names, sizes)
            for writer, channel in found.items():
                if side is None:
                    where = place[1] if place[0] == 'layer' else 'a pooling or resizing'
                    self.fixed.setdefault(
                        writer, f'{where} gets a part of its channels, or shuffled'
                    )
                elif place[0] == 'layer':
                    for number in set(self.table[writer][0][channel[channel >= 0].cpu()].tolist()):
                        steps[number] = math.lcm(steps[number], step_of(self.layers[place[1]]))
        read = {n for found in self.maps.values() for n in found}
        for name in self.writers:
            if name not in read:
                self.fixed.setdefault(name, 'nothing reads it')
        alive = set(range(len(names)))
        while True:  # what is joined with something fixed is fixed, too
            for number in sorted(alive):
                reason = next(
                    ((n, self.fixed[n]) for n in members[number] if n in self.fixed), None
                )
                if reason is not None:
                    alive.remove(number)
                    for name in members[number]:
                        self.fixed.setdefault(name, f'joined with {reason[0]}: {reason[1]}')
            if not any(n in self.fixed for number in alive for n in members[number]):
                break
        layers = {}
        for name in self.order:
            layer = self.layers[name]
            reads = self._side(('layer', name), alive, names, sizes)
            if is_mixing(layer):
                unit, channel = self.table[name]
                sides = LayerWidths(reads, sides_of(unit, channel, alive, names, sizes))
            else:
                times = len(outputs_of(layer)) // self.positions['layer', name]
                sides = LayerWidths(None, tuple(s._replace(repeat=s.repeat * times) for s in reads))
            if sides.units:
                layers[name] = sides

        for name in self.carriers:
            sides = LayerWidths(None, self._side(('out of', (name, 0)), alive, names, sizes))
            if sides.units:
                layers[name] = sides

        def boundary(way: str, part: str) -> dict[int, Side]:
            places = [p for p in self.positions if p[0] == way and p[1][0] == part]
            return {p[1][1]: self._side(p, alive, names, sizes) for p in places}

        resizes = sorted(p for p in self.positions if p[0] == 'resize')
        return make_layout(
            {names[k]: (sizes[k], steps[k]) for k in sorted(alive)},
            layers,
            fixed={n: self.fixed[n] for n in self.order if n in self.fixed},
            unseen=tuple(n for n in self.layers if n not in self.order),
            parts={p: Part(boundary('into', p), boundary('out of', p)) for p in self.parts},
            resizes=tuple(self._side(p, alive, names, sizes) for p in resizes),
        )

    def _side(
        self, place: Place, alive: set[int], names: Sequence[str], sizes: Sequence[int]
    ) -> Side | None:
        """The segments of what goes through a place."""
        unit = torch.full((self.positions.get(place, 0),), -1)
        channel = torch.zeros_like(unit)
        for writer, found in self.maps.get(place, {}).items():
            at = (found >= 0).nonzero()[:, 0].cpu()
            units, channels = self.table[writer]
            unit[at], channel[at] = units[found[at].cpu()], channels[found[at].cpu()]
        return sides_of(unit, channel, alive, names, sizes)

    def _with_leaks(self, layout: Layout) -> Layout:
        """Note what gets more than zeros if only BatchNorms are masked, to half of each unit."""
        half = {name: unit.width // 2 for name, unit in layout.units.items()}
        layers: set[str] = set()
        outputs: dict[str, set[int]] = {part: set() for part in self.parts}
        random = torch.Generator(self.images.device).manual_seed(0)

        def leaks(x: Tensor, dim: int, side: Side) -> bool:
            dropped = mask_of(side, half).to(x.device).logical_not()
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
            if way == 'out of' and leaks(x, dim, layout.parts[part].outputs[k]):
                outputs[part].add(k)

        with ExitStack() as stack:
            stack.enter_context(stubbed(self.model, see, self.layers))
            for part in self.parts:
                stack.enter_context(self._boundaries(part, note))
            self.run(self.images)
        parts = {
            name: part._replace(leaky=frozenset(outputs[name]))
            for name, part in layout.parts.items()
        }
        return dataclasses.replace(layout, leaky=frozenset(layers), parts=parts)


def mask_of(side: Side, widths: Mapping[str, int]) -> Tensor:
    """Which positions of a side subnets of these widths use, bool ``(positions,)``."""
    runs = [
        (torch.arange(s.channels, device='cpu') < widths.get(s.unit, s.channels)).repeat_interleave(
            s.repeat
        )
        for s in side
    ]
    return torch.cat(runs)


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
        unit: Number of the unit that each position belongs to, or -1.
        channel: The channel of that unit.
        alive: Units that can be pruned; all others are nobody's.
    """
    segments: list[Segment] = []
    at, total = 0, len(unit)
    while at < total:
        number = int(unit[at])
        change = (unit[at:] != number).nonzero()
        end = at + int(change[0]) if len(change) else total
        if number not in alive:
            if segments and segments[-1].unit is None:
                segments[-1] = Segment(None, segments[-1].channels + end - at)
            else:
                segments.append(Segment(None, end - at))
            at = end
            continue
        width, own = sizes[number], channel[at:end]
        other = (own != 0).nonzero()
        repeat = int(other[0]) if len(other) else len(own)
        expected = torch.arange(width).repeat_interleave(repeat)
        if (
            repeat == 0
            or len(own) < len(expected)
            or not torch.equal(own[: len(expected)], expected)
        ):
            return None
        segments.append(Segment(names[number], width, repeat))
        at += len(expected)
    return tuple(segments)


def outputs_of(layer: nn.Module) -> range:
    """The numbers of a layer's output channels: of the rows of its weight, if it has one of these.

    Some put out less, such as the best of several centres of each class.
    """
    if is_mixing(layer) or is_grouped(layer):
        return range(layer.weight.shape[1 if isinstance(layer, _ConvTransposeNd) else 0])
    return range(max(t.numel() for t in layer.state_dict().values()))


def channel_dim(x: Tensor, layer: nn.Module | None = None) -> int:
    """Which dimension of a tensor holds channels: 1 of images and vectors, the last of tokens.

    A layer that reads the tensor knows better: 1, the last for a linear one.
    """
    tokens = x.dim() == 3 if layer is None else isinstance(layer, nn.Linear)
    return x.dim() - 1 if tokens else 1


def spread(marks: Tensor, y: Tensor, dim: int) -> Tensor:
    """Marks ``(images, channels)`` in the shape of ``y``, whose first dimension holds the images'
    regions, windows or tokens, one image after the other; marks everything if it does not, or has
    other channels."""
    if len(y) % len(marks) or y.shape[dim] != marks.shape[1]:
        return torch.full_like(y, torch.nan)
    marks = marks.repeat_interleave(len(y) // len(marks), 0)
    return marks[(...,) + (None,) * (y.dim() - 2)].movedim(1, dim)


def decode(x: Tensor, dim: int, bits: int) -> Tensor | None:
    """Which channel every position of an input is, ``(positions,)``; -1: none that is marked.

    ``None`` if no position is.

    Args:
        x: The input; images ``2 b`` and ``2 b + 1`` mark the channels with and without bit ``b``.
        dim: Its dimension of channels.
        bits: Bits of a channel's number.
    """
    sums = x.movedim(dim, 1)
    nan = (sums.flatten(2).sum(2) if sums.dim() > 2 else sums).isnan()
    if not nan.any():
        return None
    if len(nan) % (2 * bits):
        return torch.full((nan.shape[1],), MIXED, device=x.device)
    nan = nan.unflatten(0, (2 * bits, -1)).any(1)  # (images, positions)
    one, zero = nan[0::2], nan[1::2]
    number = (one.long() << torch.arange(bits, device=x.device)[:, None]).sum(0)
    any_ = nan.any(0)
    number[(one & zero).any(0) | (any_ & ~(one | zero).all(0))] = MIXED
    return number.masked_fill(~any_, -1)
