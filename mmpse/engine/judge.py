"""From a subnet of a trained supernet to its score."""

from __future__ import annotations

import copy
import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader

from mmpse.evaluation import recalibrate
from mmpse.models import with_subnet
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
    ) -> None:
        self.model = model
        self.state_dict = state_dict
        self.calibration = calibration
        self.batches = BatchCache(dataloader)
        self.evaluator = evaluator
        self.metric = metric
        self.memory_format = memory_format

    @torch.no_grad()
    def __call__(self, subnet: Subnet) -> Verdict:
        """Judge a subnet.

        Raises:
            ValueError: If the evaluator does not give the metric.
        """
        model = self.slice(subnet)
        recalibrate(model, self.calibration)
        return self.evaluate(model)

    def slice(self, subnet: Subnet) -> torch.nn.Module:
        """The subnet's static model with the supernet's weights."""
        # mmdet's heads read their test_cfg by attributes
        model = MODELS.build(ConfigDict(with_subnet(self.model, subnet)))
        model = revert_sync_batchnorm(model)
        model.load_state_dict(self.state_dict)
        return model.to(get_device(), memory_format=self.memory_format)

    @torch.no_grad()
    def evaluate(self, model: torch.nn.Module) -> Verdict:
        """Judge a static model as it is."""
        model.eval()
        losses: list[float] = []
        for batch in self.batches:
            samples = model.val_step(batch)
            self.evaluator.process(data_samples=samples, data_batch=batch)
            losses.extend(label_losses(samples))
        with unrounded(self.evaluator):
            metrics = self.evaluator.evaluate(len(self.batches.dataset))
        if metrics and self.metric not in metrics:  # none at all: a detector found nothing
            raise ValueError(
                f'the evaluator gives no metric {self.metric!r}; set train_cfg.metric to one of '
                f'{sorted(metrics)}'
            )
        score = float(metrics.get(self.metric, math.nan))
        loss = math.fsum(losses) / len(losses) if losses else math.nan
        return Verdict(
            score if math.isfinite(score) else -math.inf, loss if math.isfinite(loss) else None
        )


def label_losses(samples: Sequence[BaseDataElement]) -> list[float]:
    """Negative log-likelihoods of the labels of classified images.

    None for samples without scores of single-label classes (``pred_score`` and ``gt_label``).
    """
    pairs = [
        (sample.pred_score, sample.gt_label)
        for sample in samples
        if 'pred_score' in sample and 'gt_label' in sample and sample.gt_label.numel() == 1
    ]
    if not pairs:
        return []
    scores = torch.stack([score for score, _ in pairs]).double()
    labels = torch.cat([label for _, label in pairs]).to(scores.device)
    tiny = torch.finfo(torch.float32).tiny
    return scores.clamp_min(tiny).gather(1, labels[:, None]).log().neg()[:, 0].tolist()


@contextmanager
def unrounded(evaluator: Evaluator) -> Iterator[None]:
    """Inside, stock metrics give their figures in full precision.

    mmdet's round theirs to three decimals with the builtin ``round``, so that detectors of
    different quality tie.
    """
    kinds = {kind for metric in evaluator.metrics for kind in type(metric).__mro__}
    names = {kind.__module__ for kind in kinds if issubclass(kind, BaseMetric)}
    modules = [sys.modules[name] for name in names if not hasattr(sys.modules[name], 'round')]
    for module in modules:
        module.round = lambda value, digits=None: round(value) if digits is None else value
    try:
        yield
    finally:
        for module in modules:
            del module.round


class BatchCache:
    """The batches of a dataloader that is not shuffled, loaded and decoded once.

    As long as they fit in ``limit`` bytes they stay in memory; beyond it they are loaded anew in
    every pass. Each pass gets copies, since models write into the samples of a batch.
    """

    def __init__(self, dataloader: DataLoader, limit: int = 4 << 30) -> None:
        self.dataset = dataloader.dataset
        self._dataloader = dataloader
        self._limit = limit
        self._batches: list[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        if self._batches is not None:
            yield from map(copy.deepcopy, self._batches)
            return
        kept, size = [], 0
        for batch in self._dataloader:
            size += nbytes(batch)
            if size <= self._limit:
                kept.append(copy.deepcopy(batch))
            yield batch
        if size <= self._limit:
            self._batches = kept


def nbytes(batch: Any) -> int:
    """Memory of the tensors in a batch (nested lists, dicts and data elements)."""
    if isinstance(batch, torch.Tensor):
        return batch.nbytes
    if isinstance(batch, BaseDataElement):
        batch = dict(batch.items())
    if isinstance(batch, Mapping):
        return sum(map(nbytes, batch.values()))
    if isinstance(batch, (list, tuple)):
        return sum(map(nbytes, batch))
    return 0


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
