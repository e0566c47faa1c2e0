"""Slimmable VGG."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmcv.cnn import ConvModule
from mmpretrain.models import VGG

from mmpse.registry import MODELS

from .slimmable import Layer, SlimmableBackbone


@MODELS.register_module()
class SlimmableVGG(SlimmableBackbone, VGG):
    """The convolutions of VGG (mmpretrain's) as a supernet, or as one static subnet of it.

    Width units: ``conv1`` .. one for every convolution. With ``norm_cfg=None`` there is no
    normalisation; the convolutions carry the masks then.

    Args:
        depth: 11, 13, 16 or 19.
        subnet, ratios, divisor, grids, norm_cfg: See :class:`SlimmableBackbone`.
        **kwargs: See :class:`mmpretrain.models.VGG`, but for ``num_classes``: a classifier goes
            into the head.

    Raises:
        ValueError: If ``num_classes`` asks for VGG's own classifier.
    """

    def __init__(self, depth: int, num_classes: int = -1, **kwargs) -> None:
        if num_classes > 0:
            raise ValueError(
                f'SlimmableVGG holds the convolutions only, got num_classes={num_classes}; leave '
                'it out and set neck=GlobalAveragePooling and head=LinearClsHead'
            )
        super().__init__(depth=depth, **kwargs)

    def identity(self) -> dict[str, Any]:
        return dict(type='SlimmableVGG', stage_blocks=list(self.stage_blocks))

    def declare_layers(self) -> Iterator[Layer]:
        inputs, number = None, 0
        for k, module in enumerate(self.features):
            if isinstance(module, ConvModule):
                number += 1
                norm = f'features.{k}.bn' if module.with_norm else None
                yield Layer(f'features.{k}.conv', norm, inputs, f'conv{number}')
                inputs = f'conv{number}'

    def feature_units(self) -> list[str]:
        ends = [sum(self.stage_blocks[: stage + 1]) for stage in range(len(self.stage_blocks))]
        return [f'conv{ends[index]}' for index in self.out_indices]
