"""The learning rate of a fine-tuning."""

from __future__ import annotations

import math
from typing import Any

from mmengine.optim import OptimWrapper, _ParamScheduler
from torch.optim import Optimizer

from mmpse.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_ParamScheduler):
    """One warm-up and one cosine to zero.

    At time t the rate is ``lr * min(1, (t + 1) / warmup) * (1 + cos(pi t / total)) / 2``, where
    ``lr`` is that of the optimizer's config. It is computed from t alone, so that a warm-up shorter
    than a step is none (MMEngine's ``LinearLR`` keeps the rate low for ever then).

    Args:
        total: Length of the schedule: epochs, or iterations with ``by_epoch=False``.
        warmup: Length of the warm-up, in the same unit.
        **kwargs: ``by_epoch`` and the like, see ``mmengine.optim._ParamScheduler``. With
            ``convert_to_iter_based=True`` the rate changes at every iteration.
    """

    def __init__(
        self,
        optimizer: Optimizer | OptimWrapper,
        total: float,
        warmup: float = 0,
        **kwargs: Any,
    ) -> None:
        self.total = total
        self.warmup = warmup
        super().__init__(optimizer, 'lr', **kwargs)

    @classmethod
    def build_iter_from_epoch(
        cls,
        optimizer: Optimizer | OptimWrapper,
        total: float,
        epoch_length: int,
        warmup: float = 0,
        by_epoch: bool = True,
        **kwargs: Any,
    ) -> WarmupCosineLR:
        """The same schedule in iterations; MMEngine calls this for ``convert_to_iter_based``."""
        for key in kwargs.keys() & {'begin', 'end'}:
            kwargs[key] *= epoch_length
        lengths = (length * epoch_length for length in (total, warmup))
        return cls(optimizer, *lengths, by_epoch=False, **kwargs)

    def _get_value(self) -> list[float]:
        t = min(self.last_step, self.total)
        factor = (1 + math.cos(math.pi * t / self.total)) / 2
        if t + 1 < self.warmup:
            factor *= (t + 1) / self.warmup
        return [value * factor for value in self.base_values]
