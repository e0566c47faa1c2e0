"""Slimmable MobileNetV2."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmcv.cnn import ConvModule
from mmpretrain.models import MobileNetV2
from torch import nn

from mmpse.openmmlab.types import is_type

from .slimmable import Layer, SlimmableBackbone


class MobileNetV2Units(SlimmableBackbone):
    """The width units of a MobileNetV2, of whichever of the OpenMMLab packages.

    ``stem``; ``layer1`` .. ``layer7``, the residual sum of each stage; ``layerI.J``, the hidden
    channels of a block (its expansion and its depthwise convolution); ``conv2``, the last
    convolution (mmseg's has none). 25 units.
    """

    def __init__(
        self,
        subnet: str | os.PathLike | Mapping | None = None,
        act_cfg: Mapping[str, Any] = dict(type='ReLU6'),
        **kwargs,
    ) -> None:
        if subnet is None and is_type(act_cfg, nn.ReLU6):
            act_cfg = {**act_cfg, 'type': 'mmpse.InPlaceReLU6'}
        super().__init__(subnet=subnet, act_cfg=act_cfg, **kwargs)

    def identity(self) -> dict[str, Any]:
        return dict(type='SlimmableMobileNetV2', widen_factor=float(self.widen_factor))

    def declare_layers(self) -> Iterator[Layer]:
        def conv_module(name, inputs, outputs):
            return Layer(f'{name}.conv', f'{name}.bn', inputs, outputs)

        x = 'stem'
        yield conv_module('conv1', None, x)
        for stage in self.layers:
            if stage == 'conv2':
                yield conv_module('conv2', x, 'conv2')
                continue
            for j, block in enumerate(getattr(self, stage)):
                convs = [m for m in block.modules() if isinstance(m, ConvModule)]
                names = {m: name for name, m in block.named_modules(prefix=f'{stage}.{j}')}
                *expand, depthwise, project = convs
                hidden = x
                if expand:
                    hidden = f'{stage}.{j}'
                    yield conv_module(names[expand[0]], x, hidden)
                yield conv_module(names[depthwise], hidden, hidden)
                residual = (
                    depthwise.stride == (1, 1) and convs[0].in_channels == project.out_channels
                )
                x_out = x if residual else stage
                yield conv_module(names[project], hidden, x_out)
                x = x_out

    def feature_units(self) -> list[str]:
        return self.last_units([self.layers[index] for index in self.out_indices])

    def parts(self) -> dict[str, tuple[str, ...]]:
        return {name: (name,) for name in ('conv1', *self.layers)}


class SlimmableMobileNetV2(MobileNetV2Units, MobileNetV2):
    """MobileNetV2 (mmpretrain's) as a supernet, or as one static subnet of it.

    Width units: see :class:`MobileNetV2Units`.

    Args:
        subnet, ratios, divisor, grids, norm_cfg: See :class:`SlimmableBackbone`.
        **kwargs: See :class:`mmpretrain.models.MobileNetV2`: ``widen_factor``, ``out_indices``,
            ``frozen_stages``, ``norm_eval``, ``with_cp``, ``act_cfg``, ``init_cfg``.
    """

    def _shrink(self) -> None:
        super()._shrink()
        self.out_channel = self.subnet['conv2']
