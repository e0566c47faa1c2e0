"""Trying the transfer on every config of an installed package."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from rich.progress import track
from torch import nn

from mmpse.registry import MODELS
from mmpse.space import Subnet

from .config import TransferError, build_model, find_model, load_config, rewrite

IGNORED = ('train_cfg', 'test_cfg', 'init_cfg', 'pretrained', 'data_preprocessor', 'depth')


def survey(package: str, out: str | os.PathLike, keep: str = '') -> dict[str, dict[str, Any]]:
    """Transfer a subnet of about half the width into every config of a package.

    Each distinct model is built. One model of each structure (the rest differs in depth, test or
    training settings only) also runs its loss and its forward on a small random batch, and is
    rebuilt from its dumped config. Goes on where it was stopped.

    Args:
        package: ``'mmdet'`` or ``'mmseg'``.
        out: JSON file of the results; those in it are not tried again.
        keep: Only configs with this in their name.

    Returns:
        Config -> ``backbone``, its type; ``ran``, the config whose run stands for its own;
        ``error``, or None; and where the run failed ``original``, the error that the original
        model gives on the same batch, or None.
    """
    out = Path(out)
    results = json.loads(out.read_text()) if out.exists() else {}
    models: dict[str, str] = {r['model']: n for n, r in results.items() if r['error'] is None}
    structures: dict[str, str] = {
        r['structure']: r['ran'] for r in results.values() if r['error'] is None
    }
    for config in track(list(configs_of(package)), description=package):
        if config in results or keep not in config:
            continue
        try:
            path, owner = find_model(load_config(config), config)
        except TransferError:
            continue  # no config of a model with such a backbone
        result = dict(backbone=owner.backbone.type, ran=None, error=None)
        try:
            subnet = half_subnet(owner.backbone)
            new = Config.fromstring(rewrite(config, subnet), '.py')
            result['model'] = _key(new.model)
            result['structure'] = _key(new.model, IGNORED)
            if result['model'] not in models:
                if path != ['model'] or result['structure'] in structures:
                    build_model(new)
                if result['structure'] not in structures:
                    structures[result['structure']] = config
                    part = new
                    for key in path:
                        part = part[key]
                    try:
                        reload(part, new.default_scope, run(part, new.default_scope))
                    except Exception:
                        result['original'] = _error_of(owner, new.default_scope)
                        raise
            models[result['model']] = config
            result['ran'] = structures[result['structure']]
        except Exception as error:  # whatever it is, it belongs into the table
            result['error'] = _line(error)
            structures = {k: v for k, v in structures.items() if v != config}
        results[config] = result
        temporary = out.with_name(f'.{out.name}.tmp')
        temporary.write_text(json.dumps(results, indent=1))
        os.replace(temporary, out)
    return results


def _error_of(config: Mapping[str, Any], scope: str) -> str | None:
    """What goes wrong with the original model."""
    try:
        run(config, scope)
    except Exception as error:
        return _line(error)
    return None


def _line(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'


def configs_of(package: str) -> Iterator[str]:
    """The configs of an installed package, as ``'mmdet::...'``."""
    root = Path(find_spec(package).origin).parent / '.mim' / 'configs'
    for path in sorted(root.rglob('*.py')):
        if '_base_' not in path.parts:
            yield f'{package}::{path.relative_to(root).as_posix()}'


def half_subnet(config: Mapping[str, Any]) -> Subnet:
    """A subnet of half the width, for a backbone's config."""
    kind = config['type'].split('.')[-1]
    if kind.endswith('VGG'):
        whole = dict(type='mmpse.SlimmableVGG', depth=config['depth'])
    elif kind == 'MobileNetV2':
        whole = dict(type='mmpse.SlimmableMobileNetV2', widen_factor=config.get('widen_factor', 1))
    else:
        base = config.get('base_channels', 64)
        whole = dict(
            type='mmpse.SlimmableResNet',
            depth=config['depth'],
            base_channels=base,
            stem_channels=config.get('stem_channels') or base,
            deep_stem=config.get('deep_stem', kind != 'ResNet'),
        )
    # multiples of 32, so that a group normalisation has its groups
    return MODELS.build(dict(whole, divisor=32)).search_space.uniform(0.5)


