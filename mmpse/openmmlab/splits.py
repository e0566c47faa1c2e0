"""Images held out of the training set, so that a choice of widths sees no other data.

Widths are chosen by calibrating and judging subnets. Both are done on training images, so that the
validation split measures what came of the choice, and the test split is never touched.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.registry import HOOKS, METRICS, TRANSFORMS, DefaultScope, Registry

from mmpse.registry import DATASETS

from .types import find_type

# A tenth keeps the training set nearly whole. 512 images are judged in seconds to a minute, and
# tell a difference of 1.5 points of accuracy from chance where two subnets disagree on one image in
# ten; fewer than 16 tell nothing
SHARE, MOST, FEWEST = 0.1, 512, 16


class HeldOut(NamedTuple):
    """Configs of data; each is a copy that a runner, or ``Runner.build_dataloader``, can take."""

    calibration: ConfigDict  # training images in a fixed random order, as training ends with them
    held_out: ConfigDict  # the images held out, as the config validates
    train: ConfigDict  # all other images, as the config trains
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
        images: How many to hold out; by default a tenth of them, at least 16 and at most 512.
        seed: Seed of the choice, and of the order of calibration images.

    Raises:
        ValueError: If the config lacks a dataloader or evaluator, if that would leave less than
            half of the training images, or if images cannot be held out of such a dataset or
            judged by such a metric.
    """
    for key in ('train_dataloader', 'val_dataloader', 'val_evaluator'):
        if not cfg.get(key):
            raise ValueError(
                f'the config has no {key}, but widths are chosen by training images that are '
                'judged as the config validates; give a config that trains and validates'
            )
    loader, val_loader = (copy.deepcopy(cfg[f'{name}_dataloader']) for name in ('train', 'val'))
    for name, one in (('train', loader), ('val', val_loader)):
        if not isinstance(one.get('dataset'), Mapping):
            raise ValueError(
                f'{name}_dataloader.dataset is a {type(one.get("dataset")).__name__}; to hold '
                'images out, give the config of a dataset'
            )
    scope = loader.dataset.get('_scope_') or cfg.get('default_scope')
    with DefaultScope.overwrite_default_scope(scope):
        leaves = list(_leaves(loader.dataset))
        choice = _choose([_build(_with_pipeline(leaf, [])) for leaf in leaves], images, seed)
        evaluator, from_images = _evaluator(cfg.val_evaluator)
        pipeline = _pipeline(next(_leaves(val_loader.dataset)))
        if from_images:
            pipeline = _with_instances(pipeline)
        rest = [
            dict(type='mmpse.Subset', images=list(places), of=size, rest=True)
            for places, size in zip(choice.places, choice.sizes, strict=True)
        ]
        judged = [
            dict(
                type='mmpse.Subset',
                images=list(firsts),
                of=size,
                dataset=_as_validated(leaf, pipeline),
            )
            for leaf, firsts, size in zip(leaves, choice.firsts, choice.sizes, strict=True)
            if firsts
        ]
        last = _last_phase(loader.dataset, cfg.get('custom_hooks') or [])
        train, calibration = (
            dict(loader, dataset=_replace(dataset, rest)) for dataset in (loader.dataset, last)
        )
        joined = judged[0] if len(judged) == 1 else _concat(loader.dataset, judged)

    calibration['sampler'] = dict(type='DefaultSampler', shuffle=True, seed=seed)
    validation = dict(val_loader, dataset=joined, drop_last=False)
    validation['sampler'] = dict(type='DefaultSampler', shuffle=False)
    validation.pop('batch_sampler', None)
    for one in (calibration, validation):
        one.pop('num_batch_per_epoch', None)
    return HeldOut(
        *map(ConfigDict, copy.deepcopy((calibration, validation, train))),
        evaluator,
        sum(map(len, choice.firsts)),
        choice.total,
    )


@DATASETS.register_module(name='Subset')
def subset(dataset: dict, images: Sequence[int], of: int, rest: bool = False) -> BaseDataset:
    """Some images of a dataset, or the rest.

    What is built is the dataset itself, so that all that hooks, samplers and wrappers look for in a
    dataset is there (an outer ``KFoldDataset`` would hide the pipeline from
    ``PipelineSwitchHook``).

    Args:
        dataset: Config of a dataset that derives from ``BaseDataset``, or of a ``KFoldDataset``.
        images: Indices into it, after its filter.
        of: Length that it had when they were chosen.
        rest: Whether to keep all others instead.

    Raises:
        ValueError: If the dataset has another length, or no subsets.
    """
    built = _build(dataset)
    if len(built) != of:
        raise ValueError(
            f'{len(images)} images were chosen when the {type(built).__name__} had {of}; now it '
            f'has {len(built)}: bring the old data back, or hold images out anew'
        )
    kept = list(images)
    if rest:
        others = set(kept)
        kept = [k for k in range(of) if k not in others]
    built.get_subset_(kept)
    return built


