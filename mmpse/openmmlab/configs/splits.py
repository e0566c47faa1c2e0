"""Images held out of the training set, so that a choice of widths sees no other data.

Widths are chosen by calibrating and judging subnets. Both are done on training images, so that the
validation split measures what came of the choice, and the test split is never touched.
"""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.registry import METRICS, TRANSFORMS, DefaultScope

from mmpse.errors import UserError
from mmpse.openmmlab.types import default_of, find_type, is_kind, is_type
from mmpse.registry import DATASETS

from .datasets import (
    batch_size_of,
    build_leaf,
    last_phase,
    leaves_of,
    pipeline_of,
    replace_leaves,
    unrepeated,
    with_pipeline,
)

# A tenth keeps the training set nearly whole. With 512 images the paired standard error between two
# subnets that disagree on one image in ten is 1.4 points of accuracy, and more of them would make
# judging the longest step; fewer than 16 tell nothing
SHARE, MOST, FEWEST = 0.1, 512, 16


class HeldOut(NamedTuple):
    """Configs of data; each is a copy that a runner, or ``Runner.build_dataloader``, can take."""

    calibration: ConfigDict  # training images in a fixed random order, as training ends with them
    held_out: ConfigDict  # the images held out, as the config validates
    train: ConfigDict  # all other images, as the config trains
    unseen: ConfigDict  # the images held out, shuffled, as training ends with them
    evaluator: Any  # the config's val_evaluator, for the images held out
    images: int  # how many are held out
    total: int  # how many there are, without repetitions


def held_out(cfg: Config, images: int | None = None, seed: int = 0) -> HeldOut:
    """Hold images out of the training set of a config.

    The dataset of the config's ``train_dataloader`` may be any that derives from MMEngine's
    ``BaseDataset``, or such ones in ``ConcatDataset``, ``RepeatDataset``, ``ClassBalancedDataset``,
    ``MultiImageMixDataset`` and ``KFoldDataset``. The images held out pass through the pipeline of
    the ``val_dataloader``, unshuffled, and keep their annotations. The same arguments hold out the
    same images, wherever and whenever they are given: their indices stand in the configs returned.

    ``CocoMetric`` takes the true boxes from the images instead of from a file. Its areas are those
    of boxes then, so that small, medium and large objects may be others than with masks.

    Calibration batches come through the pipeline that training ends with (that is, without Mosaic
    after YOLOX's and RTMDet's switch). Augmentations draw from the workers' random generators, or
    with ``num_workers=0`` from that of the process.

    Args:
        cfg: A config that trains and validates.
        images: How many to hold out; by default a tenth of them, at least 16 and at most 512,
            but never more than half.
        seed: Seed of the choice, and of the order of calibration images.

    Raises:
        ValueError: If the config lacks a dataloader or evaluator, if that would leave less than
            half of the training images, or if images cannot be held out of such a dataset or
            judged by such a metric.
    """
    content = cfg.to_dict()  # a copy, with the classes of new-style configs by name
    for key in ('train_dataloader', 'val_dataloader', 'val_evaluator'):
        if not content.get(key):
            raise UserError(
                f'the config has no {key}, but widths are chosen by training images that are '
                'judged as the config validates; give a config that trains and validates'
            )
    loader, val_loader = content['train_dataloader'], content['val_dataloader']
    for name, one in (('train', loader), ('val', val_loader)):
        if not isinstance(one.get('dataset'), Mapping):
            raise UserError(
                f'{name}_dataloader.dataset is a {type(one.get("dataset")).__name__}; to hold '
                'images out, give the config of a dataset'
            )
    dataset = loader['dataset']
    scope = dataset.get('_scope_') or cfg.get('default_scope')
    with DefaultScope.overwrite_default_scope(scope):
        leaves = list(leaves_of(dataset))
        parts, total = _choose(
            [build_leaf(with_pipeline(leaf, [])) for leaf in leaves], images, seed
        )
        evaluator, from_images = _evaluator(content['val_evaluator'])
        pipeline = pipeline_of(next(leaves_of(val_loader['dataset'])))
        if not pipeline:
            raise UserError(
                'val_dataloader.dataset has no pipeline by which to judge training images; write '
                'it into the config'
            )
        if from_images:
            pipeline = _with_instances(pipeline)
        judged = _judged(dataset, parts, pipeline)
        train = _rest(dataset, parts)
        last = last_phase(dataset, content.get('custom_hooks') or [])
        calibration, unseen = _rest(last, parts), unrepeated(_rest(last, parts, rest=False))

    train, unseen = dict(loader, dataset=train), dict(loader, dataset=unseen)
    calibration = _in_order(loader, calibration, seed)
    validation = dict(val_loader, dataset=judged, drop_last=False)
    unseen.update(drop_last=False, batch_size=batch_size_of(loader))
    for one in (validation, unseen):
        one['sampler'] = dict(type='DefaultSampler', shuffle=False)
        one.pop('batch_sampler', None)
        one.pop('num_batch_per_epoch', None)
    # BatchNorms may take the statistics of batches, and data sets are sorted by class
    unseen['sampler'] = dict(type='DefaultSampler', shuffle=True, seed=seed)
    return HeldOut(
        *map(ConfigDict, copy.deepcopy((calibration, validation, train, unseen))),
        evaluator,
        sum(len(part.firsts) for part in parts),
        total,
    )


