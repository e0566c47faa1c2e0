"""Trying the transfer on every config of an installed package."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from rich.progress import track
from torch import nn

from mmpse.files import written
from mmpse.models import FitError
from mmpse.models.meta import WeightsOnMeta
from mmpse.registry import MODELS
from mmpse.space import Subnet

from .config import ConfigError, build_model, find_model, load_config, rewrite

# what changes neither the layers that read the features nor the losses that are computed
IGNORED = (
    *('train_cfg', 'test_cfg', 'init_cfg', 'pretrained', 'data_preprocessor', 'requires_grad'),
    *('depth', 'style', 'frozen_stages', 'norm_eval', 'num_classes', 'class_weight'),
)


def survey(package: str, out: str | os.PathLike, keep: str = '') -> dict[str, dict[str, Any]]:
    """Transfer a subnet of about half the width into every config of a package.

    Equal models are tried once. Each distinct one is built. One model of each structure (the rest
    differs in :data:`IGNORED` only) also runs its loss and its forward on a small random batch, and
    its weights are loaded into what its dumped config builds. Goes on where it was stopped.

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
    if not dist.is_initialized():  # mmcv's SyncBN cannot be built without
        dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    models = {result['model']: result for result in results.values()}
    structures = {r['structure']: r['ran'] for r in results.values() if r['error'] is None}
    # the smaller depths first: they stand for their structures
    configs = sorted(configs_of(package), key=lambda name: ('r101' in name, name))
    for config in track(configs, description=package):
        if config in results or keep not in config:
            continue
        try:
            old = load_config(config)
            path, owner = find_model(old, config)
        except ConfigError:
            continue  # no config of a model with such a backbone
        model, structure = _key(old.model), _key(old.model, IGNORED)
        if model not in models:
            result = dict(backbone=owner.backbone.type, model=model, structure=structure)
            ran = structures.get(structure)
            result.update(_try(config, old, path, owner, run_it=ran is None))
            if result['error'] is None:
                result['ran'] = structures[structure] = ran or config
            models[model] = result
        results[config] = models[model]
        rows = ',\n'.join(f'{json.dumps(k)}: {json.dumps(v)}' for k, v in results.items())
        with written(out) as (temporary,):
            temporary.write_text(f'{{\n{rows}\n}}\n')
    return results


def _try(
    config: str, old: Config, path: list[str], owner: Mapping[str, Any], run_it: bool
) -> dict[str, Any]:
    """What becomes of a config: ``error`` and, if its run fails, ``original``."""
    result: dict[str, Any] = dict(error=None, ran=None)
    try:
        new = rewrite(config, old, half_subnet(owner.backbone))
        new.model, owner = (_with_new_teacher(model, config) for model in (new.model, owner))
        if path != ['model'] or not run_it:
            _without_storage(build_model, new)
        if run_it:
            part = new
            for key in path:
                part = part[key]
            try:
                reload(part, new.default_scope, run(part, new.default_scope))
            except Exception:
                result['original'] = _error_of(owner, new.default_scope)
                raise
    except Exception as error:  # whatever it is, it belongs into the table
        result['error'] = _line(error)
    return result


def _with_new_teacher(value: Any, config: str) -> Any:
    """A model's config without the checkpoint of a teacher, whose config is read where it is.

    mmdet looks for it in a checkout of its repository.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(_with_new_teacher(item, config) for item in value)
    if not isinstance(value, Mapping):
        return value
    value = ConfigDict({k: _with_new_teacher(v, config) for k, v in value.items()})
    if 'teacher_ckpt' in value:
        value.teacher_ckpt = None
    teacher = value.get('teacher_config')
    if isinstance(teacher, str):
        package, name = config.partition('::')[0], teacher.removeprefix('configs/')
        value.teacher_config = dict(model=load_config(f'{package}::{name}').model)
    return value


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
    with WeightsOnMeta():
        return MODELS.build(dict(whole, divisor=32)).search_space.uniform(0.5)


def run(config: Mapping[str, Any], scope: str) -> dict[str, torch.Tensor]:
    """Loss and forward of a config's model on a small random batch.

    Returns:
        The weights that the model was built with.

    Raises:
        Exception: Whatever goes wrong.
    """
    with DefaultScope.overwrite_default_scope(scope):
        model = _small(config)
        weights = model.state_dict()  # some add modules when they run first
        for counter in ('epoch', 'iter'):  # some losses change with them
            MessageHub.get_current_instance().update_info(counter, 0)
        for module in model.modules():
            if type(module).__name__ == 'L2Norm':  # SSD's has no values before init_weights
                nn.init.constant_(module.weight, module.scale)
            if type(module).__name__ == 'EmbeddingRPNHead':  # nor have Sparse R-CNN's boxes
                module.init_weights()
        torch.manual_seed(0)
        for parameter in model.parameters():  # some are what was in memory before init_weights
            if not parameter.abs().max() < 100:  # or not a number
                nn.init.normal_(parameter)
        detector = hasattr(model, 'with_bbox')
        if hasattr(model, 'encode_decode'):
            inputs, samples = _segmentation_batch(model.num_classes)
        elif detector:
            inputs, samples = _detection_batch(model)
        elif hasattr(model, 'track_head'):
            inputs, samples = _video_batch(model)
        else:
            inputs, samples = _identity_batch()
        model.train()
        losses, _ = model.parse_losses(model.loss(inputs, copy.deepcopy(samples)))  # some edit them
        if not torch.isfinite(losses):
            raise FloatingPointError(f'the loss is {losses}')
        model.eval()
        with torch.no_grad():
            model(inputs[:1], samples[:1], mode='tensor' if detector else 'predict')
    return weights


def reload(config: Mapping[str, Any], scope: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Rebuild a model from its config as it is dumped, and see that its weights fit.

    Raises:
        Exception: Whatever goes wrong.
    """
    # what Config.dump writes, but for the layout of the text, which takes it longest
    text = f'model = {Config(dict(model=config)).to_dict()["model"]!r}'
    dumped = Config.fromstring(text, '.py').model
    with DefaultScope.overwrite_default_scope(scope):
        again = _without_storage(_small, dumped)
    again.to('meta').load_state_dict({key: value.to('meta') for key, value in weights.items()})


def _without_storage(build: Callable[[Any], nn.Module], config: Any) -> nn.Module:
    """Build a model without storage; with, where something is computed from its weights."""
    try:
        with WeightsOnMeta():
            return build(config)
    except (RuntimeError, FitError):  # of PyTorch; of features that were computed from nothing
        return build(config)


def _small(config: Mapping[str, Any]) -> nn.Module:
    """A model that runs on small images on a CPU."""

    def small(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(small(item) for item in value)
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
    from mmengine.structures import InstanceData

    batch = demo_mm_inputs(2, (3, size, size), [3, 2], 2, with_mask=True, with_semantic=True)
    preprocessor = model.data_preprocessor
    if not isinstance(preprocessor, DetDataPreprocessor):  # its tracker has one
        preprocessor = DetDataPreprocessor()
    batch = preprocessor(batch, True)
    for sample in batch['data_samples']:
        sample.proposals = InstanceData(bboxes=sample.gt_instances.bboxes)  # for Fast R-CNN
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


def _video_batch(model: nn.Module, size: int = 128) -> tuple[torch.Tensor, list]:
    """One video of two frames."""
    from mmdet.testing import demo_track_inputs

    shape = dict(image_shapes=(3, size, size), num_items=[2], with_mask=True)
    batch = model.data_preprocessor(demo_track_inputs(1, 2, **shape), True)
    return batch['inputs'], batch['data_samples']


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