def _build(config: Mapping[str, Any]) -> BaseDataset:
    """A dataset that can be cut to a subset in place."""
    built = DATASETS.build(copy.deepcopy(config))
    if hasattr(built, 'full_init'):
        built.full_init()
    if _is(config, DATASETS, 'mmpretrain.KFoldDataset'):
        built = built.dataset  # its fold
    if not hasattr(built, 'get_subset_') or not hasattr(built, 'get_data_info'):
        raise ValueError(
            f'images cannot be held out of a {type(built).__name__}, which has no get_subset_ and '
            'get_data_info; derive it from mmengine.dataset.BaseDataset'
        )
    return built


# Which images


class _Choice(NamedTuple):
    places: list[list[int]]  # of each dataset, the indices of held-out images
    firsts: list[list[int]]  # without those of images that come a second time
    sizes: list[int]  # images of each dataset
    total: int  # different images


def _choose(datasets: Sequence[BaseDataset], images: int | None, seed: int) -> _Choice:
    """Choose images at random, each with all the places where it occurs.

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
    if images is None:
        images = max(FEWEST, min(int(SHARE * total), MOST))
    if not 1 <= images <= total // 2:
        raise ValueError(
            f'{images} of {total} training images cannot be held out: at least 1, and at most '
            f'half of them ({total // 2}); choose another number of images'
        )
    chosen: dict[Any, Any] = {}  # by img_id
    for k in np.random.RandomState(seed).permutation(total):  # its stream is frozen
        if len(chosen) == images:
            break
        chosen.setdefault(ids[names[k]], names[k])
    found, firsts = [[] for _ in datasets], [[] for _ in datasets]
    for name in chosen.values():
        (first, index), *others = places[name]
        firsts[first].append(index)
        for number, k in [(first, index), *others]:
            found[number].append(k)
    sizes = list(map(len, datasets))
    return _Choice(list(map(sorted, found)), list(map(sorted, firsts)), sizes, total)


def _name(info: Mapping[str, Any]) -> Any:
    """What tells an image from others, in whichever dataset it occurs; None: nothing does."""
    if isinstance(info.get('img'), np.ndarray):  # CIFAR, MNIST
        return hashlib.sha1(info['img'].tobytes()).digest()
    return str(info['img_path']) if info.get('img_path') else None


# Datasets in datasets


def _leaves(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The datasets inside a dataset that have the images, in the order of :func:`_replace`."""
    if _is(config, DATASETS, ConcatDataset):
        for dataset in config['datasets']:
            yield from _leaves(dataset)
    elif _is_wrapper(config):
        yield from _leaves(config['dataset'])
    else:
        yield config


def _replace(config: Mapping[str, Any], subsets: Sequence[dict]) -> dict:
    """A dataset whose leaves are wrapped in ``subsets``, one for each."""
    subsets = iter(subsets)

    def wrapped(config: Mapping[str, Any]) -> dict:
        if _is(config, DATASETS, ConcatDataset):
            return dict(config, datasets=[wrapped(dataset) for dataset in config['datasets']])
        if _is_wrapper(config):
            return dict(config, dataset=wrapped(config['dataset']))
        return dict(next(subsets), dataset=config)

    return wrapped(config)


def _is_wrapper(config: Mapping[str, Any]) -> bool:
    """Whether a dataset has the images of another one, repeated or mixed."""
    mix = ('mmdet.MultiImageMixDataset', 'mmseg.MultiImageMixDataset')
    return _is(config, DATASETS, RepeatDataset, ClassBalancedDataset, *mix)


def _concat(config: Mapping[str, Any], datasets: list[dict]) -> dict:
    """Datasets joined as those of a config are."""
    while not _is(config, DATASETS, ConcatDataset):
        config = config['dataset']
    return dict(config, datasets=datasets)


def _pipeline(config: Mapping[str, Any]) -> list:
    return _pipeline(config['dataset']) if _is_fold(config) else config.get('pipeline', [])


def _with_pipeline(config: Mapping[str, Any], pipeline: list) -> dict:
    if _is_fold(config):
        return dict(config, dataset=_with_pipeline(config['dataset'], pipeline))
    return dict(config, pipeline=pipeline)


