"""Slimmable ResNet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmcv.cnn import is_norm
from mmpretrain.models import ResNet
from torch import nn

from .slimmable import Layer, SlimmableBackbone


class ResNetUnits(SlimmableBackbone):
    """The width units of a ResNet, of whichever of the OpenMMLab packages.

    ``stem`` (with ``deep_stem`` also ``stem.0`` and ``stem.1``); ``layer1`` .. ``layer4``, the
    residual sum of each stage (ResNet-18 and 34 have no ``layer1``: their first residual sum is
    that of the stem); ``layerI.J.K``, the channels behind convolution K inside a block.
    """

    def identity(self) -> dict[str, Any]:
        return dict(
            type='SlimmableResNet',
            depth=self.depth,
            stem_channels=self.stem_channels,
            base_channels=self.base_channels,
            num_stages=self.num_stages,
            deep_stem=self.deep_stem,
        )

    def declare_layers(self) -> Iterator[Layer]:
        if self.deep_stem:
            units = [None, 'stem.0', 'stem.1', 'stem']
            named = list(self.stem.named_modules(prefix='stem'))
            convs = [name for name, module in named if isinstance(module, nn.Conv2d)]
            norms = [name for name, module in named if is_norm(module)]
            yield from map(Layer, convs, norms, units, units[1:])
        else:
            yield Layer('conv1', self.norm1_name, None, 'stem')
        x = 'stem'
        for stage in self.res_layers:
            for j, block in enumerate(getattr(self, stage)):
                name = f'{stage}.{j}'
                x_out = x if block.downsample is None else stage
                if block.downsample is not None:
                    *_, conv, norm = range(len(block.downsample))
                    yield Layer(f'{name}.downsample.{conv}', f'{name}.downsample.{norm}', x, stage)
                last = 3 if hasattr(block, 'conv3') else 2
                inputs = x
                for k in range(1, last + 1):
                    outputs = x_out if k == last else f'{name}.{k}'
                    norm = f'{name}.{getattr(block, f"norm{k}_name")}'
                    yield Layer(f'{name}.conv{k}', norm, inputs, outputs)
                    inputs = outputs
                x = x_out

    def feature_units(self) -> list[str]:
        return self.last_units([self.res_layers[index] for index in self.out_indices])

    def parts(self) -> dict[str, tuple[str, ...]]:
        stem = ('stem',) if self.deep_stem else ('conv1', self.norm1_name, 'relu')
        pool = ('maxpool',) if hasattr(self, 'maxpool') else ()  # not for images of 32 pixels
        return {'stem': (*stem, *pool), **{name: (name,) for name in self.res_layers}}


class SlimmableResNet(ResNetUnits, ResNet):
    """ResNet (mmpretrain's) as a supernet, or as one static subnet of it.

    Width units: see :class:`ResNetUnits`.

    Args:
        depth: 18, 34, 50, 101 or 152.
        subnet, ratios, divisor, grids, norm_cfg: See :class:`SlimmableBackbone`.
        **kwargs: See :class:`mmpretrain.models.ResNet`: ``style``, ``deep_stem`` and ``avg_down``
            (V1c, V1d), ``out_indices``, ``frozen_stages``, ``norm_eval``, ``with_cp``, ...
    """

    def __init__(self, depth: int, **kwargs) -> None:
        super().__init__(depth=depth, **kwargs)

    def _shrink(self) -> None:
        super()._shrink()
        for stage in self.res_layers:
            for block in getattr(self, stage):
                convs = [conv for name, conv in block.named_children() if name.startswith('conv')]
                block.in_channels, block.mid_channels = convs[0].in_channels, convs[0].out_channels
                block.out_channels = convs[-1].out_channels
        self.feat_dim = block.out_channels
