"""From a subnet to the distances of its stages from the fullnet's."""

from collections.abc import Mapping, Sequence

import torch
from mmengine.runner import autocast
from torch import Tensor

from mmpse.slim import Supernet

from .stages import Stages, distance


class StageJudge:
    """Distances of the stages of subnets to the fullnet's.

    Args:
        stages: The stages of a classifier with its weights.
        supernet: Its supernet, with the stages' parts.
        images: Batches of preprocessed images ``(B, C, H, W)``.
        fp16: Run in mixed precision; see :class:`mmpse.openmmlab.search.judge.Judge`.
    """

    def __init__(
        self, stages: Stages, supernet: Supernet, images: Sequence[Tensor], fp16: bool = False
    ) -> None:
        self.stages = stages
        self.supernet = supernet
        self.images = images
        self.fp16 = fp16
        self._execution = 'sliced' if 'sliced' in supernet.executions else 'masked'
        self.targets = [self._features(x) for x in self.images]

    @torch.no_grad()
    def __call__(self, subnet: Mapping[str, int]) -> tuple[float, ...]:
        """The distance of each stage of a subnet; ``inf`` where it is not a number."""
        total: list[Tensor] = []
        with self.supernet.active([subnet], self._execution):
            for x, targets in zip(self.images, self.targets):
                self._normalise_by_batch()
                with autocast(enabled=self.fp16):
                    errors = self.stages.errors(self.supernet, x, targets)
                total = [a + b.double() for a, b in zip(total or [0] * len(errors), errors)]
        found = torch.cat([distance(errors) for errors in total])
        return tuple(found.nan_to_num(torch.inf, torch.inf).tolist())

    @torch.no_grad()
    def _features(self, images: Tensor) -> list[Tensor]:
        """The fullnet's features at the ends, and its scores."""
        found: list[Tensor] = []
        with self.supernet.active([self.supernet.space.fullnet], self._execution):
            self._normalise_by_batch()
            with autocast(enabled=self.fp16), self.stages.at_ends(found.append):
                scores = self.stages.scores(images)
        return [*found, scores]

    def _normalise_by_batch(self) -> None:
        """As in training: in these modes of the model."""
        self.stages.model.eval()
        for norm in self.supernet.norms:
            norm.train()
