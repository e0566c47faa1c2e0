"""From the config of a detector or segmentor to that of the same with a searched backbone."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmpse.models import SliceError, SlimmableBackbone, count
from mmpse.models.stock import FAMILIES, PACKAGES, Slimmable
from mmpse.models.warm_start import load_public
from mmpse.openmmlab.checkpoints.loading import collapsed, listed, read_checkpoint, weights_in
from mmpse.openmmlab.configs.files import (
    ConfigError,
    build_model,
    changed,
    importing,
    load_config,
    neutral,
    write_config,
)
from mmpse.openmmlab.configs.images import channels_of
from mmpse.openmmlab.supernet.checkpoint import of_supernet
from mmpse.openmmlab.types import find_type, is_type
from mmpse.registry import MODELS
from mmpse.space import Subnet

SUPERNET_HOOK = dict(type='mmpse.SupernetHook', n=4)
PREFIX = 'backbone.'  # of the backbone's weights in a checkpoint


class TransferError(ConfigError):
    """A config, or a checkpoint, that a subnet cannot be put into."""


def transfer(
    config: str,
    out: str | os.PathLike,
    subnet: str | os.PathLike | Mapping | None = None,
    checkpoint: str | None = None,
) -> Config:
    """Write the config of a model with its backbone replaced by a subnet.

    The new config inherits from the old one, names what is replaced and holds the subnet's widths,
    so that it needs no other file than the old config and the checkpoint. It is built before it is
    written.

    Args:
        config: A config file, or ``'mmdet::...'``, ``'mmseg::...'``.
        out: The config file to write.
        subnet: The subnet, its file or the file's content. ``None`` makes the model a supernet:
            the full backbone, trained in parallel subnets by :class:`SupernetHook`.
        checkpoint: Weights of the backbone: the retrained classifier's; or the supernet's, or
            public ones as :class:`mmpse.models.WarmStart` takes, which are cut to the subnet. They
            are checked. Unless they are the subnet's own, nothing of the backbone is frozen.

    Returns:
        The new config.

    Raises:
        ConfigError: If the config cannot be read, its model cannot be built with the subnet (which
            is of another backbone, or a module reads its features in a way that cannot be fitted).
        TransferError: If it has no backbone that can be pruned, or does not fit the checkpoint.
        CheckpointError: If the checkpoint cannot be read.
        SubnetError: If the subnet cannot be read.
    """
    made = plan(config, subnet, checkpoint)
    return write_config(out, config, made.changes, made.comment)


class Weights(NamedTuple):
    """Where a model's weights come from."""

    text: str  # for people: what they are of, and what starts at random
    trained: bool  # as they are: of the subnet itself, with its BatchNorm statistics
    init_cfg: dict[str, Any] | None = None  # of the backbone
    model_init_cfg: dict[str, Any] | None = None
    load_from: str | None = None


class Plan(NamedTuple):
    """What :func:`transfer` writes."""

    changes: dict[str, Any]
    comment: str
    weights: str  # where the weights come from and what starts at random, for people


def plan(
    config: str, subnet: str | os.PathLike | Mapping | None = None, checkpoint: str | None = None
) -> Plan:
    """Make the changes of :func:`transfer`, and build the model once; see there."""
    old = load_config(config)
    subnet = None if subnet is None else Subnet.load(subnet)
    changes = changes_for(config, old, subnet)
    model = build_model(changed(old, changes))
    weights = None
    if checkpoint is not None:
        weights = find_weights(model, find_slimmable(model), str(checkpoint))
        changes = changes_for(config, old, subnet, weights)
    kind = find_model(old, config)[1]['type']
    kind = getattr(kind, '__name__', kind)
    what = 'as a supernet' if subnet is None else f'with the subnet {subnet.path or ""}'.rstrip()
    text = 'as in the config' if subnet is None else 'random'
    text = text if weights is None else weights.text
    comment = f'{kind} of {config} {what}. Weights: {text}. Written by tools/transfer.py.'
    return Plan(changes, comment, text)


