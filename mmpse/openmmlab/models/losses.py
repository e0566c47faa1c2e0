"""What a model loses on batches of training images, the same images for every subnet."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, DefaultScope
from mmengine.runner import Runner
from mmpretrain.models import BaseClassifier
from torch import nn

from mmpse.errors import UserError
from mmpse.openmmlab import compat
from mmpse.openmmlab.configs.datasets import batch_size_of, build_dataset
from mmpse.openmmlab.seeding import drawn_aside
from mmpse.openmmlab.silence import silent
from mmpse.openmmlab.types import in_scope, is_type
from mmpse.registry import MODELS

# what PyTorch refuses to a dataloader without workers
OF_WORKERS = ('persistent_workers', 'prefetch_factor', 'multiprocessing_context', 'timeout')


def training_batches(
    dataloader: Mapping[str, Any], images: int, scope: str | None, seed: int = 0
) -> list[Any]:
    """The first batches of a dataloader, as many as hold ``images`` images.

    They are smaller than in training if there would be fewer than eight: their losses are compared
    pair by pair. They hold two images at least, if there are two, since BatchNorms may need them.

    Args:
        dataloader: Config of the dataloader; its sampler's order is fixed.
        seed: Of the augmentation.

    Raises:
        UserError: If its dataset has none.
    """
    config = {key: value for key, value in dataloader.items() if key not in OF_WORKERS}
    config['num_workers'] = 0
    with DefaultScope.overwrite_default_scope(scope), drawn_aside(seed):
        with silent():
            dataset = build_dataset(config['dataset'])
        there = len(dataset)
        size = max(1, min(batch_size_of(config), images // 8))
        if there < images:
            size = min(size, max(there // 8, 2), max(there, 1))
            while there % size == 1 and there > 1:
                size += 1
        if 'batch_size' in config:
            config['batch_size'] = size
        config = dict(config, dataset=dataset, drop_last=False)
        loader = Runner.build_dataloader(config, seed=seed)
        return list(itertools.islice(loader, -(-images // size)))


def images_in(batches: Iterable[Mapping[str, Any]]) -> int:
    """Images of batches that :func:`preprocessed` gives."""
    return sum(len(batch['inputs']) for batch in batches)


def one_by_one(batches: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Batches that :func:`preprocessed` gives as batches of one image."""
    return [
        {key: values[k : k + 1] for key, values in batch.items()}
        for batch in batches
        for k in range(len(batch['inputs']))
    ]


def preprocessed(model: nn.Module, batches: Sequence[Any]) -> list[dict[str, Any]]:
    """Batches as the model's forward takes them, without Mixup and the like.

    Raises:
        UserError: If images do not come as one tensor ``(B, C, H, W)``.
    """
    with unmixed(model):
        ready = [model.data_preprocessor(copy.deepcopy(batch), True) for batch in batches]
    for batch in ready:
        found = batch.get('inputs') if isinstance(batch, Mapping) else batch
        if not torch.is_tensor(found):
            raise UserError(
                f'the training images of {type(model).__name__} come as a {type(found).__name__}, '
                'not as one tensor (B, C, H, W): a model that learns from views of images, or from '
                'several sources, is pruned once it is trained on labels'
            )
    return [dict(batch) for batch in ready]


@contextmanager
def unmixed(model: nn.Module) -> Iterator[None]:
    """In a ``with`` block a model's data preprocessor leaves out Mixup and the like."""
    preprocessor = model.data_preprocessor
    augments = getattr(preprocessor, 'batch_augments', None)
    if augments is not None:
        preprocessor.batch_augments = None
    try:
        yield
    finally:
        if augments is not None:
            preprocessor.batch_augments = augments


