"""From a subnet of a trained supernet to its score."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
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
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        state_dict: Mapping[str, torch.Tensor],
        calibration: Sequence[Any],
        dataloader: DataLoader,
        evaluator: Evaluator,
        metric: str,
    ) -> None:
        self.model = model
        self.state_dict = state_dict
        self.calibration = calibration
        self.dataloader = dataloader
        self.evaluator = evaluator
        self.metric = metric

    @torch.no_grad()
    def __call__(self, subnet: Subnet) -> float:
        """Score of a subnet, higher is better.

        Raises:
            ValueError: If the evaluator does not give the metric, or gives a score that is not a
                number.
        """
        model = MODELS.build(with_subnet(self.model, subnet))
        model.load_state_dict(self.state_dict)
        model.to(get_device())
        recalibrate(model, self.calibration)
        model.eval()
        for batch in self.dataloader:
            self.evaluator.process(data_samples=model.val_step(batch), data_batch=batch)
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        if self.metric not in metrics:
            raise ValueError(
                f'the evaluator gives no metric {self.metric!r}; set train_cfg.metric to one of '
                f'{sorted(metrics)}'
            )
        score = float(metrics[self.metric])
        if score != score:
            raise ValueError(f'{self.metric} is not a number for {subnet}; is the supernet trained?')
        return score


def calibration_batches(dataloader: DataLoader, count: int) -> list[Any]:
    """The first ``count`` batches of the training data.

    Raises:
        ValueError: If there are fewer.
    """
    batches = list(itertools.islice(dataloader, count))
    if len(batches) < count:
        raise ValueError(
            f'calibration_batches={count}, but the training data has {len(batches)} batches; '
            'choose fewer or a smaller batch size'
        )
    return batches
