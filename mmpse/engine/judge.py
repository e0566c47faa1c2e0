"""From a subnet of a trained supernet to its score."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader

from mmpse.evaluation import recalibrate
from mmpse.models import with_subnet
from mmpse.registry import MODELS
from mmpse.space import Subnet


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
    def __call__(self, subnet: Subnet) -> float:
        """Score of a subnet, higher is better.

        Raises:
            ValueError: If the evaluator does not give the metric, or gives a score that is not a
                number.
        """
        model = MODELS.build(with_subnet(self.model, subnet))
        model.load_state_dict(self.state_dict)
        model.to(get_device(), memory_format=self.memory_format)
        recalibrate(model, self.calibration)
        model.eval()
        for batch in self.batches:
            self.evaluator.process(data_samples=model.val_step(batch), data_batch=batch)
        metrics = self.evaluator.evaluate(len(self.batches.dataset))
        if self.metric not in metrics:
            raise ValueError(
                f'the evaluator gives no metric {self.metric!r}; set train_cfg.metric to one of '
                f'{sorted(metrics)}'
            )
        score = float(metrics[self.metric])
        if score != score:
            raise ValueError(
                f'{self.metric} is not a number for {subnet}; is the supernet trained?'
            )
        return score


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
