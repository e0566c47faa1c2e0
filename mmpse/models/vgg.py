"""Slimmable VGG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmcv.cnn import ConvModule
from mmpretrain.models import VGG
from torch import Tensor, nn

from .layers import SlimmableLinear
from .slimmable import Layer, SlimmableBackbone


class VGGUnits(SlimmableBackbone):
    """The width units of a VGG, of whichever of the OpenMMLab packages.

    ``conv1`` .. one for every convolution. With ``norm_cfg=None``, the default as in
    mmpretrain, there is no normalisation; the convolutions carry the masks then. With
    ``num_classes`` VGG's own classifier follows; its hidden layers keep their 4096 channels. The
    units are the same with and without it, so that a subnet searched with it can be the backbone of
    a detector.
    """

    def __init__(self, norm_cfg: Mapping[str, Any] | None = None, **kwargs) -> None:
        super().__init__(norm_cfg=norm_cfg, **kwargs)

    def identity(self) -> dict[str, Any]:
        return dict(type='SlimmableVGG', stage_blocks=list(self.stage_blocks))

    def declare_layers(self) -> Iterator[Layer]:
        inputs, number = None, 0
        for k, module in enumerate(self.features):
            if not isinstance(module, (ConvModule, nn.Conv2d)):
                continue
            number += 1
            conv, norm = f'features.{k}', None
            if isinstance(module, ConvModule):
                conv, norm = f'{conv}.conv', f'{conv}.bn' if module.with_norm else None
            yield Layer(conv, norm, inputs, f'conv{number}')
            inputs = f'conv{number}'
        if self.num_classes > 0:
            for k, module in enumerate(self.classifier):
                if isinstance(module, nn.Linear):
                    yield Layer(f'classifier.{k}', None, inputs, None)
                    inputs = None

    def feature_units(self) -> list[str | int]:
        ends = [sum(self.stage_blocks[: stage + 1]) for stage in range(len(self.stage_blocks))]
        stages = [index for index in self.out_indices if index < len(ends)]
        scores = [self.num_classes] if self.num_classes > 0 else []
        return [f'conv{ends[index]}' for index in stages] + scores

    def parts(self) -> dict[str, tuple[str, ...]]:
        parts = {
            f'block{k + 1}': tuple(f'features.{m}' for m in range(*modules))
            for k, modules in enumerate(self.range_sub_modules)
        }
        return parts if self.num_classes <= 0 else {**parts, 'classifier': ('classifier',)}

    def run_part(self, part: str, x: Tensor) -> Tensor:
        return super().run_part(part, x.flatten(1) if part == 'classifier' else x)


class SlimmableVGG(VGGUnits, VGG):
    """VGG (mmpretrain's) as a supernet, or as one static subnet of it.

    Width units: see :class:`VGGUnits`.

    Args:
        depth: 11, 13, 16 or 19.
        subnet, ratios, divisor, grids, norm_cfg: See :class:`SlimmableBackbone`.
        **kwargs: See :class:`mmpretrain.models.VGG`.
    """

    def __init__(self, depth: int, norm_cfg: Mapping[str, Any] | None = None, **kwargs) -> None:
        super().__init__(depth=depth, norm_cfg=norm_cfg, **kwargs)
        if self.num_classes > 0 and self.subnet is None:  # VGG has no setting for its type
            self.classifier[0].__class__ = SlimmableLinear
