"""Backbones that mmpretrain lacks, and the names that configs of slimmable backbones have."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmpretrain.models import VGG, MobileNetV2, ResNet, ResNet_CIFAR
from mmpretrain.models.backbones.resnet import BasicBlock
from torch import Tensor, nn

from mmpse.openmmlab import compat
from mmpse.registry import MODELS


@MODELS.register_module()
class ResNetCIFAR(ResNet_CIFAR):
    """The ResNets of section 4.2 of `Deep Residual Learning <https://arxiv.org/abs/1512.03385>`_.

    A 3x3 stem and three stages of 16, 32 and 64 channels, built of mmpretrain's blocks. Where a
    stage changes the width, the shortcut is a 1x1 convolution: option B of the paper. Option A,
    which the paper used here, pads with zeros. B has 1.0 % more parameters at depth 20, and 0.3 %
    more at depth 56.

    Args:
        depth: 20, 32, 44, 56 or 110: 6n + 2.
        **kwargs: See :class:`mmpretrain.models.ResNet_CIFAR`.
    """

    arch_settings = {6 * n + 2: (BasicBlock, (n, n, n)) for n in (3, 5, 7, 9, 18)}

    def __init__(self, depth: int, **kwargs) -> None:
        stages = dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,))
        super().__init__(depth, **dict(stages, stem_channels=16, base_channels=16) | kwargs)


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
        return _ClampInPlace.apply(x, self.min_val, self.max_val)


class _ClampInPlace(torch.autograd.Function):
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


class WithGrid:
    """A stock backbone whose config says which widths the supernet of its model has.

    Args:
        *args, **kwargs: Of the stock backbone.
        ratios, divisor, grids: What :class:`mmpse.SupernetHook` takes where it is given nothing.

    Attributes:
        grid (dict): Those of the three that are given, or that the class has.
    """

    default_grid: Mapping[str, Any] = {}

    def __init__(
        self,
        *args,
        ratios: Sequence[float] | None = None,
        divisor: int | None = None,
        grids: Mapping[str, Mapping[str, Any]] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        given = dict(ratios=ratios, divisor=divisor, grids=grids)
        given = {key: value for key, value in given.items() if value is not None}
        self.grid = {**self.default_grid, **given}


def grid_of(model: nn.Module) -> dict[str, Any]:
    """The widths that a model's backbone asks for."""
    return next((dict(m.grid) for m in model.modules() if isinstance(m, WithGrid)), {})


@MODELS.register_module()
class SlimmableMobileNetV2(WithGrid, MobileNetV2):
    """mmpretrain's MobileNetV2 with the widths of its supernet."""


@MODELS.register_module()
class SlimmableResNet(WithGrid, ResNet):
    """mmpretrain's ResNet with the widths of its supernet."""


@MODELS.register_module()
class SlimmableResNet_CIFAR(WithGrid, ResNet_CIFAR):  # noqa: N801  as mmpretrain names it
    """mmpretrain's ResNet for CIFAR's images with the widths of its supernet."""


@MODELS.register_module()
class SlimmableResNetCIFAR(WithGrid, ResNetCIFAR):
    """The ResNet of CIFAR with the widths of its supernet."""

    # of the nine default ratios of 16 channels, multiples of 2 leave seven, multiples of 8 two
    default_grid = dict(divisor=2)


@MODELS.register_module()
class SlimmableVGG(WithGrid, VGG):
    """mmpretrain's VGG with the widths of its supernet."""
