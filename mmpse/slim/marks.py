"""Where channels go: forwards whose layers put out marks (NaN) instead of what they compute.

First every image marks all channels of one layer, which tells the layers that arrive somewhere.
Then all layers are marked at once, and every image marks other channels: those with a one in some
place of their code. All codes have as many ones, so that channels that are mixed have none, and
layers that meet have one only if they meet channel by channel. Others are marked again, apart from
those that they meet.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmpse.errors import UserError

from .codes import MIXED, NOBODY, IndistinctError, codes_for, images_dim, mark_, nan_of
from .layers import channel_dim, is_mixing, loose_tensors, outputs_of
from .watch import Forward, Note, Place, is_resize, tensors_in

IMAGES = 13  # of a forward: a prime, so that no other dimension is a multiple by chance


class Marks:
    """Which channels of which layers arrive where.

    Args:
        forward: Runs the model.
        track: Wraps an iterable of forwards, for a progress bar.

    Attributes:
        order: The layers in the order in which they first run.
        positions: Place -> positions of the tensors that go through it.
        maps: Place -> layer -> its channel that each position depends on ``(positions,)``;
            ``NOBODY`` of it, or ``MIXED``.
        fixed: Layer whose channels do not go to layers alone, one by one -> why.
    """

    def __init__(self, forward: Forward, track: Callable[[Iterable], Iterable]) -> None:
        self.forward, self.track = forward, track
        self.layers = forward.layers
        self.order: list[str] = []
        self.positions: dict[Place, int] = {}
        self._run({}, 1, self._note_size)
        try:
            self._mark_layers(IMAGES)
        except IndistinctError:
            self._mark_layers(1)
        for tensor in loose_tensors(forward.model):
            self._mark_loose(*tensor)

    @property
    def writers(self) -> list[str]:
        """Layers that write channels of their own, in the order of the forward."""
        return [name for name in self.order if is_mixing(self.layers[name])]

    def _run(self, marks: Mapping[str, Tensor], images: int, note: Note) -> Any:
        """One forward; returns the model's outputs. ``marks``: layer -> channels that each image
        marks, bool ``(images, channels)``."""
        calls = dict(resize=itertools.count(), norm=itertools.count())

        def see(name: str, layer: Any, x: Tensor, y: Tensor) -> None:
            if name:
                note(('layer', name), x, channel_dim(x, layer))
                if name in marks:
                    mark_(y, marks[name], -1 if isinstance(layer, nn.Linear) else 1)
            elif is_resize(layer[0]):
                note(('resize', next(calls['resize'])), x, 1)
            elif x.dim() > 1:
                note(('norm', next(calls['norm'])), x, x.dim() - 1)

        return self.forward(see, note, images)

    def _note_size(self, place: Place, x: Tensor, dim: int) -> None:
        self.positions.setdefault(place, x.shape[dim])
        if place[0] != 'layer':
            return
        name, layer = place[1], self.layers[place[1]]
        if name not in self.order:
            self.order.append(name)
        # a stub takes any input; the layer does not
        expected = getattr(layer, 'in_features', getattr(layer, 'in_channels', None))
        if expected not in (None, x.shape[dim]):
            raise UserError(
                f'{name} reads {expected} channels, and gets {x.shape[dim]} from images of '
                f'{tuple(self.forward.images.shape[2:])} pixels; give images of the size that the '
                'model is made for'
            )

    def _mark_layers(self, images: int) -> None:
        """Follow the channels of all layers.

        Args:
            images: Layers that are told apart in a forward, each in an image of its own.

        Raises:
            IndistinctError: If images cannot be told apart in a tensor that a mark reaches.
        """
        self.maps: dict[Place, dict[str, Tensor]] = {}
        self.fixed: dict[str, str] = {}
        for name in self.writers:
            if outputs_of(self.layers[name]) == 1:
                self.fixed[name] = 'it has one channel'
        names = [name for name in self.writers if name not in self.fixed]
        self._reach(names, images)
        # what arrives at one position with channels that are not known there
        mixed = [[name for name in names if name in some] for some in self._decode(names)]
        fix_joined(self.fixed, mixed)
        unsure = set(itertools.chain(*mixed)) - self.fixed.keys()
        for group in self.track(self._apart([name for name in names if name in unsure])):
            self._decode(group)
        fix_joined(self.fixed, mixed)

    # Which layers arrive at all

    def _reach(self, names: Sequence[str], images: int) -> None:
        """Note at which positions of a place each layer arrives, and which reach an output."""
        self.reach: dict[Place, dict[str, Tensor]] = {}
        for first in self.track(range(0, len(names), images)):
            some = names[first : first + images]
            one_each = torch.eye(images, dtype=torch.bool, device=self.forward.images.device)
            marks = {
                name: one_each[:, k, None].expand(-1, outputs_of(self.layers[name]))
                for k, name in enumerate(some)
            }

            def note(place: Place, x: Tensor, dim: int, some: Sequence[str] = some) -> None:
                if place[0] == 'layer' and place[1] in some:
                    images_dim(x, images, dim)  # or it could not mark them apart
                nan = self._nan_of(place, x, dim, images)
                if nan is None:
                    return
                if place not in self.positions:
                    raise UserError(
                        f'{place[1][0]} drops the dimension of a single image, perhaps by '
                        'squeeze(); let it keep that dimension, as flatten(1) does'
                    )
                if nan.shape[1] != self.positions[place]:
                    nan = nan.any(1, keepdim=True).expand(-1, self.positions[place])
                old = self.reach.setdefault(place, {})
                for k in nan.any(1).nonzero()[:, 0].tolist():
                    old[some[k]] = old[some[k]] | nan[k] if some[k] in old else nan[k]

            for y in tensors_in(self._run(marks, images, note)):
                nan = y.isnan().reshape(y.shape or 1)
                if nan.any():
                    at = images_dim(nan, images)
                    nan = nan.movedim(at, 0).reshape(images, -1).any(1)
                    for k in nan.nonzero()[:, 0].tolist():
                        self.fixed.setdefault(some[k], 'it is an output of the model')

    def _nan_of(self, place: Place, x: Tensor, dim: int, images: int) -> Tensor | None:
        """See :func:`nan_of`. What goes into a part without images in its first dimension, such as
        the layers of a decoder, no pass can share."""
        if place[0] in ('into', 'out of') and place[1][0] in self.forward.parts:
            if len(x) % images:
                return None
        return nan_of(x, dim, images)

    def _apart(self, names: Sequence[str]) -> list[list[str]]:
        """Layers in groups of which no two arrive at one position."""
        number = {name: k for k, name in enumerate(names)}
        meet = torch.zeros(len(names), len(names), dtype=torch.bool, device='cpu')
        for found in self.reach.values():
            arrive = [name for name in found if name in number]
            if not arrive:
                continue
            rows = torch.tensor([number[name] for name in arrive], device='cpu')
            nan = torch.stack([found[name] for name in arrive]).float().cpu()
            meet[rows[:, None], rows] |= nan @ nan.T > 0
        groups: list[list[int]] = []
        for k in range(len(names)):
            group = next((g for g in groups if not meet[k, g].any()), None)
            if group is None:
                groups.append([k])
            else:
                group.append(k)
        return [[names[k] for k in group] for group in groups]

    # Which of their channels

    def _decode(self, group: Sequence[str]) -> list[frozenset[str]]:
        """Follow the channels of layers, and note where they arrive.

        At a position that several layers reach, all are on the same channel if one is found.

        Returns:
            Layers that arrive together at a position where none is found: channels of one are
            mixed, or those of several do not meet one by one.
        """
        seen = self._follow(group)
        together: list[frozenset[str]] = []
        for place, found in seen.items():
            reach = {n: at for n, at in self.reach.get(place, {}).items() if n in group}
            arrive = sum(reach.values(), torch.zeros_like(found))
            if ((found != NOBODY) & (arrive == 0)).any():
                raise IndistinctError
            mixed = (found == MIXED) & (arrive > 1)
            if mixed.any():
                rows = torch.stack(list(reach.values()))[:, mixed].unique(dim=1)
                together += [frozenset(itertools.compress(reach, row)) for row in rows.T.tolist()]
            for name, at in reach.items():
                own = torch.where(at, found, NOBODY)
                if place[0] == 'norm':
                    if (own >= 0).sum() > 1:
                        self.fixed.setdefault(name, 'a LayerNorm mixes its channels')
                    continue
                if ((own == MIXED) & ~mixed).any():
                    self.fixed.setdefault(name, f'its channels are mixed before {text_of(place)}')
                if (own >= 0).any():
                    self.maps.setdefault(place, {})[name] = own.clamp(min=NOBODY).cpu()
        return list(dict.fromkeys(together))

    def _follow(self, group: Sequence[str]) -> dict[Place, Tensor]:
        """Place -> the channel of whichever layer of a group each position depends on."""
        device = self.forward.images.device
        widths = {name: outputs_of(self.layers[name]) for name in group}
        codes = codes_for(max(widths.values(), default=1)).to(device)
        weights = 1 << torch.arange(len(codes), device=device)[:, None]
        channels = torch.full((2 ** len(codes),), MIXED, device=device)
        channels[(codes * weights).sum(0)] = torch.arange(codes.shape[1], device=device)
        channels[0] = NOBODY
        seen: dict[Place, Tensor] = {}

        def note(place: Place, x: Tensor, dim: int) -> None:
            try:
                nan, apart = self._nan_of(place, x, dim, len(codes)), True
            except IndistinctError:
                nan, apart = nan_of(x, dim), False
            if nan is None:
                return
            positions = self.positions[place]
            if nan.shape[1] != positions:
                new = torch.full((positions,), MIXED, device=device)
            elif apart:
                new = channels[(nan * weights).sum(0)]
            else:
                new = torch.where(nan[0], MIXED, NOBODY)
            old = seen.setdefault(place, new)
            clash = (old != new) & (old != NOBODY) & (new != NOBODY)
            seen[place] = torch.where(new == NOBODY, old, new).masked_fill(clash, MIXED)

        marks = {name: codes[:, :width] for name, width in widths.items()}
        self._run(marks, len(codes), note)
        return seen

    def _mark_loose(self, name: str, tensor: Tensor) -> None:
        """Fix the layers whose channels a loose tensor meets one by one."""
        keep = tensor.data
        for dim, size in enumerate(tensor.shape):
            if size == 1:
                continue
            halves = []
            for first, last in ((0, size // 2), (size // 2, size)):
                marked: dict[Place, Tensor] = {}

                def note(place: Place, x: Tensor, dim: int, marked: dict = marked) -> None:
                    if place[0] == 'layer' and place in self.maps:
                        nan = nan_of(x, dim)
                        if nan is not None and nan.shape[1] == self.positions[place]:
                            marked[place] = marked.get(place, False) | nan.any(0)

                tensor.data = keep.clone()
                tensor.data.narrow(dim, first, last - first).fill_(torch.nan)
                try:
                    self._run({}, 1, note)
                finally:
                    tensor.data = keep
                halves.append(marked)
            for place in halves[0].keys() | halves[1].keys():
                none = torch.zeros(self.positions[place], dtype=torch.bool, device=keep.device)
                own = (halves[0].get(place, none) != halves[1].get(place, none)).cpu()
                for writer, channel in self.maps[place].items():
                    if (own & (channel != NOBODY)).any():
                        self.fixed.setdefault(writer, f'{name} is a tensor of its width')


def fix_joined(fixed: dict[str, str], groups: Sequence[Sequence[str]]) -> None:
    """Fix the layers of a group if one of them is fixed, until no more are."""
    before = -1
    while len(fixed) != before:
        before = len(fixed)
        for names in groups:
            first = next((name for name in names if name in fixed), None)
            for name in names if first is not None else ():
                fixed.setdefault(name, f'joined with {first}: {fixed[first]}')


def text_of(place: Place) -> str:
    """A place, for messages."""
    return place[1] if place[0] == 'layer' else 'a pooling or resizing'
