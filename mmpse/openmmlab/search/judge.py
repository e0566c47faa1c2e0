"""From a subnet of a trained supernet to its score."""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine import dist
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import autocast
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader

from mmpse.models import with_subnet
from mmpse.openmmlab import compat
from mmpse.openmmlab.models.recalibration import recalibrate
from mmpse.openmmlab.supernet.batches import HeldBatches, nbytes
from mmpse.registry import MODELS
from mmpse.space import Subnet


class Verdict(NamedTuple):
    """What judging a subnet gives."""

    score: float  # the metric, higher is better; -inf if it is not a number
    loss: float | None  # mean negative log-likelihood of the labels, where samples have scores


class Judge:
    """Slice, recalibrate, evaluate.

    Args:
        model: Config of the supernet's model.
        state_dict: Weights of the supernet's model.
        calibration: Training batches for recalibration.
        dataloader: Data of the held-out split.
        evaluator: The config's evaluator.
        metric: The metric that is the score, e.g. ``'accuracy/top1'``.
        memory_format: Memory layout of the judged models.
        fp16: Recalibrate and evaluate in mixed precision, as MMEngine's ``ValLoop`` does: float16
            on a GPU, bfloat16 on a CPU.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        state_dict: Mapping[str, torch.Tensor],
        calibration: Sequence[Any],
        dataloader: DataLoader,
        evaluator: Evaluator,
        metric: str,
        memory_format: torch.memory_format = torch.contiguous_format,
        fp16: bool = False,
    ) -> None:
        self.model = model
        self.state_dict = state_dict
        self.calibration = HeldBatches(calibration)
        processes = int(os.environ.get('LOCAL_WORLD_SIZE', dist.get_world_size()))
        memory = available_memory() // (2 * processes)
        self.batches = BatchCache(dataloader, memory)
        self.evaluator = evaluator
        self.metric = metric
        self.memory_format = memory_format
        self.fp16 = fp16

    @torch.no_grad()
    def __call__(self, subnet: Subnet) -> Verdict:
        """Judge a subnet.

        Raises:
            ValueError: If the evaluator does not give the metric.
        """
        model = self.slice(subnet)
        with autocast(enabled=self.fp16):
            recalibrate(model, self.calibration)
        return self.evaluate(model)

    def slice(self, subnet: Subnet) -> torch.nn.Module:
        """The subnet's static model with the supernet's weights."""
        model = MODELS.build(with_subnet(self.model, subnet))
        model = revert_sync_batchnorm(model)
        model.load_state_dict(self.state_dict)
        return model.to(get_device(), memory_format=self.memory_format)

    @torch.no_grad()
    def evaluate(self, model: torch.nn.Module) -> Verdict:
        """Judge a static model as it is; see :meth:`__call__`."""
        model.eval()
        losses: list[float] = []
        for batch in self.batches:
            with autocast(enabled=self.fp16):
                samples = model.val_step(batch)
            self.evaluator.process(data_samples=samples, data_batch=batch)
            losses.extend(label_losses(samples))
        loss = math.fsum(losses) / len(losses) if losses else math.nan
        return Verdict(self._score(), loss if math.isfinite(loss) else None)

    def _score(self) -> float:
        with compat.unrounded(map(type, self.evaluator.metrics)):
            metrics = self.evaluator.evaluate(self.batches.images)
        if metrics and self.metric not in metrics:  # none at all: a detector found nothing
            raise ValueError(
                f'the evaluator gives no metric {self.metric!r}; set train_cfg.metric to one of '
                f'{sorted(metrics)}'
            )
        score = float(metrics.get(self.metric, math.nan))
        return score if math.isfinite(score) else -math.inf


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


def available_memory() -> int:
    """Bytes of memory that are available: free, or given up by the system's caches."""
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        values = dict(line.split(':') for line in lines)
        return int(values['MemAvailable'].split()[0]) << 10
    except (OSError, KeyError):  # not Linux
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2


def calibration_batches(dataloader: DataLoader, count: int) -> list[Any]:
    """The first ``count`` batches of the training data.

    Raises:
        ValueError: If there are fewer.
    """
    batches = list(itertools.islice(dataloader, count))
    if len(batches) < count:
        raise ValueError(
            f'calibration={count}, but the training data has {len(batches)} batches; '
            'choose fewer or a smaller batch size'
        )
    return batches