def _as_validated(config: Mapping[str, Any], pipeline: list) -> dict:
    """A training dataset, the same images in the same order, with a pipeline of validation."""
    config = copy.deepcopy(_with_pipeline(config, pipeline))
    if config.get('filter_cfg'):
        # mmdet's XMLDataset drops no image by it, but has small boxes ignored in training
        config['filter_cfg'].pop('bbox_min_size', None)
    return config


def _is_fold(config: Mapping[str, Any]) -> bool:
    return _is(config, DATASETS, 'mmpretrain.KFoldDataset')


def _last_phase(config: Mapping[str, Any], hooks: Sequence[Mapping[str, Any]]) -> dict:
    """A dataset as it is when training ends: after the hooks that change it."""
    config = copy.deepcopy(config)
    for hook in hooks:
        pipeline = None
        if _is(hook, HOOKS, 'mmdet.PipelineSwitchHook'):
            pipeline = hook['switch_pipeline']
        elif _is(hook, HOOKS, 'mmpretrain.SwitchRecipeHook'):
            schedule = sorted(hook['schedule'], key=lambda item: item['action_epoch'])
            pipelines = [item['train_pipeline'] for item in schedule if 'train_pipeline' in item]
            pipeline = pipelines[-1] if pipelines else None
        elif _is(hook, HOOKS, 'mmdet.YOLOXModeSwitchHook'):
            config['skip_type_keys'] = list(
                hook.get('skip_type_keys', _default(hook, HOOKS, 'skip_type_keys'))
            )
        # these hooks set the pipeline of the outermost dataset, which a wrapper does not have
        if pipeline is not None and next(_leaves(config)) is config:
            config = _with_pipeline(config, pipeline)
    return config


# Metrics


def _evaluator(config: Any) -> tuple[Any, bool]:
    """An evaluator for images held out; whether it takes true boxes from the images."""
    from_images = False

    def adapted(metric: Mapping[str, Any]) -> dict:
        nonlocal from_images
        if 'metrics' in metric:  # the config of an Evaluator
            return dict(metric, metrics=each(metric['metrics']))
        if _is(metric, METRICS, 'mmdet.CocoMetric') and not _is(
            metric, METRICS, 'mmdet.LVISMetric'
        ):
            from_images = True
            return dict(metric, ann_file=None)
        if metric.get('ann_file') is not None:
            kind = find_type(metric, METRICS)
            raise ValueError(
                f'val_evaluator: {getattr(kind, "__name__", metric["type"])} judges by '
                f'{metric["ann_file"]}, which does not have the images held out of the training '
                'set; use a metric that takes annotations from the dataset, such as CocoMetric'
            )
        return dict(metric)

    def each(config: Any) -> Any:
        return list(map(adapted, config)) if isinstance(config, (list, tuple)) else adapted(config)

    config = each(copy.deepcopy(config))
    return (list(map(ConfigDict, config)) if isinstance(config, list) else ConfigDict(config)), (
        from_images
    )


def _with_instances(pipeline: Sequence[Mapping[str, Any]]) -> list:
    """A pipeline of detection whose results have the annotations of the dataset."""
    pipeline = copy.deepcopy(list(pipeline))
    for step in reversed(pipeline):
        default = _default(step, TRANSFORMS, 'meta_keys')
        if default is not None:
            keys = step.get('meta_keys', default)
            step['meta_keys'] = tuple(dict.fromkeys((*keys, 'instances')))
            return pipeline
    raise ValueError(
        'the pipeline of val_dataloader has no step with meta_keys, such as PackDetInputs, by '
        'which annotations reach CocoMetric'
    )


# Types


def _is(config: Any, registry: Registry, *kinds: str | type) -> bool:
    """Whether a config builds one of these kinds. A package not yet imported has none of them."""
    found = find_type(config, registry)
    if not isinstance(found, type):
        return False
    names = [
        kind for kind in kinds if not isinstance(kind, str) or kind.partition('.')[0] in sys.modules
    ]
    wanted = (find_type(kind, registry) for kind in names)
    return any(isinstance(kind, type) and issubclass(found, kind) for kind in wanted)


def _default(config: Mapping[str, Any], registry: Registry, name: str) -> Any:
    """The default of an argument of what a config builds; None: it has no such argument."""
    kind: Callable | None = find_type(config, registry)
    parameter = None if kind is None else inspect.signature(kind).parameters.get(name)
    return None if parameter is None else parameter.default
