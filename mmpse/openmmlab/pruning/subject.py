"""A user's trained model, and what pruning needs to know of it."""

from __future__ import annotations

import fnmatch
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.device import get_device
from mmengine.registry import DATA_SAMPLERS
from torch import Tensor, nn

from mmpse.openmmlab.checkpoints.loading import Report, check_whole, load_weights
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.datasets import batch_size_of, build_dataset
from mmpse.openmmlab.configs.evaluation import evaluate
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.configs.images import default_input_shape
from mmpse.openmmlab.errors import listed, name_of
from mmpse.openmmlab.models.losses import last_phase_
from mmpse.openmmlab.progress import progress
from mmpse.openmmlab.silence import silent
from mmpse.openmmlab.supernet.building import look_at, whole_costs
from mmpse.openmmlab.types import in_scope, is_type
from mmpse.registry import DATASETS
from mmpse.slim.layout import Layout
from mmpse.space import Cost, SearchSpace, Subnet

from .steps import PruneError

RATIOS = (0.125, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass
class Subject:
    """A trained model and its units."""

    cfg: Config
    model: nn.Module  # full-width, with its weights, in eval mode
    weights: Report  # what the checkpoint gave to it
    layout: Layout
    space: SearchSpace
    costs: dict[str, Cost]  # resource -> cost of any subnet of the whole model
    input_shape: tuple[int, int, int]  # (C, H, W) of the image that FLOPs are counted for
    images: Tensor  # the small image that the units were found on, (1, C, H, W)

    @property
    def scope(self) -> str:
        """The default scope of the config."""
        return self.cfg.get('default_scope') or 'mmengine'

    @property
    def counted(self) -> str:
        """What FLOPs and latency are those of, in words."""
        shape = ' '.join(map(str, self.input_shape))
        if (self.cfg.model.get('test_cfg') or {}).get('mode') == 'slide':
            # the shape may be that of a whole image, if it was asked for
            if tuple(self.input_shape) == default_input_shape(self.cfg, self.model):
                return f'one window of {shape} (test_cfg.mode=slide: an image has several)'
        return f'one image of {shape}'

    def cost_of(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Resources of one subnet."""
        row = self.space.array([widths])
        return {name: int(cost(row)[0]) for name, cost in self.costs.items()}

    def subnet(self, widths: Sequence[int], **source: Any) -> Subnet:
        """A subnet with what it costs and where it came from."""
        subnet = self.space.subnet(widths)
        resources = dict(self.cost_of(subnet), input_shape=list(self.input_shape))
        return self.space.subnet(widths, resources=resources, source=source)


def examine(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | Mapping[str, Any] | None,
    input_shape: Sequence[int] | None = None,
    divisor: int = 8,
    grids: Mapping[str, Mapping[str, Any]] | None = None,
    show: bool = False,
    keep: Sequence[str] = (),
) -> Subject:
    """Build a model from its config, load its weights, and find its units.

    Args:
        config: Any config of a classifier, detector or segmentor.
        checkpoint: Its trained weights, all of them; ``None`` leaves them random.
        input_shape, divisor, grids, keep: As of :func:`mmpse.prune`.
        show: Whether to show progress.

    Raises:
        ConfigError, CheckpointError: If the config or the checkpoint cannot be used.
        UserError: If the model cannot be watched, or nothing of it can be pruned.
        PruneError: If no unit is of a pattern, or an input shape is none.
    """
    if input_shape and (len(input_shape) != 3 or min(input_shape) < 1):
        raise PruneError(
            f'input_shape (--input-shape) is {tuple(input_shape)}, expected channels, height and '
            'width of an image'
        )
    cfg = load_config(config)
    model = build_model(cfg)
    last_phase_(model, cfg)
    model.eval()  # not chained: train() of some models returns nothing
    weights = Report('nowhere', 0, (), (), (), None)
    if checkpoint is not None:
        weights = load_weights(model, checkpoint)
        check_whole(model, weights, f'the {type(model).__name__} of {name_of(cfg)}')
    shape = input_shape or default_input_shape(cfg, model)
    track = progress('finding units') if show else iter
    layout, images, shape = look_at(model, cfg, shape, track)
    for pattern in keep:
        if not fnmatch.filter(layout.units, pattern):
            raise PruneError(
                f'keep (--keep): {pattern!r} matches no unit; `mmpse units CONFIG` lists them, the '
                f'first ones are {listed(layout.units)}'
            )
    grids = {**(grids or {}), **{pattern: dict(ratios=[1.0]) for pattern in keep}}
    space = layout.space(RATIOS, divisor, grids, model=type(model).__name__)
    costs = whole_costs(model, layout, space, shape)
    images = images.to(get_device())
    return Subject(cfg, model.to(get_device()), weights, layout, space, costs, shape, images)


def dataset_meta(subject: Subject) -> dict[str, Any] | None:
    """The classes and colours of the data: of the checkpoint, else of the validation data."""
    if subject.weights.dataset_meta is not None:
        return subject.weights.dataset_meta
    loader = subject.cfg.get('val_dataloader') or subject.cfg.get('train_dataloader')
    if loader is None:
        return None
    with in_scope(subject.cfg), silent():
        return dict(DATASETS.build(loader['dataset']).metainfo)


def validates(cfg: Config) -> bool:
    """Whether a config says how to validate."""
    return bool(cfg.get('val_dataloader') and cfg.get('val_evaluator'))


def check_training_set(cfg: Config) -> None:
    """
    Raises:
        PruneError: If the training set is smaller than a batch, and ``drop_last`` leaves that out.
    """
    loader = cfg.train_dataloader
    with in_scope(cfg):
        with silent():
            images, size = len(build_dataset(loader['dataset'])), batch_size_of(loader)
        endless = is_type(loader.get('sampler'), InfiniteSampler, DATA_SAMPLERS)
    drops = loader.get('drop_last') or (loader.get('batch_sampler') or {}).get('drop_last')
    if drops and images < size and not endless:
        raise PruneError(
            f'the training set has {images} images, fewer than a batch of {size}, and drop_last '
            'leaves that out: nothing would be trained; give train_dataloader a smaller '
            'batch_size, or drop_last=False'
        )


def metrics_of(subject: Subject, model: nn.Module) -> dict[str, float | None]:
    """The metrics of a model on the config's validation split; none if it does not validate.

    Raises:
        ConfigError: If its evaluator cannot be built.
    """
    if not validates(subject.cfg):
        return {}
    return numbers_of(evaluate(model, subject.cfg, track=progress('validating')))


def is_hopeless(metrics: Mapping[str, float | None], model: nn.Module) -> str:
    """The metric, as text, that tells that a model is no better than guessing; empty if none does.

    Of a model that detects nothing there are no metrics.
    """
    classes = (getattr(module, 'num_classes', None) for module in model.modules())
    chance = 100 / next((n for n in classes if isinstance(n, int) and n > 0), 100)
    for key, value in metrics.items():
        name = key.rpartition('/')[2]
        lowest = 0.01 if name.endswith('mAP') else 1.1 * chance if name in ('top1', 'mIoU') else -1
        if value is not None and value < lowest:
            return f'{key} {value:.3g}'
    return '' if metrics else 'no metric'


def numbers_of(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The metrics that are numbers; some of a user's are tensors of one value.

    ``None``: not a number, as the precision of a class that the data does not have.
    """
    found = {}
    for name, value in metrics.items():
        with suppress(TypeError, ValueError, RuntimeError):  # a text, a list, a larger tensor
            number = float(value)
            found[name] = number if math.isfinite(number) else None
    return found
