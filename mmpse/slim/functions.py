"""What passes of several subnets compute: slices of weights, and normalisation by group."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .cutting import Keep, kept, take
from .layout import Side


class Slices(torch.autograd.Function):
    """What several subnets keep of a weight; their gradients are added into one tensor.

    Indexing would make a full-size tensor of zeros for every subnet and dimension, and add those.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, cuts: Sequence[Mapping[int, Keep]]) -> tuple[Tensor, ...]:
        ctx.cuts = cuts
        ctx.save_for_backward(weight)
        ctx.set_materialize_grads(False)
        return tuple(take(weight, dims) for dims in cuts)

    @staticmethod
    def backward(ctx, *grads: Tensor | None) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        total = torch.zeros_like(weight)
        for grad, dims in zip(grads, ctx.cuts, strict=True):
            if grad is None:  # of a subnet without a loss
                continue
            part = take(total, {d: k for d, k in dims.items() if isinstance(k, int)})
            listed = [(d, k.to(part.device)) for d, k in dims.items() if not isinstance(k, int)]
            for dim, numbers in listed[1:]:
                shape = *grad.shape[:dim], part.shape[dim], *grad.shape[dim + 1 :]
                grad = grad.new_zeros(shape).index_copy(dim, numbers, grad)
            if listed:
                part.index_add_(*listed[0], grad)
            else:
                part += grad
        return total, None


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
            values = torch.ops.aten.native_batch_norm_backward(
                *(grad_g, x_g, weight_g, None, None, mean_g, inverse_std_g, True, ctx.eps),
                [native, True, True],
            )
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


def interleave(parts: Sequence[Tensor]) -> Tensor:
    """Put the groups' tensors back in the batch's order: image ``i`` from group ``i % n``.

    Args:
        parts: n tensors of one shape ``(B / n, ...)``.

    Returns:
        Tensor ``(B, ...)`` in the memory layout of the parts.
    """
    if parts[0].is_contiguous() or parts[0].dim() != 4:
        return torch.stack(parts, dim=1).flatten(0, 1)
    # stacked as (B / n, n, H, W, C), so that channels_last stays channels_last
    return torch.stack([p.permute(0, 2, 3, 1) for p in parts], 1).flatten(0, 1).permute(0, 3, 1, 2)


def widen(y: Tensor, side: Side, widths: Mapping[str, int], dim: int) -> Tensor:
    """A subnet's output at full width, zero in the channels that it lacks; ``dim`` holds them."""
    if not any(s.unit for s in side):
        return y
    keep, full = kept(side, widths), sum(s.positions for s in side)
    if isinstance(keep, int):
        missing = full - keep
        return F.pad(y, [0, 0] * (y.dim() - 1 - dim) + [0, missing]) if missing else y
    shape = list(y.shape)
    shape[dim] = full
    return y.new_zeros(shape).index_copy(dim, keep.to(y.device), y)


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x`` lies in memory as channels_last and not also as NCHW."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
