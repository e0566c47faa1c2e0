"""The layers of a supernet: they run many subnets in one pass.

They are the stock layers, with the same parameters and state_dict keys, plus the state that
:class:`mmpse.models.SlimmableBackbone` sets around a forward:

* sliced: a convolution or fully connected layer holds the slice of its weights that the subnet
  uses; the width of a normalisation layer is that of the input it is given.
* masked: a normalisation layer holds one prefix mask per group; convolutions run at full width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmpse.openmmlab import compat
from mmpse.openmmlab.models.backbones import InPlaceReLU6
from mmpse.registry import MODELS
from mmpse.slim.functions import ChunkedBatchNorm, interleave, is_channels_last

__all__ = [
    'ChunkedBatchNorm',
    'InPlaceReLU6',
    'PrefixSlices',
    'SlimmableBN2d',
    'SlimmableConv2d',
    'SlimmableLinear',
    'interleave',
    'is_channels_last',
]


@MODELS.register_module()
class SlimmableConv2d(nn.Conv2d):
    """A convolution that can run with the first channels of its weights only.

    Attributes:
        cut: The slice of the weights in use; ``None`` is a plain convolution.
        masks, chunked: As those of :class:`SlimmableBN2d`, for a convolution that no normalisation
            layer follows; it carries the masks then.
    """

    cut: Tensor | None = None
    masks: Tensor | None = None
    chunked: bool = False

    def forward(self, x: Tensor) -> Tensor:
        if self.cut is None:
            y = super().forward(x)
            return y if self.masks is None else y * self._mask_of_images(len(y))
        width = len(self.cut)
        bias = None if self.bias is None else self.bias[:width]
        groups = width if self.groups > 1 else 1  # depthwise
        return F.conv2d(x, self.cut, bias, self.stride, self.padding, self.dilation, groups)

    def _mask_of_images(self, batch: int) -> Tensor:
        """The mask of every image's group, ``(batch, channels, 1, 1)``."""
        share = batch // len(self.masks)
        masks = (
            self.masks.repeat_interleave(share, 0) if self.chunked else self.masks.repeat(share, 1)
        )
        return masks[:, :, None, None]


class SlimmableLinear(nn.Linear):
    """A fully connected layer that can run on a prefix of its inputs.

    Dropped inputs of a masked pass are zeros, so that it needs no masks.

    Attributes:
        cut: The slice of the weights in use; ``None`` is a plain layer.
    """

    cut: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight if self.cut is None else self.cut, self.bias)


class PrefixSlices(torch.autograd.Function):
    """The slices ``weight[:o, :i]`` of several subnets; their gradients are added into one tensor.

    Indexing would make a full-size tensor of zeros for every subnet and dimension, and add those.

    Shapes: ``weight`` ``(O, I, ...)``; ``sizes`` holds one ``(o, i)`` for each subnet.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
        ctx.save_for_backward(weight)
        ctx.set_materialize_grads(False)
        return tuple(weight[:outputs, :inputs] for outputs, inputs in sizes)

    @staticmethod
    def backward(ctx, *grads: Tensor | None) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        total = torch.zeros_like(weight)
        for grad in grads:
            if grad is not None:  # of a subnet without a loss
                total[: grad.shape[0], : grad.shape[1]] += grad
        return total, None


@MODELS.register_module()
class SlimmableBN2d(nn.BatchNorm2d):
    """A batch normalisation that treats every subnet's share of the batch alone.

    While subnets are active it normalises in training mode by the statistics of each group's own
    images, and tracks no running statistics: they mean nothing when subnets share a pass.

    Attributes:
        masks: ``(groups, channels)`` of zeros and ones; image ``i`` belongs to group
            ``i % groups``. ``None``: sliced execution, or no subnet is active.
        chunked: Whether the images come group by group instead. channels_last activations do:
            they have no view in which one call could normalise all groups.
        sliced: Whether a subnet is active in sliced execution.
    """

    masks: Tensor | None = None
    chunked: bool = False
    sliced: bool = False

    def forward(self, x: Tensor) -> Tensor:
        if self.masks is not None:
            return self._masked(x)
        if self.sliced:
            return self._sliced(x)
        return super().forward(x)

    def _statistics(self, width: int, repeats: int = 1) -> dict:
        if self.training:
            return dict(running_mean=None, running_var=None, training=True, eps=self.eps)
        return dict(
            running_mean=self.running_mean[:width].repeat(repeats),
            running_var=self.running_var[:width].repeat(repeats),
            training=False,
            eps=self.eps,
        )

    def _sliced(self, x: Tensor) -> Tensor:
        width = x.shape[1]
        return F.batch_norm(
            x, weight=self.weight[:width], bias=self.bias[:width], **self._statistics(width)
        )

    def _masked(self, x: Tensor) -> Tensor:
        groups, channels = self.masks.shape
        # The affine parameters carry the mask, so that dropped channels come out as exact zeros
        # and get no gradient, without another pass over the activation.
        weight = self.weight * self.masks
        bias = self.bias * self.masks
        if self.chunked:
            if self.training:
                return ChunkedBatchNorm.apply(x, weight, bias, self.eps)
            statistics = self._statistics(channels)
            parts = zip(x.chunk(groups), weight, bias, strict=True)
            return torch.cat(
                [F.batch_norm(part, weight=w, bias=b, **statistics) for part, w, b in parts]
            )
        # (B, C, H, W) seen as (B / n, n * C, H, W): one native call normalises every group.
        batch, _, height, width = x.shape
        y = F.batch_norm(
            x.reshape(batch // groups, groups * channels, height, width),
            weight=weight.flatten(),
            bias=bias.flatten(),
            **self._statistics(channels, groups),
        )
        # nobody else holds y: as a view it could not be changed in place behind a checkpoint
        return compat.unsafe_view(y, x.shape)