def all_training(cfg: Config, seed: int = 0) -> ConfigDict:
    """All training images as :func:`held_out` gives those for calibration, of any config.

    Raises:
        ValueError: If the config has no training data.
    """
    content = cfg.to_dict()
    loader = content.get('train_dataloader')
    if not loader:
        raise UserError(
            'the config has no train_dataloader, but widths are chosen on training images; give '
            'the config that the model was trained by'
        )
    scope = loader['dataset'].get('_scope_') or cfg.get('default_scope')
    with DefaultScope.overwrite_default_scope(scope):
        dataset = last_phase(loader['dataset'], content.get('custom_hooks') or [])
    return ConfigDict(_in_order(loader, dataset, seed))


def _in_order(loader: Mapping[str, Any], dataset: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The dataloader for a dataset in a fixed random order."""
    sampler = dict(type='DefaultSampler', shuffle=True, seed=seed)
    calibration = dict(loader, dataset=dataset, sampler=sampler)
    calibration.pop('num_batch_per_epoch', None)
    return calibration


# Which images


class _Part(NamedTuple):
    """What of a dataset is held out, as indices."""

    places: list[int]
    firsts: list[int]  # without images that are held out of an earlier dataset, or place, too
    size: int  # of the dataset


def _choose(
    datasets: Sequence[BaseDataset], images: int | None, seed: int
) -> tuple[list[_Part], int]:
    """Choose images at random, each with all the places where it occurs; how many there are.

    Of images with one ``img_id``, as two COCO files may have them, one at most is chosen: metrics
    would take them for one image.
    """
    places: dict[Any, list[tuple[int, int]]] = {}
    ids: dict[Any, Any] = {}
    for number, dataset in enumerate(datasets):
        for k in range(len(dataset)):
            info = dataset.get_data_info(k)
            name = _name(info) or (number, k)
            places.setdefault(name, []).append((number, k))
            ids.setdefault(name, info.get('img_id', name))
    names, total = list(places), len(places)
    if total < 2:
        raise UserError(
            f'the training set has {total} images, and widths are judged on some that are held out '
            'of it; look at train_dataloader.dataset: it takes at least 2, and some dozens to tell '
            'widths apart'
        )
    if images is None:
        images = min(max(FEWEST, min(int(SHARE * total), MOST)), total // 2)
    if not 1 <= images <= total // 2:
        raise UserError(
            f'{images} of {total} training images cannot be held out: at least 1, and at most '
            f'half of them ({total // 2}); choose another number of images'
        )
    chosen: dict[Any, Any] = {}  # by img_id
    for k in np.random.RandomState(seed).permutation(total):  # its stream is frozen
        if len(chosen) == images:
            break
        chosen.setdefault(ids[names[k]], names[k])
    parts = [_Part([], [], len(dataset)) for dataset in datasets]
    for name in chosen.values():
        number, first = places[name][0]
        parts[number].firsts.append(first)
        for number, k in places[name]:
            parts[number].places.append(k)
    for part in parts:
        part.places.sort()
        part.firsts.sort()
    return parts, total


def _name(info: Mapping[str, Any]) -> Any:
    """What tells an image from others, in whichever dataset it occurs; None: nothing does."""
    if isinstance(info.get('img'), np.ndarray):  # CIFAR, MNIST
        return hashlib.sha1(info['img'].tobytes()).digest()
    return str(info['img_path']) if info.get('img_path') else None


def _rest(config: Mapping[str, Any], parts: Sequence[_Part], rest: bool = True) -> dict:
    """A dataset without what is held out of its leaves, or with nothing but that."""
    parts = iter(parts)

    def subset(leaf: Mapping[str, Any]) -> dict:
        part = next(parts)
        images = part.places if rest else part.firsts
        return dict(type='mmpse.Subset', images=images, of=part.size, rest=rest, dataset=leaf)

    return replace_leaves(config, subset)


def _judged(config: Mapping[str, Any], parts: Sequence[_Part], pipeline: list) -> dict:
    """What is held out of the leaves of a dataset, joined as they are and not repeated."""
    datasets = [
        dict(
            type='mmpse.Subset',
            images=part.firsts,
            of=part.size,
            dataset=_as_validated(leaf, pipeline),
        )
        for leaf, part in zip(leaves_of(config), parts, strict=True)
        if part.firsts
    ]
    if len(datasets) == 1:
        return datasets[0]
    while not is_type(config, ConcatDataset, DATASETS):
        config = config['dataset']
    return dict(config, datasets=datasets)


def _as_validated(config: Mapping[str, Any], pipeline: list) -> dict:
    """A training dataset, the same images in the same order, with a pipeline of validation."""
    config = copy.deepcopy(with_pipeline(config, pipeline))
    if config.get('filter_cfg'):
        # mmdet's XMLDataset drops no image by it, but has small boxes ignored in training
        config['filter_cfg'].pop('bbox_min_size', None)
    return config


# Metrics


def _evaluator(config: Any) -> tuple[Any, bool]:
    """An evaluator for images held out; whether it takes true boxes from the images."""
    from_images = False

    def adapted(metric: Mapping[str, Any]) -> dict:
        nonlocal from_images
        if 'metrics' in metric:  # the config of an Evaluator
            return dict(metric, metrics=each(metric['metrics']))
        if is_kind(metric, 'mmdet.CocoMetric', METRICS) and not is_kind(
            metric, 'mmdet.LVISMetric', METRICS
        ):
            from_images = True
            return dict(metric, ann_file=None)
        if metric.get('ann_file') is not None:
            kind = find_type(metric, METRICS)
            raise UserError(
                f'val_evaluator: {getattr(kind, "__name__", metric["type"])} judges by '
                f'{metric["ann_file"]}, which does not have the images held out of the training '
                'set; use a metric that takes annotations from the dataset, such as CocoMetric'
            )
        return dict(metric)

    def each(config: Any) -> Any:
        return list(map(adapted, config)) if isinstance(config, (list, tuple)) else adapted(config)

    config = each(config)
    config = list(map(ConfigDict, config)) if isinstance(config, list) else ConfigDict(config)
    return config, from_images


def _with_instances(pipeline: Sequence[Mapping[str, Any]]) -> list:
    """A pipeline of detection whose results have the annotations of the dataset."""
    pipeline = copy.deepcopy(list(pipeline))
    for step in reversed(pipeline):
        default = default_of(step, 'meta_keys', TRANSFORMS)
        if default is not None:
            keys = step.get('meta_keys', default)
            step['meta_keys'] = tuple(dict.fromkeys((*keys, 'instances')))
            return pipeline
    raise UserError(
        'the pipeline of val_dataloader has no step with meta_keys, such as PackDetInputs, by '
        'which annotations reach CocoMetric'
    )
