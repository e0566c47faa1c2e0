"""From the config of a detector or segmentor to that of the same with a searched backbone."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Container, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmpse.engine.checkpoint import of_supernet
from mmpse.files import written
from mmpse.models import SliceError, SlimmableBackbone, count
from mmpse.models.stock import FAMILIES, PACKAGES
from mmpse.models.warm_start import load_public, read_checkpoint
from mmpse.registry import MODELS
from mmpse.space import Subnet

SUPERNET_HOOK = dict(type='mmpse.SupernetHook', n=4)
PREFIX = 'backbone.'  # of the backbone's weights in a checkpoint


class TransferError(ValueError):
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
        TransferError: If the config has no backbone that can be pruned, or does not fit the
            checkpoint.
        SubnetError: If the subnet is one of another backbone.
        FitError: If a module reads the backbone's features in a way that cannot be fitted.
    """
    out = Path(out)
    if out.exists() and '::' not in config and out.samefile(config):
        raise TransferError(
            f'{out} is the old config, from which the new one inherits; give -o another'
        )
    old = load_config(config)
    new = Config.fromstring(rewrite(config, old, subnet), '.py')
    backbone = find_slimmable(build_model(new))
    weights = None if checkpoint is None else find_weights(backbone, checkpoint)
    with written(out) as (temporary,):
        text = rewrite(config, old, subnet, weights, out.parent)
        temporary.write_text(text, encoding='utf-8')
    if weights is not None:
        new = Config.fromstring(rewrite(config, old, subnet, weights), '.py')
    return new


class Weights(NamedTuple):
    """Where a backbone's weights come from."""

    init_cfg: dict[str, Any]
    trained: bool  # as they are: of the subnet itself, with its BatchNorm statistics