def run(config: Mapping[str, Any], scope: str) -> nn.Module:
    """Loss and forward of a config's model on a small random batch.

    Raises:
        Exception: Whatever goes wrong.
    """
    with DefaultScope.overwrite_default_scope(scope):
        model = _small(config)
        torch.manual_seed(0)
        detector = hasattr(model, 'with_bbox')
        if hasattr(model, 'encode_decode'):
            inputs, samples = _segmentation_batch(model.num_classes)
        elif detector:
            inputs, samples = _detection_batch(model)
        else:
            inputs, samples = _identity_batch()
        model.train()
        losses, _ = model.parse_losses(model.loss(inputs, samples))
        if not torch.isfinite(losses):
            raise FloatingPointError(f'the loss is {losses}')
        model.eval()
        with torch.no_grad():
            model(inputs, samples, mode='tensor' if detector else 'predict')
    return model


def reload(config: Mapping[str, Any], scope: str, model: nn.Module) -> None:
    """Rebuild a model from its config as it is dumped, and load the weights.

    Raises:
        Exception: Whatever goes wrong.
    """
    dumped = Config.fromstring(Config(dict(model=config)).pretty_text, '.py').model
    with DefaultScope.overwrite_default_scope(scope):
        _small(dumped).load_state_dict(model.state_dict())


def _small(config: Mapping[str, Any]) -> nn.Module:
    """A model that runs on small images on a CPU."""

    def small(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [small(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        value = {k: small(v) for k, v in value.items() if k != 'batch_augments'}  # full-size pads
        limits = dict(nms_pre=100, max_per_img=10)  # regions
        if str(value.get('type', '')).endswith('Sampler'):
            limits['num'] = 16
        for key, limit in limits.items():
            if isinstance(value.get(key), int):
                value[key] = min(value[key], limit)
        return dict(value, mode='whole') if value.get('mode') == 'slide' else value

    return revert_sync_batchnorm(MODELS.build(ConfigDict(small(config))))


def _detection_batch(model: nn.Module, size: int = 320) -> tuple[torch.Tensor, list]:
    from mmdet.models import DetDataPreprocessor
    from mmdet.testing import demo_mm_inputs

    batch = demo_mm_inputs(2, (3, size, size), [3, 2], 2, with_mask=True, with_semantic=True)
    preprocessor = model.data_preprocessor
    if not isinstance(preprocessor, DetDataPreprocessor):  # its tracker has one
        preprocessor = DetDataPreprocessor()
    batch = preprocessor(batch, True)
    return batch['inputs'], batch['data_samples']


def _segmentation_batch(classes: int, size: int = 128) -> tuple[torch.Tensor, list]:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    shape = (size, size)
    meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape)
    samples = [
        SegDataSample(
            metainfo=meta, gt_sem_seg=PixelData(data=torch.randint(0, classes, (1, *shape)))
        )
        for _ in range(2)
    ]
    return torch.randn(2, 3, *shape), samples


def _identity_batch(height: int = 256, width: int = 128) -> tuple[torch.Tensor, list]:
    """Images of two identities, for re-identification."""
    from mmdet.structures import ReIDDataSample

    samples = [ReIDDataSample().set_gt_label(torch.tensor([k // 2])) for k in range(4)]
    return torch.randn(4, 3, height, width), samples


def _key(model: Any, ignored: tuple[str, ...] = ()) -> str:
    """A short name for what a model's config says, but for the widths and the ignored keys."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k not in (*ignored, 'subnet')}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else repr(value)

    return hashlib.sha256(json.dumps(plain(model), sort_keys=True).encode()).hexdigest()[:16]
