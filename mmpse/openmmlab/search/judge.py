"""From a subnet of a trained supernet to its score."""

import contextlib
import itertools
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine import dist
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.runner import autocast
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader

from mmpse.errors import UserError
from mmpse.openmmlab import compat
from mmpse.openmmlab.models.batches import HeldBatches, nbytes
from mmpse.openmmlab.models.recalibration import recalibrate
from mmpse.openmmlab.silence import silent
from mmpse.slim import FoldablePair, Layout, as_subnet, foldable, folded

PARTS = 11  # of the images, for a standard error; no number of classes divides it


class Verdict(NamedTuple):
    """What judging a subnet gives."""

    score: float  # the metric, higher is better; -inf if it is not a number
    loss: float | None  # mean negative log-likelihood of the labels, of classifiers
    # of parts of the images, for the standard error of a difference: of classifiers mean losses,
    # of others the score, if it was asked for
    parts: tuple[float, ...] | None = None


class Judge:
    """Slice, recalibrate, evaluate: all of it in the supernet itself, which stays as it was.

    BatchNorms are folded into convolutions for the evaluation, where the first recalibration shows
    that they can be.

    Args:
        model: The supernet's model with its weights, on its device.
        calibration: Training batches for recalibration.
        metric: The metric that is the score, e.g. ``'accuracy/top1'``.
        fp16: Recalibrate and evaluate in mixed precision, as MMEngine's ``ValLoop`` does: float16
            on a GPU, bfloat16 on a CPU.
        parts: Whether to tell the score of parts of the images where there is no loss; it takes
            the metric some more times.
    """

    def __init__(
        self,
        model: BaseModel,
        layout: Layout,
        calibration: Sequence[Any],
        dataloader: DataLoader,
        evaluator: Evaluator,
        metric: str,
        fp16: bool = False,
        parts: bool = False,
    ) -> None:
        self.model = model
        self.layout = layout
        self.calibration = HeldBatches(calibration)
        lines = Path('/proc/meminfo').read_text().splitlines()
        available = int(dict(line.split(':') for line in lines)['MemAvailable'].split()[0]) << 10
        processes = int(os.environ.get('LOCAL_WORLD_SIZE', dist.get_world_size()))
        self.batches = BatchCache(dataloader, available // (2 * processes))
        self.evaluator = evaluator
        self.metric = metric
        self.fp16 = fp16
        self.parts = parts
        self.pairs: list[FoldablePair] | None = None  # once a subnet has been judged

    @torch.no_grad()
    def __call__(self, subnet: Mapping[str, int]) -> Verdict:
        """
        Raises:
            UserError: If the evaluator does not give the metric.
        """
        with as_subnet(self.model, self.layout, subnet):
            if self.pairs is None:
                self.pairs = foldable(self.model, self.recalibrate)
            else:
                self.recalibrate()
            with folded(self.pairs):
                return self.evaluate(self.model)

    def recalibrate(self) -> None:
        """Recalibrate the model as it is."""
        with autocast(enabled=self.fp16):
            recalibrate(self.model, self.calibration)

    @torch.no_grad()
    def evaluate(self, model: BaseModel) -> Verdict:
        """Judge a model as it is."""
        model.eval()
        losses: list[float] = []
        for batch in self.batches:
            with autocast(enabled=self.fp16):
                samples = model.val_step(batch)
            self.evaluator.process(data_samples=samples, data_batch=batch)
            losses.extend(label_losses(samples))
        known = len(losses) == self.batches.images and all(map(math.isfinite, losses))
        loss = math.fsum(losses) / len(losses) if known else None
        with silent(), compat.unrounded(map(type, self.evaluator.metrics)):
            if known:
                parts = [losses[k::PARTS] for k in range(min(PARTS, len(losses)))]
                means = tuple(math.fsum(part) / len(part) for part in parts)
                return Verdict(self._score(), loss, means)
            if self.parts:
                return Verdict(*self._score_of_parts())
            return Verdict(self._score(), loss)

    def _score(self) -> float:
        metrics = self.evaluator.evaluate(self.batches.images)
        if metrics and self.metric not in metrics:  # none at all: a detector found nothing
            raise UserError(
                f'the evaluator gives no metric {self.metric!r}; set train_cfg.metric to one of '
                f'{sorted(metrics)}'
            )
        score = float(metrics.get(self.metric, math.nan))
        return score if math.isfinite(score) else -math.inf

    @compat.matched_once()
    def _score_of_parts(self) -> tuple[float, None, tuple[float, ...]]:
        """The score, and what each part of the images adds to it: pseudo-values of the jackknife.

        A metric such as mAP is no mean over images: it is taken of all images but those of a part.
        MMEngine's metrics keep a result of each image in ``results``.
        """
        metrics = self.evaluator.metrics
        results = [list(metric.results) for metric in metrics]
        score = self._score()
        if not compat.takes_some_images(self.evaluator):
            return score, None, ()
        parts = min(PARTS, *map(len, results))
        values = []
        for part in range(parts):
            with contextlib.ExitStack() as stack:
                for metric, of_images in zip(metrics, results):
                    rest = [r for k, r in enumerate(of_images) if k % parts != part]
                    stack.enter_context(compat.of_some_images(metric, rest))
                values.append(parts * score - (parts - 1) * self._score())
        return score, None, tuple(values) if all(map(math.isfinite, values)) else ()


def label_losses(samples: Sequence[BaseDataElement]) -> list[float]:
    """Negative log-likelihoods of the labels of classified images.

    None unless all samples have one label (``gt_label``) and scores that are one distribution
    (``pred_score``): those of multi-label classifiers do not sum to one.
    """
    single = ('pred_score' in x and 'gt_label' in x and x.gt_label.numel() == 1 for x in samples)
    if not samples or not all(single):
        return []
    scores = torch.stack([sample.pred_score for sample in samples]).double()
    if ((scores.sum(1) - 1).abs() > 1e-2).any():  # of half precision, a little off
        return []
    labels = torch.cat([sample.gt_label for sample in samples]).to(scores.device)
    tiny = torch.finfo(torch.float32).tiny
    return scores.clamp_min(tiny).gather(1, labels[:, None]).log().neg()[:, 0].tolist()


class BatchCache:
    """The batches of a dataloader that is not shuffled, loaded and decoded once.

    As long as they fit in ``limit`` bytes they stay in memory, as :class:`HeldBatches`; beyond it
    they are loaded anew in every pass, and a warning says so.
    """

    def __init__(self, dataloader: DataLoader, limit: int) -> None:
        self.images = len(dataloader.dataset)
        self._dataloader = dataloader
        self._limit = limit
        self._batches: HeldBatches | None = None
        self._warned = False

    def __iter__(self) -> Iterator[Any]:
        if self._batches is not None:
            yield from self._batches
            return
        kept, size = HeldBatches(), 0
        for batch in self._dataloader:
            size += nbytes(batch)
            if size <= self._limit:
                kept.append(batch)
            else:
                kept.clear()
            yield batch
        if size <= self._limit:
            self._batches = kept
        elif not self._warned:
            self._warned = True
            print_log(
                f'{self.images:,} validation images take {size / 2**30:.1f} GiB decoded, more than '
                f'the {self._limit / 2**30:.1f} GiB for them (half of what was available): they '
                'are loaded anew for every subnet',
                'current',
                logging.WARNING,
            )


def calibration_batches(dataloader: DataLoader, count: int) -> list[Any]:
    """The first ``count`` batches of the training data.

    They are loaded in the process, whatever the dataloader's ``num_workers``: each worker would
    augment with random numbers of its own, and so scores would depend on how many there are.

    Raises:
        UserError: If there are fewer.
    """
    loader = DataLoader(
        dataloader.dataset,
        batch_sampler=dataloader.batch_sampler,
        collate_fn=dataloader.collate_fn,
    )
    batches = list(itertools.islice(loader, count))
    if len(batches) < count:
        raise UserError(
            f'calibration={count}, but the training data has {len(batches)} batches; '
            'choose fewer or a smaller batch size'
        )
    return batches