def complexity(cfg: Config, input_shape: Sequence[int] | None = None) -> dict[str, tuple[int, int]]:
    """What the backbone of a config that :func:`transfer` wrote costs, and its full network.

    Args:
        cfg: The config.
        input_shape: Shape ``(C, H, W)`` of the image that FLOPs are counted for; by default 224 x
            224, of as many channels as the first layer reads.

    Returns:
        ``{'FLOPs': (subnet, full), 'parameters': (subnet, full)}``; FLOPs are multiply-adds, as
        mmengine counts them.
    """
    config = new_backbone(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
        subnet = MODELS.build(config)
        fullnet = subnet.search_space.fullnet.to_dict()
        pair = subnet, MODELS.build({**config, 'subnet': fullnet, 'init_cfg': None})
    input_shape = input_shape or (channels_of(pair[0]), 224, 224)
    counted = [count(backbone, input_shape) for backbone in pair]
    return {
        name: tuple(resources[key] for resources in counted)
        for name, key in (('FLOPs', 'flops'), ('parameters', 'params'))
    }


def new_backbone(cfg: Config) -> ConfigDict:
    """The backbone in a config that :func:`transfer` wrote."""
    owners = (owner for _, owner in _owners(cfg.model, []))
    return next(o.backbone for o in owners if o.backbone.type == 'mmpse.Slimmable')


def _joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The changes of both; where they differ, those of the second."""
    result = dict(first)
    for key, value in second.items():
        if isinstance(value, Mapping) and isinstance(first.get(key), Mapping):
            value = _joined(first[key], value)
        result[key] = value
    return result


def load_supernet(config: str | os.PathLike) -> Config:
    """A config whose model has a slimmable backbone: itself, or what :func:`transfer` makes of it.

    Of a model in another one (a student, a detector of a tracker) it is that model.

    Raises:
        ConfigError: If it cannot be read, or its backbone cannot be pruned.
    """
    cfg = load_config(config)
    with _scope(cfg):
        if is_type(cfg.model.get('backbone'), (SlimmableBackbone, Slimmable)):
            return cfg
    path, _ = find_model(cfg, str(config))
    cfg = rewrite(str(config), cfg, None)
    for key in path[1:]:
        cfg.model = cfg.model[key]
    return cfg


def rewrite(
    config: str, old: Config, subnet: str | os.PathLike | Mapping | None, weights=None
) -> Config:
    """The new config of :func:`transfer`, in memory."""
    subnet = None if subnet is None else Subnet.load(subnet)
    return changed(old, changes_for(config, old, subnet, weights))


def changes_for(
    config: str, old: Config, subnet: Subnet | None, weights: Weights | None = None
) -> dict[str, Any]:
    """What makes a config that of the same model with a subnet, or as a supernet.

    Args:
        config: The config's name.
        old: Its content.
        subnet: The subnet; ``None`` makes a supernet.
        weights: Of the backbone or of the whole; ``None``: random ones of a subnet, and what the
            old config says of a supernet.
    """
    path, model = find_model(old, config)
    with _scope(old):
        _check_stages(model.backbone, config)
        changes = _changes(model, subnet, weights)
    for key in reversed(path):
        changes = {key: changes}
    if subnet is not None or weights is not None:
        # nothing else may load weights, over those that are said to be loaded
        changes = _joined(neutral(old), changes)
        if weights is not None and weights.load_from is not None:
            changes['load_from'] = weights.load_from
    if subnet is None:
        changes['custom_hooks'] = [*(old.get('custom_hooks') or []), SUPERNET_HOOK]
        for split in ('val', 'test'):  # without statistics it cannot be validated
            changes |= {f'{split}_{key}': None for key in ('cfg', 'dataloader', 'evaluator')}
    return {**importing(old), **changes}


def find_model(cfg: Config, config: str) -> tuple[list[str], Mapping[str, Any]]:
    """The part of a config that is a model with a backbone that can be pruned.

    Returns:
        Where it is, such as ``['model']`` or ``['model', 'detector']``, and the part.

    Raises:
        TransferError: If there is none.
    """
    owners = list(_owners(cfg.model, ['model']))
    with _scope(cfg):
        for path, owner in owners:
            if kind_of(owner.backbone) is not None:
                return path, owner
    if not owners:
        raise TransferError(f'{config}: model ({cfg.model.get("type")}) has no backbone')
    found = ', '.join(f'{".".join(path)}.backbone is {o.backbone.type}' for path, o in owners)
    raise TransferError(
        f'{config}: {found}; backbones that can be pruned: {", ".join(FAMILIES)} of '
        f'{", ".join(PACKAGES)}'
    )


def kind_of(backbone: Mapping[str, Any]) -> str | None:
    """The name of a backbone's class, if it can be pruned; in the config's scope."""
    with DefaultScope.overwrite_default_scope(backbone.get('_scope_')):
        kind = find_type(backbone)
    if getattr(kind, '__name__', None) in FAMILIES and kind.__module__.split('.')[0] in PACKAGES:
        return kind.__name__
    return None


def _scope(cfg: Config):
    return DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine')


def _owners(model: Any, path: list[str]) -> Iterator[tuple[list[str], Mapping[str, Any]]]:
    if isinstance(model, Mapping):
        if 'type' in model and 'type' in (model.get('backbone') or {}):
            yield path, model
        for key, value in model.items():
            yield from _owners(value, [*path, key])


def find_slimmable(model: nn.Module) -> SlimmableBackbone:
    """The first slimmable backbone in a model; a model of teacher and student has two alike."""
    return next(m for m in model.modules() if isinstance(m, SlimmableBackbone))


def find_weights(model: nn.Module, backbone: SlimmableBackbone, checkpoint: str) -> Weights:
    """How a model takes its weights from a checkpoint, which must have all of the backbone's.

    A checkpoint of the whole model is used as a whole. The weights are loaded.

    Raises:
        CheckpointError: If it cannot be read.
        TransferError: If weights of the backbone are missing, left over or of another subnet.
    """
    content = read_checkpoint(checkpoint)
    state, notes = weights_in(content, checkpoint)
    prefixes = {k[: f'.{k}'.index(f'.{PREFIX}')] for k in state if f'.{PREFIX}' in f'.{k}'}
    if len(prefixes) > 1 and '' not in prefixes:
        raise TransferError(
            f'{checkpoint} has several backbones (in {", ".join(sorted(prefixes))}); save the one '
            'that is meant'
        )
    outer = '' if '' in prefixes or not prefixes else prefixes.pop()
    state = {k[len(outer) :]: v for k, v in state.items() if k.startswith(outer)}
    warm_start = dict(type='mmpse.WarmStart', checkpoint=checkpoint)
    rest = [key for key in model.state_dict() if not key.startswith(PREFIX)]
    random = f'at random start {listed(collapsed(rest, model.state_dict()))}'
    inside = {k[len(PREFIX) :]: v for k, v in state.items() if k.startswith(PREFIX)}
    if not inside:  # of another library, or a backbone alone
        try:
            load_public(backbone, content, checkpoint)
        except (ValueError, RuntimeError) as error:
            raise TransferError(str(error)) from error
        return Weights(f'{checkpoint} for the backbone; {random}', False, init_cfg=warm_start)
    trained = _load_backbone(backbone, inside, checkpoint) and not of_supernet(content)
    # what mmengine's own loading cannot read
    foreign = checkpoint.endswith('.safetensors') or bool(notes and 'as a whole' in notes[-1])
    pretrained = dict(type='Pretrained', checkpoint=checkpoint)
    if not any(key in state for key in rest):
        init_cfg = warm_start if foreign else dict(pretrained, prefix=outer + PREFIX)
        return Weights(f'{checkpoint} for the backbone; {random}', trained, init_cfg=init_cfg)
    missing = _load_rest(model, rest, state)
    text = f'{checkpoint} for the whole model'
    if missing:
        text += f'; at random start {listed(collapsed(missing, model.state_dict()))}'
    if foreign:
        return Weights(text, trained, model_init_cfg=warm_start)
    if outer not in ('', 'module.'):
        return Weights(text, trained, model_init_cfg=dict(pretrained, prefix=outer))
    return Weights(text, trained, load_from=checkpoint)


def _load_backbone(
    backbone: SlimmableBackbone, state: Mapping[str, Tensor], checkpoint: str
) -> bool:
    """Load a backbone; whether the weights are its own, and were not cut."""
    try:
        found = backbone.load_state_dict(state, strict=False)
    except (SliceError, RuntimeError) as error:
        raise TransferError(f'{checkpoint} is not a checkpoint of this subnet: {error}') from error
    own = {name for layer in backbone.layers_of_units for name in layer[:2]}
    absent = {name for layer in backbone.absent_layers for name in layer[:2]}
    missing = [key for key in found.missing_keys if key.rpartition('.')[0] in own]
    left = [key for key in found.unexpected_keys if key.rpartition('.')[0] not in absent]
    if missing or left:
        raise TransferError(
            f'{checkpoint} is not a checkpoint of this backbone ({type(backbone).__name__}): '
            f'{len(missing)} weights are missing ({listed(missing, 3)}), {len(left)} have no '
            f'place in it ({listed(left, 3)}); give the retrained classifier of the subnet, or '
            'the supernet'
        )
    return _size(state, absent) <= _size(backbone.state_dict(), absent)


def _load_rest(model: nn.Module, keys: Sequence[str], state: Mapping[str, Tensor]) -> list[str]:
    """Load what is not the backbone, layer by layer; what a checkpoint lacks or has otherwise."""
    layers: dict[str, list[str]] = {}
    for key in keys:
        layers.setdefault(key.rpartition('.')[0], []).append(key)
    missing = []
    for names in layers.values():
        there = {name: state[name] for name in names if name in state}
        try:
            model.load_state_dict(there, strict=False)
        except RuntimeError:  # of another shape, as that of other classes
            there = {}
        missing += [name for name in names if name not in there]
    return missing


def _size(state: Mapping[str, Tensor], without: Container[str]) -> int:
    """Elements of all weights but those of some layers."""
    layers = {k: k.rpartition('.')[0] for k in state}
    return sum(v.numel() for k, v in state.items() if v.dim() and layers[k] not in without)


def _changes(
    model: Mapping[str, Any], subnet: Subnet | None, weights: Weights | None
) -> dict[str, Any]:
    """What makes a model's config that of the model with a subnet, or of a supernet."""
    old = model.backbone
    norm_cfg = old.get('norm_cfg') or {}
    backbone: dict[str, Any] = dict(type='mmpse.Slimmable', architecture=old.type)
    if subnet is not None:
        content = subnet.to_dict()
        backbone['subnet'] = {key: content[key] for key in ('schema', 'backbone', 'widths')}
        backbone['init_cfg'] = None
    elif norm_cfg:  # every subnet of a batch is normalised by itself
        kept = {key: norm_cfg[key] for key in ('eps', 'momentum', 'affine') if key in norm_cfg}
        backbone['norm_cfg'] = dict(kept, _delete_=True, type='BN')
    trained = subnet is not None and weights is not None and weights.trained
    if not trained and kind_of(old) != 'SSDVGG':  # it freezes nothing
        backbone.update(norm_eval=False, frozen_stages=-1)
        if subnet is not None and norm_cfg.get('requires_grad') is False:
            backbone['norm_cfg'] = dict(requires_grad=True)
    if weights is not None and weights.init_cfg is not None:
        backbone['init_cfg'] = dict(_delete_=True, **weights.init_cfg)
    changes: dict[str, Any] = dict(
        type='mmpse.FitToBackbone', architecture=model.type, backbone=backbone
    )
    if weights is not None and weights.model_init_cfg is not None:
        changes['init_cfg'] = dict(_delete_=True, **weights.model_init_cfg)
    return changes


def _check_stages(backbone: Mapping[str, Any], config: str) -> None:
    """Raise an error if stages are named that the backbone does not have."""
    kind = kind_of(backbone)
    if kind == 'SSDVGG':
        return
    stages = dict(MobileNetV2=8, VGG=6).get(kind) or backbone.get('num_stages', 4)
    frozen, indices = backbone.get('frozen_stages', -1), backbone.get('out_indices') or ()
    indices = indices if isinstance(indices, Sequence) else [indices]
    last_frozen = stages if kind.startswith('ResNet') else stages - 1
    if frozen > last_frozen or frozen < -1:
        raise TransferError(
            f'{config}: backbone.frozen_stages is {frozen}, but {kind} has stages up to '
            f'{last_frozen}'
        )
    if any(index not in range(-stages, stages) for index in indices):
        raise TransferError(
            f'{config}: backbone.out_indices is {tuple(indices)}, but {kind} has features 0 to '
            f'{stages - 1}'
        )
