"""Slimmable ResNets for images of 32 pixels."""

from __future__ import annotations

from typing import Any

from mmpretrain.models import ResNet_CIFAR

from mmpse.openmmlab.models.backbones import ResNetCIFAR

from .resnet import SlimmableResNet


class SlimmableResNet_CIFAR(SlimmableResNet, ResNet_CIFAR):  # noqa: N801 (mmpretrain's name)
    """mmpretrain's ``ResNet_CIFAR``: the ImageNet ResNets with a 3x3 stem and no max pooling.

    Units and arguments are those of :class:`SlimmableResNet`, but for ``deep_stem``.
    """

    def identity(self) -> dict[str, Any]:
        return dict(super().identity(), type='SlimmableResNet_CIFAR')


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