def last_phase_(model: nn.Module, cfg: Config) -> None:
    """Let a model lose what it does when training ends: after the hooks that change its losses."""
    content = cfg.to_dict()  # with the classes of new-style configs by name
    with in_scope(cfg):
        for hook in content.get('custom_hooks') or []:
            if is_type(hook, 'mmdet.YOLOXModeSwitchHook', HOOKS):
                getattr(model, 'detector', model).bbox_head.use_l1 = True
            elif is_type(hook, 'mmpretrain.SwitchRecipeHook', HOOKS):
                schedule = sorted(hook['schedule'], key=lambda item: item['action_epoch'])
                if losses := [item['loss'] for item in schedule if 'loss' in item]:
                    owner = model if hasattr(model, 'loss_module') else model.head  # as the hook
                    owner.loss_module = MODELS.build(losses[-1])


@contextmanager
def losing(model: nn.Module) -> Iterator[None]:
    """In a ``with`` block a model in eval mode puts out what its losses take.

    Heads put out something else in training: FCOS boxes in strides, DETRs what their encoder finds.
    What draws at random or keeps statistics stays in its mode, and so do classifiers, whose losses
    take what they predict from. Afterwards the model is as it was (:func:`unchanged`).
    """
    with unchanged(model):
        if not isinstance(model, BaseClassifier):
            for module in model.modules():
                if hasattr(module, 'loss') or not (_draws(module) or _keeps_statistics(module)):
                    module.training = True
        yield


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """After a ``with`` block a model is as it was before, also where a loss keeps count (GHM,
    Seesaw, Dynamic R-CNN); parameters are left alone."""
    before = [_Noted.of(module) for module in model.modules()]
    try:
        yield
    finally:
        for noted in before:
            noted.restore()


class _Noted(NamedTuple):
    """What a module holds."""

    module: nn.Module
    attributes: dict[str, Any]
    contents: dict[str, list | dict]  # of the lists and dicts among them, as of its children
    buffers: dict[str, tuple[int, torch.Tensor]]  # their versions and values

    @classmethod
    def of(cls, module: nn.Module) -> _Noted:
        attributes = dict(vars(module))
        contents = {k: x.copy() for k, x in attributes.items() if type(x) in (list, dict)}
        buffers = {k: (x._version, x.clone()) for k, x in module._buffers.items() if x is not None}
        return cls(module, attributes, contents, buffers)

    def restore(self) -> None:
        held = vars(self.module)
        held.clear()
        held.update(self.attributes)
        for key, content in self.contents.items():
            if isinstance(content, list):
                held[key][:] = content
            else:
                held[key].clear()
                held[key].update(content)
        own = self.module._buffers
        # that of a BatchNorm's statistics stays, and its count's does not
        if any(own[key]._version != version for key, (version, _) in self.buffers.items()):
            # not written into: a backward may still read them
            own.update({key: value for key, (_, value) in self.buffers.items()})


def _draws(module: nn.Module) -> bool:
    """Whether a module drops something at random: its rate has no other name."""
    return any(
        isinstance(value, float) and value > 0 and (key == 'p' or 'drop' in key)
        for key, value in vars(module).items()
    )


def _keeps_statistics(module: nn.Module) -> bool:
    return any(buffer is not None for buffer in module._buffers.values())


def label_loss(model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
    """What a model in eval mode loses on a batch, at the end of a training.

    Nothing is dropped at random, and statistics stay as they are.

    Args:
        batch: As :func:`preprocessed` gives it.
    """
    # a copy: heads write into the samples
    data = dict(batch, data_samples=copy.deepcopy(batch['data_samples']))
    with compat.training_ends(), losing(model):
        return model.parse_losses(compat.forward_by_mode(model, data, mode='loss'))[0]


@torch.no_grad()
def batch_losses(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> torch.Tensor:
    """The label loss of each batch ``(batches,)``.

    What is drawn at random (a detector's samples) is drawn alike every time. Batches are as
    :func:`preprocessed` gives them.
    """
    losses = []
    for number, batch in enumerate(batches):
        with drawn_aside(number):
            losses.append(label_loss(model, batch).detach().cpu())
    return torch.stack(losses).double()
