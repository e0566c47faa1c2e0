"""Datasets in configs: those that have the images, in those that join, repeat or mix them."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.registry import HOOKS, DefaultScope

from mmpse.errors import UserError
from mmpse.openmmlab import compat
from mmpse.openmmlab.types import default_of, is_type
from mmpse.registry import DATASETS

REPEATING = RepeatDataset, ClassBalancedDataset
MIXING = 'mmdet.MultiImageMixDataset', 'mmseg.MultiImageMixDataset'


def build_dataset(config: Mapping[str, Any]) -> Any:
    """A dataset that is ready, and has images.

    Raises:
        UserError: If it has none.
    """
    try:
        built = DATASETS.build(copy.deepcopy(config))
        if hasattr(built, 'full_init'):
            built.full_init()
        empty = not len(built)
    except ValueError as error:
        if not compat.is_of_no_images(error):
            raise
        empty = True
    if empty:
        places = {key: config[key] for key in ('data_root', 'ann_file', 'split') if key in config}
        raise UserError(
            f'a dataset has no images: {config["type"]} of {places} has found none, or filters all '
            'of them out (filter_cfg, and classes that are not in the data: metainfo)'
        )
    return built


def batch_size_of(dataloader: Mapping[str, Any]) -> int:
    """Images of a batch, whether the dataloader says so or its batch sampler."""
    return dataloader.get('batch_size') or dataloader['batch_sampler']['batch_size']


def nested(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """A dataset's config, the first one that it holds, and so on to the innermost."""
    while isinstance(dataset, Mapping):
        yield dataset
        dataset = dataset.get('dataset') or (dataset.get('datasets') or [None])[0]


def _with_inner(config: Mapping[str, Any], change: Callable[[Mapping], Mapping]) -> dict | None:
    """A dataset that joins, repeats or mixes others, with each of them changed; None: a leaf."""
    if is_type(config, ConcatDataset, DATASETS):
        return dict(config, datasets=[change(one) for one in config['datasets']])
    if is_type(config, REPEATING, DATASETS) or is_type(config, MIXING, DATASETS):
        return dict(config, dataset=change(config['dataset']))
    return None


def replace_leaves(config: Mapping[str, Any], change: Callable[[Mapping], dict]) -> dict:
    """A dataset with each of its leaves changed, in order."""
    return _with_inner(config, partial(replace_leaves, change=change)) or change(config)


def unrepeated(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A dataset without what repeats its images."""
    if is_type(config, REPEATING, DATASETS):
        return unrepeated(config['dataset'])
    return _with_inner(config, unrepeated) or config


def folds_of(config: Mapping[str, Any]) -> list[dict[str, int | None] | None]:
    """Of each leaf, which part of its images it has (``test_mode``), or holds out; None: it is
    whole."""
    names, found = ('num_splits', 'fold', 'seed'), []

    def note(leaf: Mapping[str, Any]) -> dict:
        parted = is_type(leaf, 'mmpretrain.KFoldDataset', DATASETS)
        defaults = {name: default_of(leaf, name, DATASETS) for name in names} if parted else {}
        found.append({name: leaf.get(name, defaults[name]) for name in names} if parted else None)
        return dict(leaf)

    replace_leaves(config, note)
    return found


def with_pipeline(config: Mapping[str, Any], pipeline: list) -> dict:
    """A leaf with another pipeline."""
    if is_type(config, 'mmpretrain.KFoldDataset', DATASETS):
        return dict(config, dataset=with_pipeline(config['dataset'], pipeline))
    return dict(config, pipeline=pipeline)


def last_phase(config: Mapping[str, Any], hooks: Sequence[Mapping[str, Any]]) -> dict:
    """A dataset as it is when training ends: after the hooks that change it."""
    config = copy.deepcopy(config)
    for hook in hooks:
        if is_type(hook, 'mmdet.PipelineSwitchHook', HOOKS):
            # it sets the pipeline of the outermost dataset, and a wrapper has none
            if _with_inner(config, dict) is None:
                config = with_pipeline(config, hook['switch_pipeline'])
        elif is_type(hook, 'mmpretrain.SwitchRecipeHook', HOOKS):
            schedule = sorted(hook['schedule'], key=lambda item: item['action_epoch'])
            for item in schedule:
                if 'train_pipeline' in item:
                    change = partial(with_pipeline, pipeline=item['train_pipeline'])
                    config = replace_leaves(config, change)
        elif is_type(hook, 'mmdet.YOLOXModeSwitchHook', HOOKS):
            config['skip_type_keys'] = list(
                hook.get('skip_type_keys', default_of(hook, 'skip_type_keys', HOOKS))
            )
    return config


def all_training(cfg: Config, seed: int = 0) -> ConfigDict:
    """A dataloader of all training images, in a fixed random order.

    Each is there once, however often training repeats it. They come through the pipeline that
    training ends with (that is, without Mosaic after YOLOX's and RTMDet's switch). Augmentations
    draw from the workers' random generators, or with ``num_workers=0`` from that of the process.

    Args:
        seed: Of the order.

    Raises:
        UserError: If the config has no training data, or not as the config of a dataset.
    """
    content = cfg.to_dict()  # a copy, with the classes of new-style configs by name
    loader = content.get('train_dataloader')
    if not loader:
        raise UserError(
            'the config has no train_dataloader, but widths are chosen on training images; give '
            'the config that the model was trained by'
        )
    dataset = loader['dataset']
    if not isinstance(dataset, Mapping):
        raise UserError(
            f'train_dataloader.dataset is a {type(dataset).__name__}; give the config of a dataset'
        )
    scope = dataset.get('_scope_') or cfg.get('default_scope')
    with DefaultScope.overwrite_default_scope(scope):
        dataset = unrepeated(last_phase(dataset, content.get('custom_hooks') or []))
    # data sets are sorted by class, and BatchNorms may take the statistics of batches
    sampler = dict(type='DefaultSampler', shuffle=True, seed=seed)
    loader.pop('num_batch_per_epoch', None)
    return ConfigDict(loader, dataset=dataset, sampler=sampler)
