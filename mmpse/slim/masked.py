"""A part run once at full width, with the channels masked that the subnet of an image lacks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmpse.space import Subnet

from .cutting import LayerCut, kept, swapped, take, untracked
from .functions import ChunkedBatchNorm, interleave, is_channels_last, widen
from .layers import channel_dim
from .layout import Side
from .parts import Part, batch_of
from .plain import Row
from .watch import exchanged, map_tensors


@contextmanager
def masked(
    part: Part,
    subnets: Sequence[Subnet],
    cuts: Sequence[Mapping[str, LayerCut]],
    masks: Mapping[str, Tensor],
) -> Iterator[None]:
    """Run a part so for the time of a ``with`` block.

    Args:
        subnets: The subnet of each group.
        cuts: What each keeps of every layer.
        masks: Unit -> its channels that each group uses, bool ``(groups, channels)``.
    """
    # in channels_last, groups are run as chunks of the batch
    weights = (p for p in part.module.parameters() if p.dim() == 4)
    run = _Pass(part, subnets, cuts, masks, any(map(is_channels_last, weights)))
    with ExitStack() as stack:
        for norm, sides in part.norms:
            mask = None if sides is None else run.mask(sides.outputs)
            forward = partial(run.normalise, norm, norm.forward, mask)
            stack.enter_context(exchanged(norm, forward))
        for layer, sides in part.leaky:
            hook = partial(run.mask_input, run.mask(sides.inputs))
            stack.enter_context(layer.register_forward_pre_hook(hook))
        for row in part.not_plain:
            stack.enter_context(exchanged(row[1], partial(run.by_subnet, row, row[1].forward)))
        module = part.module  # the last, as it may be one of these layers
        stack.enter_context(exchanged(module, partial(run.whole, module.forward)))
        yield


@dataclass
class _Pass:
    """What takes the place of forwards in a masked pass."""

    part: Part
    subnets: Sequence[Subnet]
    cuts: Sequence[Mapping[str, LayerCut]]
    masks: Mapping[str, Tensor]
    chunked: bool

    def whole(self, forward: Callable, *args, **kwargs) -> Any:
        self.part.ran = True
        groups = len(self.subnets)
        batch = batch_of(args, kwargs, groups)

        def by_group(k: int, x: Tensor) -> Tensor:
            if not self.chunked or not x.dim() or len(x) != batch:
                return x
            return torch.cat([x[g::groups] for g in range(groups)])

        def in_order(k: int, y: Tensor) -> Tensor:
            if not y.dim() or len(y) != batch:
                return y
            if k in self.part.leaky_outputs:
                y = self._masked(y, self.mask(self.part.outputs[k]), channel_dim(y))
            return interleave(y.chunk(groups)) if self.chunked else y

        args, kwargs = map_tensors(by_group, (args, kwargs))
        return map_tensors(in_order, forward(*args, **kwargs))

    def mask(self, side: Side) -> Tensor:
        """Which positions of a side each group uses, bool ``(groups, positions)``."""
        groups, device = len(self.subnets), next(iter(self.masks.values())).device
        runs = [
            torch.ones(groups, s.positions, dtype=torch.bool, device=device)
            if s.unit is None
            else self.masks[s.unit].repeat_interleave(s.repeat, 1)
            for s in side
        ]
        return runs[0] if len(runs) == 1 else torch.cat(runs, 1)

    def _masked(self, x: Tensor, mask: Tensor, dim: int = 1) -> Tensor:
        """Drop of every image, first in ``x``, what its group lacks by ``(groups, channels)``."""
        share = len(x) // len(mask)
        mask = mask.repeat_interleave(share, 0) if self.chunked else mask.repeat(share, 1)
        shape = [1] * x.dim()
        shape[0], shape[dim] = len(x), x.shape[dim]
        return x * mask.to(x.dtype).view(shape)

    def mask_input(self, mask: Tensor, layer: nn.Module, args: tuple) -> tuple:
        x, *rest = args
        return self._masked(x, mask, channel_dim(x, layer)), *rest

    def by_subnet(self, row: Row, forward: Callable[..., Tensor], x: Tensor, *args) -> Tensor:
        """Run a layer, by its own ``forward``, with what the subnet of each group keeps of it."""
        name, layer, sides = row
        outputs = []
        for cut, subnet, own in zip(self.cuts, self.subnets, self._groups(x), strict=True):
            own = take(own, {channel_dim(own, layer): kept(sides.inputs, subnet)})
            with swapped([row], {name: cut[name]}):
                y = forward(own, *args)
            outputs.append(widen(y, sides.outputs, subnet, channel_dim(y, layer)))
        return self._joined(outputs)

    def _groups(self, x: Tensor) -> Sequence[Tensor]:
        """The groups' shares of a tensor inside of a masked pass."""
        groups = len(self.subnets)
        return x.chunk(groups) if self.chunked else [x[g::groups] for g in range(groups)]

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(parts) if self.chunked else interleave(parts)

    def normalise(
        self, norm: _BatchNorm, forward: Callable, mask: Tensor | None, x: Tensor
    ) -> Tensor:
        """Normalise each group by its own images; dropped channels become zeros."""
        groups, channels = len(self.subnets), x.shape[1]
        if not norm.training or x.dim() < 2:
            y = forward(x)
            return y if mask is None else self._masked(y, mask)
        if type(norm).forward is not _BatchNorm.forward:  # it does more: an activation of its own
            with untracked([norm]):
                y = self._joined([forward(part) for part in self._groups(x)])
            return y if mask is None else self._masked(y, mask)
        # The affine parameters carry the mask, so that dropped channels come out as exact zeros
        # and get no gradient, without another pass over the activation.
        ones = x.new_ones(channels) if norm.weight is None else norm.weight
        mask = ones.new_ones(groups, channels) if mask is None else mask.to(ones.dtype)
        weight = ones * mask
        bias = torch.zeros_like(weight) if norm.bias is None else norm.bias * mask
        if self.chunked and x.dim() == 4:
            return ChunkedBatchNorm.apply(x, weight, bias, norm.eps)
        if self.chunked:
            parts = zip(x.chunk(groups), weight, bias, strict=True)
            return torch.cat(
                [F.batch_norm(p, None, None, w, b, True, 0.0, norm.eps) for p, w, b in parts]
            )
        # (B, C, ...) seen as (B / n, n * C, ...): one native call normalises every group
        y = F.batch_norm(
            x.reshape(len(x) // groups, groups * channels, *x.shape[2:]),
            None,
            None,
            weight.flatten(),
            bias.flatten(),
            True,
            0.0,
            norm.eps,
        )
        # nobody else holds y: as a view it could not be changed in place behind a checkpoint
        return torch.ops.aten._unsafe_view(y, x.shape)
