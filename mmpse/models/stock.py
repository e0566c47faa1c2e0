"""The backbones of mmdet and mmseg as slimmable ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from torch import nn

from mmpse.openmmlab.types import find_type
from mmpse.registry import MODELS
from mmpse.space import SearchSpace, Subnet, SubnetError

from .mobilenet_v2 import MobileNetV2Units, SlimmableMobileNetV2
from .resnet import ResNetUnits, SlimmableResNet
from .slicing import shrink_conv_, slice_on_load
from .slimmable import Layer, SlimmableBackbone
from .vgg import SlimmableVGG, VGGUnits

PACKAGES = ('mmdet', 'mmpretrain', 'mmseg')


# plugins of a block -> their layers that read its channels, and those whose output it adds to them
PLUGINS = dict(
    ContextBlock=(
        ('conv_mask', 'channel_add_conv.0', 'channel_mul_conv.0'),
        ('channel_add_conv.3', 'channel_mul_conv.3'),
    ),
    GeneralizedAttention=(('query_conv', 'key_conv', 'value_conv'), ('proj_conv',)),
)


class UnsupportedBackboneError(ValueError):
    """A backbone that mmpse cannot make slimmable."""


@MODELS.register_module()
def Slimmable(architecture: str, **kwargs) -> SlimmableBackbone:  # noqa: N802 (a name in configs)
    """A backbone of mmdet, mmseg or mmpretrain as a supernet, or as a static subnet.

    It is the stock class, with its arguments and state_dict keys; whatever it has of its own
    (dilations, deformable convolutions, ...) stays::

        backbone=dict(type='mmpse.Slimmable', architecture='mmseg.ResNetV1c', subnet='subnet.json',
                      depth=50, dilations=(1, 1, 2, 4), contract_dilation=True, ...)

    Subnets are those of mmpretrain's backbone of the same family: a backbone without its last
    stages takes the widths that it has layers for, and keeps layers of its own (SSD's) at full
    width. Checkpoints of mmpretrain's backbone load too.

    Args:
        architecture: Registered type: ResNet, ResNetV1c, ResNetV1d, MobileNetV2, VGG or SSDVGG.
        **kwargs: Arguments of that type and of :class:`SlimmableBackbone`.

    Raises:
        UnsupportedBackboneError: If the type is another, or its layers are not plain ones.
        SubnetError: If the subnet does not belong to this backbone.
    """
    stock = find_type(architecture)
    if stock is None:
        raise UnsupportedBackboneError(
            f"there is no backbone type {architecture!r}; give one of mmdet's, mmseg's or "
            "mmpretrain's"
        )
    return _slimmable_class(stock)(**kwargs)


class _OfStock:
    """A stock backbone seen as (the beginning of) mmpretrain's.

    Attributes:
        absent_layers (tuple[Layer]): Those that mmpretrain's has and this one lacks.
    """

    def __init__(self, subnet=None, **kwargs) -> None:
        plugins = {plugin['cfg']['type'] for plugin in kwargs.get('plugins') or ()}
        if plugins - PLUGINS.keys():
            raise UnsupportedBackboneError(
                f'backbone.plugins adds {", ".join(sorted(plugins))} between the convolutions; of '
                f'plugins only {", ".join(PLUGINS)} can be pruned'
            )
        if subnet is None and (plugins or kwargs.get('dcn')):
            raise UnsupportedBackboneError(
                'a backbone with deformable convolutions (dcn) or plugins cannot be a supernet; '
                'search one without, and give this one the subnet'
            )
        super().__init__(subnet=subnet, **kwargs)
        layers = self._whole(self.identity())[1]
        self.absent_layers = layers[len(self.layers_of_units) :]
        self.register_load_state_dict_pre_hook(partial(_rename, layers=layers))

    def _shrink(self) -> None:
        plugins = {}  # name -> the convolution that it follows
        for name, block in self.named_modules():
            for k in (1, 2, 3):
                for plugin in getattr(block, f'after_conv{k}_plugin_names', ()):
                    plugins[f'{name}.{plugin}'] = f'{name}.conv{k}'
        for plugin in plugins:
            state = self.get_submodule(plugin).state_dict()
            slice_on_load(self, {f'{plugin}.{key}': value.shape for key, value in state.items()})
        super()._shrink()
        for plugin, conv in plugins.items():
            width, module = self.get_submodule(conv).out_channels, self.get_submodule(plugin)
            reading, writing = PLUGINS[type(module).__name__]
            for name, layer in module.named_modules():
                if name in reading:
                    shrink_conv_(layer, width, layer.out_channels)
                elif name in writing:
                    shrink_conv_(layer, layer.in_channels, width)

    def _whole(self, identity: dict[str, Any], grid: Mapping[str, Any] | None = None):
        arguments = {k: v for k, v in identity.items() if k != 'type'}
        if hasattr(self, 'avg_down'):  # no part of a subnet's identity, but of layers' names
            arguments['avg_down'] = self.avg_down
        return _whole(identity['type'], json.dumps(arguments), json.dumps(grid))

    def adopt(self, subnet: Subnet) -> Subnet:
        if subnet.keys() == self.search_space.fullnet.keys():  # found in this very backbone
            return super().adopt(subnet)
        identity = self.identity()
        stages = subnet.backbone.get('num_stages')
        if stages is not None and stages > identity.get('num_stages', stages):
            identity['num_stages'] = stages
        space, layers = self._whole(identity, subnet.grid)
        space.validate(subnet)
        widths = dict(self.search_space.fullnet)
        of_unit: dict[str, str] = {}
        for own, other in zip(self.layers_of_units, layers):
            if own.outputs is None:
                continue
            if of_unit.setdefault(own.outputs, other.outputs) != other.outputs:
                raise SubnetError(
                    f'the subnet gives {own.conv} {subnet[other.outputs]} channels and what is '
                    f'added to it {subnet[of_unit[own.outputs]]}: this backbone has a residual '
                    "connection where the subnet's has a stride"
                )
            widths[own.outputs] = subnet[other.outputs]
        return self.search_space.subnet(
            list(widths.values()), resources=subnet.resources, source=subnet.source
        )


@cache
def _whole(kind: str, arguments: str, grid: str) -> tuple[SearchSpace, tuple[Layer, ...]]:
    """Search space and layers of mmpretrain's backbone."""
    arguments = json.loads(arguments)
    if kind == 'SlimmableVGG':
        arguments = dict(depth=sum(arguments['stage_blocks']) + 3)
    if kind == 'SlimmableResNet':
        stages = arguments['num_stages']
        arguments.update(
            strides=(1, 2, 2, 2)[:stages], dilations=(1,) * stages, out_indices=(stages - 1,)
        )
    types = (SlimmableMobileNetV2, SlimmableResNet, SlimmableVGG)
    backbone = {t.__name__: t for t in types}[kind](**arguments, **(json.loads(grid) or {}))
    return backbone.search_space, backbone.layers_of_units


def _rename(backbone, state: dict, prefix: str, *_, layers: tuple[Layer, ...]) -> None:
    """Give the tensors of mmpretrain's layers their names here, if the state has those."""
    own = backbone.layers_of_units
    if all(f'{prefix}{layer.conv}.weight' in state for layer in own):
        return
    names = {}
    for theirs, ours in zip(layers, own):
        names[theirs.conv], names[theirs.norm] = ours.conv, ours.norm
    renamed = {}
    for key in [key for key in state if key.startswith(prefix)]:
        layer, _, tensor = key[len(prefix) :].rpartition('.')
        if names.get(layer) is not None:
            renamed[f'{prefix}{names[layer]}.{tensor}'] = state.pop(key)
    state.update(renamed)


class _SSDVGGUnits(VGGUnits):
    """The last two convolutions are SSD's own."""

    def __init__(self, subnet=None, **kwargs) -> None:
        if subnet is None:
            raise UnsupportedBackboneError(
                'SSDVGG cannot be a supernet: it builds its convolutions by itself; search '
                'mmpse.SlimmableVGG, and give SSDVGG the subnet'
            )
        super().__init__(subnet=subnet, norm_cfg=None, **kwargs)

    def feature_units(self) -> list[str]:
        convs = [int(layer.conv.split('.')[1]) for layer in self.layers_of_units]
        return [f'conv{sum(k <= i for k in convs)}' for i in self.out_feature_indices]


class _WithoutLayerConfigs:
    """Keeps arguments from a stock class that does not know them."""

    def __init__(self, conv_cfg=None, norm_cfg=None, **kwargs) -> None:
        super().__init__(**kwargs)


FAMILIES: dict[str, tuple[type, ...]] = dict(
    ResNet=(ResNetUnits,),
    ResNetV1c=(ResNetUnits,),
    ResNetV1d=(ResNetUnits,),
    MobileNetV2=(MobileNetV2Units,),
    VGG=(VGGUnits,),
    SSDVGG=(_SSDVGGUnits, _WithoutLayerConfigs),
)


@cache
def _slimmable_class(stock: type[nn.Module]) -> type[SlimmableBackbone]:
    bases = FAMILIES.get(stock.__name__)
    if bases is None or stock.__module__.split('.')[0] not in PACKAGES:
        raise UnsupportedBackboneError(
            f'{stock.__module__}.{stock.__name__} cannot be pruned by mmpse; backbones that can: '
            f'{", ".join(FAMILIES)} of {", ".join(PACKAGES)}'
        )
    return type(f'Slimmable{stock.__name__}', (_OfStock, *bases, stock), {})
