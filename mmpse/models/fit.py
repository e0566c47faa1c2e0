"""Models whose necks and heads follow the backbone's real widths."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import DefaultScope
from torch import nn
from torch.overrides import TorchFunctionMode

from mmpse.registry import MODELS
from mmpse.space import Subnet

from .slicing import slice_on_load
from .slimmable import SlimmableBackbone


@MODELS.register_module()
def FitToBackbone(architecture: str, **model) -> nn.Module:  # noqa: N802 (a name in configs)
    """Build a model whose neck and heads are fitted to its slimmable backbone.

    The channel numbers that the config gives for modules which consume the backbone's features are
    replaced by the real ones, so that a config never has to count channels::

        model = dict(
            type='mmpse.FitToBackbone',
            architecture='RetinaNet',
            backbone=dict(_delete_=True, type='mmpse.SlimmableMobileNetV2', subnet='subnet.json'))

    The result is the architecture itself, not a wrapper. With a static subnet it also loads
    checkpoints of the supernet, cut to its widths on load.

    Args:
        architecture: Registered type of the model, e.g. ``'RetinaNet'``.
        **model: The model's config.

    Raises:
        ValueError: If the backbone is not slimmable, or if the neck or a head cannot be fitted.
    """
    config = dict(model, type=architecture)
    fitted = MODELS.build(fit_channels(config))
    if fitted.backbone.subnet is not None:
        full = _on_meta(fit_channels(dict(config, backbone=_full(config['backbone']))))
        shapes = {name: tensor.shape for name, tensor in full.state_dict().items()}
        slice_on_load(
            fitted,
            {
                name: shapes[name]
                for name, tensor in fitted.state_dict().items()
                if not name.startswith('backbone.') and tensor.shape != shapes[name]
            },
        )
    return fitted


def _full(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the supernet that a static subnet's config belongs to."""
    backbone = dict(backbone, init_cfg=None)
    subnet = backbone.pop('subnet', None)
    if subnet is not None:
        backbone.update(Subnet.load(subnet).grid)
        if backbone.get('norm_cfg') is not None:  # which normalisation does not matter for shapes
            backbone['norm_cfg'] = dict(type='BN')
    return backbone


class WeightsOnMeta(TorchFunctionMode):
    """A context in which modules are built with weights that have a shape but no storage.

    ``torch.device('meta')`` would also take the values from small tensors that constructors compute
    with, such as the drop path rates of mmpretrain's ResNet.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs['device'] = kwargs.get('device') or 'meta'
        return func(*args, **kwargs)


_meta_models: dict[tuple[str, str], nn.Module] = {}


def _on_meta(config: Mapping[str, Any]) -> nn.Module:
    """A model without storage, to look up names and shapes; built once per config."""
    scope = DefaultScope.get_current_instance()
    key = (repr(config), '' if scope is None else scope.scope_name)
    if key not in _meta_models:
        with WeightsOnMeta():
            _meta_models[key] = MODELS.build(config)
    return _meta_models[key]


def with_subnet(model: Mapping[str, Any], subnet: Subnet | None) -> dict[str, Any]:
    """The config of ``model`` with its backbone as the static ``subnet``.

    Weights are expected from elsewhere: ``init_cfg`` of the backbone and of the model are dropped.

    Args:
        model: Config of a model with a slimmable backbone, a supernet or not.
        subnet: The subnet; ``None`` makes it a supernet.
    """
    config = copy.deepcopy(dict(model))
    config.pop('init_cfg', None)
    if config['type'] != 'mmpse.FitToBackbone':
        config.update(type='mmpse.FitToBackbone', architecture=config['type'])
    backbone = config['backbone']
    backbone.update(subnet=None if subnet is None else subnet.to_dict(), init_cfg=None)
    return config


def fit_channels(model: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the channel numbers of everything that consumes the backbone's features.

    Args:
        model: Config of a model; its ``backbone`` must be of a slimmable type.

    Returns:
        A new config.
    """
    model = copy.deepcopy(dict(model))
    backbone = _on_meta(_full(model['backbone']))
    if not isinstance(backbone, SlimmableBackbone):
        raise ValueError(
            f'FitToBackbone needs a slimmable backbone, got {type(backbone).__name__}; set '
            "model.backbone.type to 'mmpse.SlimmableMobileNetV2'"
        )
    widths = backbone.search_space.fullnet
    if model['backbone'].get('subnet') is not None:
        widths = backbone.search_space.validate(Subnet.load(model['backbone']['subnet']))
    channels = backbone.feature_channels(widths)

    neck = model.get('neck')
    first_neck = neck[0] if isinstance(neck, (list, tuple)) else neck
    if first_neck is not None and 'in_channels' in first_neck:
        first_neck['in_channels'] = _like(first_neck['in_channels'], channels, 'neck')
        return model  # what follows consumes the neck's features
    for name in ('head', 'decode_head', 'auxiliary_head', 'bbox_head', 'rpn_head'):
        heads = model.get(name)
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            if head is not None and 'in_channels' in head:
                _fit_head(head, channels, name)
    return model


def _fit_head(head: dict[str, Any], channels: Sequence[int], name: str) -> None:
    index = head.get('in_index', -1)
    several = isinstance(index, (list, tuple))
    if several and head.get('input_transform') == 'resize_concat':
        raise ValueError(
            f'{name} ({head.get("type")}) concatenates features (input_transform="resize_concat"), '
            'so that its weights are not a prefix of the full ones; it cannot be fitted'
        )
    try:
        head['in_channels'] = [channels[i] for i in index] if several else channels[index]
    except IndexError:
        raise ValueError(
            f'{name}.in_index is {index}, but the backbone gives {len(channels)} features; set '
            'backbone.out_indices so that it gives them all'
        ) from None
    if 'c1_in_channels' in head:  # DeepLabV3+: the finest feature enters the decoder as well
        head['c1_in_channels'] = channels[0]


def _like(given: int | Sequence[int], channels: Sequence[int], name: str) -> int | list[int]:
    if isinstance(given, int):
        return channels[-1]
    if len(given) != len(channels):
        raise ValueError(
            f'{name}.in_channels lists {len(given)} features, but the backbone gives '
            f'{len(channels)}; make backbone.out_indices and {name}.in_channels equally long (the '
            'numbers themselves do not matter)'
        )
    return list(channels)
