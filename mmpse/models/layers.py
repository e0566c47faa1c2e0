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
from mmpse.registry import MODELS


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


class ChunkedBatchNorm(torch.autograd.Function):
    """Batch normalisation of every chunk of a batch by its own statistics and parameters.

    It writes the chunks into one tensor, where ``torch.cat`` of ``F.batch_norm`` would pass over
    the activation once more.

    Shapes: ``x`` ``(B, C, H, W)``, channels_last; ``weight`` and ``bias`` ``(chunks, C)``.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        y = torch.empty_like(x)
        mean, inverse_std = torch.empty_like(weight), torch.empty_like(weight)
        parts = x.chunk(len(weight)), weight, bias, y.chunk(len(weight)), mean, inverse_std
        for x_g, weight_g, bias_g, *out in zip(*parts, strict=True):
            torch.native_batch_norm(x_g, weight_g, bias_g, None, None, True, 0.0, eps, out=out)
        ctx.save_for_backward(x, weight, mean, inverse_std)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, inverse_std = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x, grad_weight, grad_bias = map(torch.empty_like, (x, weight, weight))
        groups = len(weight)
        # the native operator writes nowhere but into tensors of its own, which have to be copied
        # together; in mixed precision that is still cheaper than the sum below, and a subnet alone
        # trains bit for bit as the stock layer
        native = groups == 1 or x.dtype != weight.dtype
        parts = grad.chunk(groups), x.chunk(groups), weight, mean, inverse_std
        targets = grad_x.chunk(groups), grad_weight, grad_bias
        for grad_g, x_g, weight_g, mean_g, inverse_std_g, *of_chunk in zip(
            *parts, *targets, strict=True
        ):
            of_chunk_g = (grad_g, x_g, weight_g, mean_g, inverse_std_g)
            values = compat.batch_norm_backward(*of_chunk_g, ctx.eps, [native, True, True])
            for target, value in zip(of_chunk, values, strict=True):
                if value is not None:
                    target.copy_(value)
        if not native:  # scale * grad + slope * x + offset, for every chunk and channel
            pixels = x.numel() // weight.numel()
            scale = weight * inverse_std
            slope = -scale * inverse_std * grad_weight / pixels
            offset = -scale * grad_bias / pixels - slope * mean

            def by_chunk(tensor: Tensor) -> Tensor:
                return tensor.permute(0, 2, 3, 1).view(groups, pixels, -1)

            torch.addcmul(offset[:, None], by_chunk(x), slope[:, None], out=by_chunk(grad_x))
            by_chunk(grad_x).addcmul_(by_chunk(grad), scale[:, None])
        return grad_x, grad_weight, grad_bias, None


@MODELS.register_module()
class InPlaceReLU6(nn.ReLU6):
    """The stock layer, which in place trains without a copy of its input.

    PyTorch's keeps one for the backward, where the output says as much: one of the three
    activations that a MobileNetV2 would hold for every such layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        trains = torch.is_grad_enabled() and x.requires_grad
        if not (self.inplace and trains) or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return super().forward(x)
        return ClampInPlace.apply(x, self.min_val, self.max_val)


class ClampInPlace(torch.autograd.Function):
    """``x`` itself, limited to a range; its gradient is zero where it is at a limit."""

    @staticmethod
    def forward(ctx, x: Tensor, lowest: float, highest: float) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x.clamp_(lowest, highest))
        ctx.limits = lowest, highest
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        return compat.clamp_backward(grad, y, *ctx.limits), None, None


def interleave(parts: Sequence[Tensor]) -> Tensor:
    """Put the groups' tensors back in the batch's order: image ``i`` from group ``i % n``.

    Args:
        parts: n tensors of one shape ``(B / n, ...)``.

    Returns:
        Tensor ``(B, ...)`` in the memory layout of the parts.
    """
    if parts[0].is_contiguous():
        return torch.stack(parts, dim=1).flatten(0, 1)
    # stacked as (B / n, n, H, W, C), so that channels_last stays channels_last
    return torch.stack([p.permute(0, 2, 3, 1) for p in parts], 1).flatten(0, 1).permute(0, 3, 1, 2)


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x`` lies in memory as channels_last and not also as NCHW."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
