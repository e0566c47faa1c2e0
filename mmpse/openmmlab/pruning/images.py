"""The training images that a pruning looks at: some to fit layers to, others to judge by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models import BaseClassifier
from torch import Tensor

from mmpse.openmmlab.configs.datasets import all_training, build_dataset
from mmpse.openmmlab.models.losses import images_in, one_by_one, preprocessed, training_batches
from mmpse.openmmlab.silence import silent
from mmpse.openmmlab.types import in_scope

from .subject import Subject

FIT_PIXELS = 2**21  # of the images to fit to; there are as many to judge by
MAP_PIXELS = 2**17  # of those to measure the sensitivity on

Batches = list[dict[str, Any]]


class TrainingImages:
    """Images of the config's training set: those that layers are fitted to do not judge.

    The seed is that of their order and augmentation.
    """

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject = subject
        self.seed = seed

    @cached_property
    def loader(self) -> Mapping[str, Any]:
        """The dataloader that the images come from."""
        with silent():
            return all_training(self.subject.cfg, self.seed)

    @cached_property
    def total(self) -> int:
        """Images of the whole training set."""
        with in_scope(self.subject.cfg), silent():
            return len(build_dataset(self.loader['dataset']))

    @cached_property
    def batches(self) -> list[Any]:
        """All of them, as the dataloader gives them."""
        count = 2 * max(self._holding(FIT_PIXELS), 64)
        return training_batches(self.loader, count, self.subject.scope, self.seed)

    @property
    def fit(self) -> Batches:
        """Batches that layers are fitted to, and channels are sorted by."""
        return self._parts[0]

    @property
    def judging(self) -> Batches:
        """Batches that candidates are judged on."""
        return self._parts[1]

    @property
    def few(self) -> Batches:
        """Those of :attr:`fit` that the sensitivity is measured on."""
        least = min(max(self.total // 100, 4), 8)  # training on few images is soon done
        return first_images(self._holding(MAP_PIXELS, least), self.fit)

    def _holding(self, pixels: int, least: int = 8) -> int:
        """How many images have so many pixels: ``least`` to 64, or 8 times that of a classifier."""
        # there one image is one loss, and of a detector it is hundreds
        factor = 8 if isinstance(self.subject.model, BaseClassifier) else 1
        height, width = self.subject.input_shape[1:]
        return min(max(pixels // (height * width), least * factor), 64 * factor)

    @cached_property
    def _parts(self) -> tuple[Batches, Batches]:
        ready = preprocessed(self.subject.model, self.batches)
        there = images_in(ready)
        if len(ready) == 1:
            ready = one_by_one(ready)
        few = min(self._holding(FIT_PIXELS), max(there // 2, 1))
        few = -(-few * len(ready) // images_in(ready))  # batches that hold so many
        fit, judging = ready[:few], ready[few:] or ready
        # of few images, the more parts, the better is it known what is chance
        return fit, one_by_one(judging) if there < 128 else judging


def first_images(images: int, batches: Batches) -> Batches:
    """Batches with so many images, the first ones of these."""
    found = []
    for batch in batches:
        taken = {key: values[:images] for key, values in batch.items()}
        found.append(taken)
        images -= len(taken['inputs'])
        if images <= 0:
            break
    return found


def together(batches: Sequence[Tensor]) -> Tensor:
    """Batches of images as one, padded with zeros to the size of the largest."""
    height, width = (max(batch.shape[dim] for batch in batches) for dim in (2, 3))
    return torch.cat([F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2])) for x in batches])
