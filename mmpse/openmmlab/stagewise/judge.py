"""From a subnet of a stage to its distance from the fullnet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from mmengine.runner import autocast
from mmpretrain.models import ImageClassifier
from torch.nn.modules.batchnorm import _BatchNorm

from mmpse.models import Stage, distances, run_stage, stage_errors
from mmpse.space import Subnet


class StageJudge:
    """Distances of stages' subnets to the fullnet.

    Args:
        model: A supernet with its weights.
        images: Batches of preprocessed images ``(B, C, H, W)``.
        fp16: Run the stages in mixed precision; see :class:`Judge`.
    """

    def __init__(
        self, model: ImageClassifier, images: Sequence[torch.Tensor], fp16: bool = False
    ) -> None:
        self.model = model
        self.fp16 = fp16
        self.backbone = model.backbone
        self._targets = list(images)
        # sliced execution has no place for gradient checkpointing, which nothing needs here
        checkpointing = getattr(self.backbone, 'with_cp', False)
        self._execution = 'masked' if checkpointing else 'sliced'
        self.backbone.train()  # with norm_eval or frozen stages, not all of it is
        norms = [m for m in self.backbone.modules() if isinstance(m, _BatchNorm) and m.training]
        model.eval()
        for norm in norms:
            norm.train()

    @torch.no_grad()
    def enter(self, stage: Stage) -> None:
        """Go on to the next stage, from the fullnet's output of the one before."""
        self.stage = stage
        self._inputs = self._targets
        with self._active(self.backbone.search_space.fullnet):
            self._targets = [self._run(x) for x in self._inputs]

    @torch.no_grad()
    def __call__(self, subnet: Subnet) -> float:
        """The distance of a subnet of the stage; ``inf`` if it is not a number."""
        errors = 0
        with self._active(subnet):
            for x, target in zip(self._inputs, self._targets):
                output = self._run(x)
                errors = errors + stage_errors(self.model, self.stage, output, target).double()
        distance = distances(errors).item()
        return distance if math.isfinite(distance) else math.inf

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        with autocast(enabled=self.fp16):
            return run_stage(self.model, self.stage, x)

    def _active(self, subnet: Subnet) -> AbstractContextManager:
        return self.backbone.active([subnet], self._execution, self.stage.parts)
