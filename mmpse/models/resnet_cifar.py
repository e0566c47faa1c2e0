"""Slimmable ResNets for images of 32 pixels."""

from __future__ import annotations

from typing import Any

from mmpretrain.models import ResNet_CIFAR
from mmpretrain.models.backbones.resnet import BasicBlock

from mmpse.registry import MODELS

from .resnet import SlimmableResNet


@MODELS.register_module()
class SlimmableResNet_CIFAR(SlimmableResNet, ResNet_CIFAR):  # noqa: N801 (mmpretrain's name)
    """mmpretrain's ``ResNet_CIFAR``: the ImageNet ResNets with a 3x3 stem and no max pooling.

    Units and arguments are those of :class:`SlimmableResNet`, but for ``deep_stem``.
    """

    def identity(self) -> dict[str, Any]:
        return dict(super().identity(), type='SlimmableResNet_CIFAR')


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

    def __init__(
        self,
        depth: int,
        stem_channels: int = 16,
        base_channels: int = 16,
        num_stages: int = 3,
        strides: tuple[int, ...] = (1, 2, 2),
        dilations: tuple[int, ...] = (1, 1, 1),
        out_indices: tuple[int, ...] = (2,),
        **kwargs,
    ) -> None:
        super().__init__(
            depth,
            stem_channels=stem_channels,
            base_channels=base_channels,
            num_stages=num_stages,
            strides=strides,
            dilations=dilations,
            out_indices=out_indices,
            **kwargs,
        )


@MODELS.register_module()
class SlimmableResNetCIFAR(SlimmableResNet, ResNetCIFAR):
    """:class:`ResNetCIFAR` as a supernet, or as one static subnet of it.

    Units are those of :class:`SlimmableResNet`; the first residual sum is that of the stem.

    Args:
        depth: 20, 32, 44, 56 or 110.
        divisor: Widths are multiples of it. 2 by default: of the nine default ratios, seven are
            distinct widths of a unit of 16 channels then; multiples of 8 would leave two.
        **kwargs: See :class:`SlimmableResNet` and :class:`ResNetCIFAR`.
    """

    def __init__(self, depth: int, divisor: int = 2, **kwargs) -> None:
        super().__init__(depth, divisor=divisor, **kwargs)

    def identity(self) -> dict[str, Any]:
        return dict(super().identity(), type='SlimmableResNetCIFAR')