def complexity(
    cfg: Config, input_shape: Sequence[int] = (3, 224, 224)
) -> dict[str, tuple[int, int]]:
    """What the backbone of a config that :func:`transfer` wrote costs, and its full network.

    Args:
        cfg: The config.
        input_shape: Shape ``(C, H, W)`` of the image that FLOPs are counted for.

    Returns:
        ``{'FLOPs': (subnet, full), 'parameters': (subnet, full)}``; FLOPs are multiply-adds, as
        mmengine counts them.
    """
    config = new_backbone(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
        subnet = MODELS.build(config)
        fullnet = subnet.search_space.fullnet.to_dict()
        pair = subnet, MODELS.build({**config, 'subnet': fullnet, 'init_cfg': None})
    counted = [count(backbone, input_shape) for backbone in pair]
    return {
        name: tuple(resources[key] for resources in counted)
        for name, key in (('FLOPs', 'flops'), ('parameters', 'params'))
    }


def new_backbone(cfg: Config) -> ConfigDict:
    """The backbone in a config that :func:`transfer` wrote."""
    owners = (owner for _, owner in _owners(cfg.model, []))
    return next(o.backbone for o in owners if o.backbone.type == 'mmpse.Slimmable')


def rewrite(
    config: str,
    old: Config,
    subnet: str | os.PathLike | Mapping | None,
    weights: Weights | None = None,
    folder: Path | None = None,
) -> str:
    """The text of the new config, to be written into ``folder``; see :func:`transfer`.

    Args:
        config: The config's name.
        old: Its content, as :func:`load_config` reads it.
        subnet: See :func:`transfer`.
        weights: Of the backbone; ``None``: random ones.
        folder: Where the new config will be; ``None`` names a base by its whole path.
    """
    path, model = find_model(old, config)
    _check_stages(model.backbone, config)
    subnet = None if subnet is None else Subnet.load(subnet)
    changes = _changes(model, subnet, weights)
    for key in reversed(path):
        changes = {key: changes}
    imports = old.get('custom_imports', {}).get('imports', [])
    imports = [imports] if isinstance(imports, str) else list(imports)
    settings: dict[str, Any] = dict(
        custom_imports=dict(
            imports=imports + ['mmpse'] * ('mmpse' not in imports), allow_failed_imports=False
        ),
        **changes,
    )
    if subnet is None:
        settings['custom_hooks'] = [*old.get('custom_hooks', []), SUPERNET_HOOK]
        for split in ('val', 'test'):  # without statistics it cannot be validated
            settings |= {f'{split}_{key}': None for key in ('cfg', 'dataloader', 'evaluator')}
    what = 'as a supernet' if subnet is None else f'with the subnet {subnet.path or ""}'.rstrip()
    title = textwrap.fill(
        f'{model["type"]} of {config} {what}. Written by tools/transfer.py.',
        width=100,
        initial_indent='# ',
        subsequent_indent='# ',
    )
    body = ''.join(f'{key} = {_python(value)}\n' for key, value in settings.items())
    return f'{title}\n_base_ = {_base(config, folder)!r}\n{body}'


def load_config(config: str) -> Config:
    """A config from its file, or from ``'mmdet::...'`` and the like.

    Raises:
        TransferError: If it cannot be read, or is none of the kind that others can inherit from.
    """
    try:
        cfg = Config.fromstring(f'_base_ = {_base(config)!r}\n', '.py')
    except Exception as error:  # mmengine raises whatever the file does
        raise TransferError(f'cannot read the config {config}: {error}') from error
    if not isinstance(cfg.get('model'), Mapping):
        raise TransferError(f'{config} has no model; give the config of a detector or segmentor')
    return cfg


def find_model(cfg: Config, config: str) -> tuple[list[str], Mapping[str, Any]]:
    """The part of a config that is a model with a backbone that can be pruned.

    Returns:
        Where it is, such as ``['model']`` or ``['model', 'detector']``, and the part.

    Raises:
        TransferError: If there is none.
    """
    owners = list(_owners(cfg.model, ['model']))
    for path, owner in owners:
        if str(owner.backbone.type).split('.')[-1] in FAMILIES:
            return path, owner
    if not owners:
        raise TransferError(f'{config}: model ({cfg.model.get("type")}) has no backbone')
    found = ', '.join(f'{".".join(path)}.backbone is {o.backbone.type}' for path, o in owners)
    raise TransferError(
        f'{config}: {found}; backbones that can be pruned: {", ".join(FAMILIES)} of '
        f'{", ".join(PACKAGES)}'
    )


def _owners(model: Any, path: list[str]) -> Iterator[tuple[list[str], Mapping[str, Any]]]:
    if isinstance(model, Mapping):
        if 'type' in model and 'type' in (model.get('backbone') or {}):
            yield path, model
        for key, value in model.items():
            yield from _owners(value, [*path, key])


def build_model(cfg: Config) -> nn.Module:
    """The model of a config, built in the config's scope."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
        return MODELS.build(cfg.model)


def find_slimmable(model: nn.Module) -> SlimmableBackbone:
    """The first slimmable backbone in a model; a model of teacher and student has two alike."""
    return next(m for m in model.modules() if isinstance(m, SlimmableBackbone))


def find_weights(backbone: SlimmableBackbone, checkpoint: str) -> Weights:
    """How a backbone takes its weights from a checkpoint, which must have all of them.

    Raises:
        TransferError: If weights are missing, left over or of another subnet.
    """
    content = read(checkpoint)
    state = content.get('state_dict', content)
    state = {k[len(PREFIX) :]: v for k, v in state.items() if k.startswith(PREFIX)}
    if not state:  # of another library, or a backbone alone
        try:
            load_public(backbone, content, checkpoint)
        except (ValueError, RuntimeError) as error:
            raise TransferError(str(error)) from error
        return Weights(dict(type='mmpse.WarmStart', checkpoint=str(checkpoint)), trained=False)
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
            f'{len(missing)} weights are missing ({", ".join(missing[:3])}), {len(left)} have no '
            f'place in it ({", ".join(left[:3])}); give the retrained classifier of the subnet, or '
            'the supernet'
        )
    init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint), prefix=PREFIX)
    cut = _size(state, absent) > _size(backbone.state_dict(), absent)
    return Weights(init_cfg, trained=not cut and not of_supernet(content))


def _size(state: Mapping[str, Tensor], without: Container[str]) -> int:
    """Elements of all weights but those of some layers."""
    layers = {k: k.rpartition('.')[0] for k in state}
    return sum(v.numel() for k, v in state.items() if v.dim() and layers[k] not in without)


def read(checkpoint: str) -> dict[str, Any]:
    """What is in a checkpoint.

    Raises:
        TransferError: If it cannot be read.
    """
    try:
        return read_checkpoint(checkpoint)
    except Exception as error:  # whatever the reader of its kind raises
        raise TransferError(f'cannot read the checkpoint {checkpoint}: {error}') from error


def _changes(
    model: Mapping[str, Any], subnet: Subnet | None, weights: Weights | None
) -> dict[str, Any]:
    """What makes a model's config that of the model with a subnet, or of a supernet."""
    old = model.backbone
    backbone: dict[str, Any] = dict(type='mmpse.Slimmable', architecture=old.type)
    if subnet is not None:
        content = subnet.to_dict()
        backbone['subnet'] = {key: content[key] for key in ('schema', 'backbone', 'widths')}
        backbone['init_cfg'] = None
    else:  # every subnet of a batch is normalised by itself
        if 'norm_cfg' in old:
            norm_cfg = {key: v for key, v in old.norm_cfg.items() if key != 'requires_grad'}
            backbone['norm_cfg'] = dict(norm_cfg, _delete_=True, type='BN')
    trained = subnet is not None and weights is not None and weights.trained
    if not trained and str(old.type).split('.')[-1] != 'SSDVGG':  # it freezes nothing
        backbone.update(norm_eval=False, frozen_stages=-1)
        if subnet is not None and old.get('norm_cfg', {}).get('requires_grad') is False:
            backbone['norm_cfg'] = dict(requires_grad=True)
    if weights is not None:
        replaced = dict(_delete_=True) if 'init_cfg' in old else {}
        backbone['init_cfg'] = dict(replaced, **weights.init_cfg)
    changes: dict[str, Any] = dict(
        type='mmpse.FitToBackbone', architecture=model.type, backbone=backbone
    )
    if subnet is not None or weights is not None:
        for config, change in ((model, changes), (old, backbone)):
            if config.get('pretrained') is not None:  # init_cfg by its old name
                change['pretrained'] = None
    return changes


def _check_stages(backbone: Mapping[str, Any], config: str) -> None:
    """Raise an error if stages are named that the backbone does not have."""
    kind = str(backbone.type).split('.')[-1]
    if kind == 'SSDVGG':
        return
    stages = dict(MobileNetV2=8, VGG=6).get(kind) or backbone.get('num_stages', 4)
    frozen, indices = backbone.get('frozen_stages', -1), backbone.get('out_indices', ())
    last_frozen = stages if kind.startswith('ResNet') else stages - 1
    if frozen > last_frozen or frozen < -1:
        raise TransferError(
            f'{config}: backbone.frozen_stages is {frozen}, but {kind} has stages up to '
            f'{last_frozen}'
        )
    if any(index not in range(stages) for index in indices):
        raise TransferError(
            f'{config}: backbone.out_indices is {tuple(indices)}, but {kind} has features 0 to '
            f'{stages - 1}'
        )


def _base(config: str, folder: Path | None = None) -> str:
    """How a config in ``folder`` names another one as its base."""
    if '::' in config:
        return config
    path = Path(config).resolve()
    if not path.is_file():
        raise TransferError(f'there is no config {config}')
    for package in PACKAGES:
        root = Path(find_spec(package).origin).parent / '.mim' / 'configs'
        if path.is_relative_to(root):
            return f'{package}::{path.relative_to(root).as_posix()}'
    return str(path) if folder is None else os.path.relpath(path, folder.resolve())


def _python(value: Any, indent: int = 0) -> str:
    """A value as Python source."""
    if not isinstance(value, Mapping):
        return repr(value)
    call = all(str(key).isidentifier() for key in value)
    start, end = ('dict(', ')') if call else ('{', '}')
    items = [  # a key and its value stay in one line, by a space that does not break
        (f'{key}=' if call else f'{key!r}:\xa0') + _python(item, indent + 4)
        for key, item in value.items()
    ]
    line = start + ', '.join(items) + end
    if len(line) < 70 and '\n' not in line:
        return line.replace('\xa0', ' ')
    margin = ' ' * (indent + 4)
    if not any(isinstance(item, Mapping) for item in value.values()) and not call:  # the widths
        body = textwrap.fill(', '.join(items), 100, initial_indent=margin, subsequent_indent=margin)
    else:
        body = ',\n'.join(margin + item for item in items)
    return f'{start}\n{body},\n{" " * indent}{end}'.replace('\xa0', ' ')
