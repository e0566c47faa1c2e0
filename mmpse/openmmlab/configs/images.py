"""What a config says of the images that its model is tested with."""

import copy
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from torch import nn

from mmpse.errors import is_bug
from mmpse.openmmlab.errors import ConfigError, name_of, one_line
from mmpse.openmmlab.types import in_scope
from mmpse.registry import DATASETS

from .datasets import nested


def default_input_shape(cfg: Config, model: nn.Module) -> tuple[int, int, int]:
    """Shape (C, H, W) of an image as the model gets it in tests.

    The channels are what the first layer reads. The size is that of the test pipeline: of its crop,
    padding or resize, rounded up as the data preprocessor pads; where it keeps the ratio of the
    sides, the largest. Where it leaves the size open, that of the training's crops, and last that
    of the first image of the test data.

    Raises:
        ConfigError: If nothing tells the size.
    """
    channels = channels_of(model)
    crops = (t.get('crop_size') for pipeline in _pipelines(cfg, 'train') for t in pipeline[::-1])
    size, problem = _test_size(cfg) or next((_pair(crop) for crop in crops if crop), None), ''
    if size is None:
        size, problem = _size_of_first_image(cfg)
    if size is None:
        raise ConfigError(
            f'{name_of(cfg)} does not tell the size of its images{problem}; give the input shape '
            f'{channels} HEIGHT WIDTH'
        )
    # a teacher-student model has a preprocessor in its preprocessor
    divisor = max(getattr(m, 'pad_size_divisor', None) or 1 for m in model.modules())
    height, width = (-(-side // divisor) * divisor for side in size)
    return channels, height, width


def channels_of(model: nn.Module) -> int:
    """How many channels the images of a model have: those that its first layer reads."""
    # the first layer of YOLOX reads four pixels at once
    pixels = 4 if any(type(m).__name__ == 'Focus' for m in model.modules()) else 1
    for layer in model.modules():
        if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
            return layer.weight.shape[1] * getattr(layer, 'groups', 1) // pixels
    raise ConfigError(f'{type(model).__name__} has no convolution and no linear layer')


def _pipelines(cfg: Config, *splits: str) -> Iterator[list]:
    for split in splits:
        for dataset in nested((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            if dataset.get('pipeline'):
                yield dataset['pipeline']


def _test_size(cfg: Config) -> tuple[int, int] | None:
    """(H, W) that a pipeline leaves an image with; None if it follows the image's own."""
    slide = cfg.model.get('test_cfg') or {}
    if slide.get('crop_size'):  # of a segmentor that looks through a window
        return _pair(slide['crop_size'])
    pipeline = next(_pipelines(cfg, 'test', 'val'), [])
    size = None
    for transform in pipeline:
        if transform.get('crop_size') or transform.get('size'):  # (W, H) of a crop or a padding
            size = _pair(transform.get('crop_size') or transform['size'])[::-1]
        elif transform.get('scale'):
            scale = transform['scale']
            width, height = _pair(scale)
            if transform.get('keep_ratio') and isinstance(scale, (list, tuple)):
                width, height = max(scale), min(scale)
                if width > 2 * height:  # a bound that few images reach
                    continue
            size = height, width
    return size


def _size_of_first_image(cfg: Config) -> tuple[tuple[int, int] | None, str]:
    """The size of the first image that is there, and why the last one could not be read."""
    problem = ''
    for split in ('test', 'val', 'train'):
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        if dataset is None:
            continue
        try:
            with in_scope(cfg):
                image = DATASETS.build(copy.deepcopy(dataset))[0]['inputs']
        except Exception as error:  # datasets raise whatever they do where the data is not there
            if is_bug(error):
                raise
            problem = f', and its {split} data cannot be read ({one_line(error)})'
        else:
            if hasattr(image, 'shape'):
                return tuple(image.shape[-2:]), ''
            problem = f', and its {split} data gives several images at once'
    return None, problem


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
