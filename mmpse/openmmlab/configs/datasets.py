"""Datasets in configs: those that have the images, in those that join, repeat or mix them."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.registry import HOOKS

from mmpse.errors import UserError
from mmpse.openmmlab import compat
from mmpse.openmmlab.types import default_of, is_kind, is_type
from mmpse.registry import DATASETS


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
    built = build_leaf(dataset)
    if len(built) != of:
        raise UserError(
            f'{len(images)} images were chosen when the {type(built).__name__} had {of}; now it '
            f'has {len(built)}: bring the old data back, or hold images out anew'
        )
    built.get_subset_(sorted(set(range(of)) - set(images)) if rest else list(images))
    return built


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


def build_leaf(config: Mapping[str, Any]) -> BaseDataset:
    """A dataset that can be cut to a subset in place."""
    built = build_dataset(config)
    if is_kind(config, 'mmpretrain.KFoldDataset', DATASETS):
        built = built.dataset  # its fold
    if not hasattr(built, 'get_subset_') or not hasattr(built, 'get_data_info'):
        raise UserError(
            f'images cannot be held out of a {type(built).__name__}, which has no get_subset_ and '
            'get_data_info; derive it from mmengine.dataset.BaseDataset'
        )
    return built


def batch_size_of(dataloader: Mapping[str, Any]) -> int:
    """Images of a batch, whether the dataloader says so or its batch sampler."""
    return dataloader.get('batch_size') or dataloader['batch_sampler']['batch_size']


def leaves_of(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The datasets inside a dataset that have the images, in order."""
    if is_type(config, ConcatDataset, DATASETS):
        for dataset in config['datasets']:
            yield from leaves_of(dataset)
    elif _is_wrapper(config):
        yield from leaves_of(config['dataset'])
    else:
        yield config


def replace_leaves(config: Mapping[str, Any], change: Callable[[Mapping], dict]) -> dict:
    """A dataset with each of its leaves changed, in order."""
    if is_type(config, ConcatDataset, DATASETS):
        return dict(config, datasets=[replace_leaves(one, change) for one in config['datasets']])
    if _is_wrapper(config):
        return dict(config, dataset=replace_leaves(config['dataset'], change))
    return change(config)


def unrepeated(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A dataset without what repeats its images."""
    if is_type(config, ConcatDataset, DATASETS):
        return dict(config, datasets=[unrepeated(one) for one in config['datasets']])
    if is_type(config, (RepeatDataset, ClassBalancedDataset), DATASETS):
        return unrepeated(config['dataset'])
    if _is_wrapper(config):
        return dict(config, dataset=unrepeated(config['dataset']))
    return config


def _is_wrapper(config: Mapping[str, Any]) -> bool:
    """Whether a dataset has the images of another one, repeated or mixed."""
    mix = ('mmdet.MultiImageMixDataset', 'mmseg.MultiImageMixDataset')
    repeated = is_type(config, (RepeatDataset, ClassBalancedDataset), DATASETS)
    return repeated or is_kind(config, mix, DATASETS)


def pipeline_of(config: Mapping[str, Any]) -> list:
    """The pipeline of a leaf."""
    return pipeline_of(config['dataset']) if _is_fold(config) else config.get('pipeline', [])


def with_pipeline(config: Mapping[str, Any], pipeline: list) -> dict:
    """A leaf with another pipeline."""
    if _is_fold(config):
        return dict(config, dataset=with_pipeline(config['dataset'], pipeline))
    return dict(config, pipeline=pipeline)


def _is_fold(config: Mapping[str, Any]) -> bool:
    return is_kind(config, 'mmpretrain.KFoldDataset', DATASETS)


def last_phase(config: Mapping[str, Any], hooks: Sequence[Mapping[str, Any]]) -> dict:
    """A dataset as it is when training ends: after the hooks that change it."""
    config = copy.deepcopy(config)
    for hook in hooks:
        if is_kind(hook, 'mmdet.PipelineSwitchHook', HOOKS):
            # it sets the pipeline of the outermost dataset, and a wrapper has none
            if next(leaves_of(config)) is config:
                config = with_pipeline(config, hook['switch_pipeline'])
        elif is_kind(hook, 'mmpretrain.SwitchRecipeHook', HOOKS):
            schedule = sorted(hook['schedule'], key=lambda item: item['action_epoch'])
            for item in schedule:
                if 'train_pipeline' in item:
                    change = partial(with_pipeline, pipeline=item['train_pipeline'])
                    config = replace_leaves(config, change)
        elif is_kind(hook, 'mmdet.YOLOXModeSwitchHook', HOOKS):
            config['skip_type_keys'] = list(
                hook.get('skip_type_keys', default_of(hook, 'skip_type_keys', HOOKS))
            )
    return config
