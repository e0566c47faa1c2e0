"""Models whose necks and heads follow the backbone's real widths."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmcv.cnn import ConvModule
from mmengine.config import ConfigDict
from torch import nn

from mmpse.openmmlab.types import is_type
from mmpse.registry import MODELS
from mmpse.space import Subnet

from .consumers import find_consumers, is_per_channel
from .slicing import replace_, slice_on_load
from .slimmable import SlimmableBackbone


@MODELS.register_module()
def FitToBackbone(architecture: str, **model) -> nn.Module:  # noqa: N802 (a name in configs)
    """Build a model whose neck and heads are fitted to its slimmable backbone.

    Every layer that reads the backbone's features gets the input channels that these really have,
    whatever the config says and wherever in the model it is, so that a config never has to count
    channels::

        model = dict(
            type='mmpse.FitToBackbone',
            architecture='RetinaNet',
            backbone=dict(_delete_=True, type='mmpse.SlimmableMobileNetV2', subnet='subnet.json'))

    The result is the architecture itself, not a wrapper. With a static subnet it also loads
    checkpoints of the full-width model, cut to its widths on load.

    Args:
        architecture: Registered type of the model, e.g. ``'RetinaNet'``.
        **model: The model's config.

    Raises:
        ValueError: If the backbone is not slimmable.
        FitError: If a module reads the features in a way that cannot be fitted; it is named.
    """
    fitted = MODELS.build(copy.deepcopy(dict(model, type=architecture)))  # builders edit it
    backbone = getattr(fitted, 'backbone', None)
    if not isinstance(backbone, SlimmableBackbone):
        raise ValueError(
            f'FitToBackbone needs a slimmable backbone, got {type(backbone).__name__}; set '
            "model.backbone.type to 'mmpse.SlimmableMobileNetV2'"
        )
    full = backbone.feature_channels(backbone.search_space.fullnet)
    shapes, kept = {}, {}
    for name, consumer in find_consumers(fitted, backbone, full).items():
        layer, inputs = consumer.layer, len(consumer.feature)
        dim = 0 if is_per_channel(layer) else 1
        keys = (
            [key for key, value in layer.state_dict().items() if value.dim()]
            if dim == 0
            else ['weight']
        )
        _resize(layer, keys, dim, inputs)
        indices = consumer.kept(backbone.out_channels)
        if len(indices) < inputs:
            for key in keys:
                tensor = getattr(layer, key).detach()
                shapes[f'{name}.{key}'], kept[f'{name}.{key}'] = tensor.shape, (dim, indices)
                replace_(layer, key, tensor.index_select(dim, indices.to(tensor.device)))
            _note_inputs(layer, len(indices))
        parent = fitted.get_submodule(name.rpartition('.')[0])
        if isinstance(parent, ConvModule):  # it repeats the convolution's numbers
            for key in ('in_channels', 'out_channels', 'groups'):
                setattr(parent, key, getattr(parent.conv, key))
    slice_on_load(fitted, shapes, kept)
    return fitted


def _resize(layer: nn.Module, keys: list[str], dim: int, inputs: int) -> None:
    """Give a layer that counts on other features this many inputs, with new weights."""
    if all(getattr(layer, key).shape[dim] == inputs for key in keys):
        return
    for key in keys:
        tensor = getattr(layer, key).detach()
        shape = (*tensor.shape[:dim], inputs, *tensor.shape[dim + 1 :])
        replace_(layer, key, tensor.new_ones(shape))
    _note_inputs(layer, inputs)
    if hasattr(layer, 'reset_parameters'):
        layer.reset_parameters()


def _note_inputs(layer: nn.Module, inputs: int) -> None:
    keys = ('in_channels', 'in_features')
    if is_per_channel(layer):
        keys = ('in_channels', 'out_channels', 'groups', 'num_features', 'n_dims')
    for key in keys:
        if hasattr(layer, key):
            setattr(layer, key, inputs)


def with_subnet(model: Mapping[str, Any], subnet: Subnet | None) -> ConfigDict:
    """The config of ``model`` with its backbone as the static ``subnet``.

    Weights are expected from elsewhere: ``init_cfg`` of the backbone and of the model are dropped.

    Args:
        model: Config of a model with a slimmable backbone, a supernet or not.
        subnet: The subnet; ``None`` makes it a supernet.
    """
    config = ConfigDict(copy.deepcopy(dict(model)))  # some models read it by attributes
    config.pop('init_cfg', None)
    if not is_type(config, FitToBackbone):
        config.update(type='mmpse.FitToBackbone', architecture=config['type'])
    backbone = config['backbone']
    backbone.update(subnet=None if subnet is None else subnet.to_dict(), init_cfg=None)
    return config
