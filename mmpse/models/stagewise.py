"""A classifier whose subnets learn stage by stage from the fullnet (arXiv 2011.04908)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmpretrain.models import ImageClassifier
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmpse.registry import MODELS

from .stages import (
    Stage,
    distances,
    neck_features,
    run_stage,
    split_stages,
    stage_errors,
    stage_parameters,
)


@MODELS.register_module()
class StageWiseClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier``, trained as a stage-wise supernet (SP, arXiv 2011.04908).

    :class:`mmpse.SupernetHook` draws and activates the subnets as in parallel training. The fullnet
    runs on the whole batch and learns from the labels, exactly as without subnets. Each of its
    stages is then run by the subnets too, image ``i`` by subnet ``i % n``, and learns to give the
    fullnet's feature. Those features are detached on both sides: a stage's loss trains the weights
    of that stage, the label loss trains all. A stage is done with, its graph freed, before the
    fullnet goes on to the next.

    State and checkpoint keys are those of ``ImageClassifier``; without active subnets it is one.

    Args:
        *args: See ``ImageClassifier``.
        stages: Names of the parts of each stage; ``None``: the backbone's own. See
            :func:`mmpse.models.split_stages`.
        stage_weight: Weight of the stages' losses beside the label loss.
        **kwargs: See ``ImageClassifier``.

    Attributes:
        subnet_losses (Tensor | None): Each subnet's distance to the fullnet in the last batch,
            summed over the stages, ``(groups,)``.

    Raises:
        ValueError: If the stages do not split the backbone; in a forward with a float16 autocast,
            whose scaled loss the stages' gradients do not see.
    """

    def __init__(
        self,
        *args,
        stages: Sequence[Sequence[str]] | None = None,
        stage_weight: float = 1.0,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.stages = split_stages(self.backbone, stages)
        self.stage_weight = stage_weight
        self.subnet_losses: Tensor | None = None

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        """The label loss of the fullnet, and the loss of every stage.

        Args:
            inputs: Images ``(B, 3, H, W)``.
            data_samples: Their annotations.

        Returns:
            ``loss`` as the head gives it, and ``loss_STAGE``: the distance of the stage's output to
            the fullnet's, the mean over the subnets, times ``stage_weight``.
        """
        subnets, execution = self.backbone.active_subnets, self.backbone.execution
        if not subnets:
            return super().loss(inputs, data_samples)
        device = inputs.device.type
        if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
            raise ValueError(
                'stage-wise training needs float32 or bfloat16: with float16 the gradients of a '
                "stage would vanish; set optim_wrapper.dtype='bfloat16'"
            )
        losses, of_stages, x = {}, [], inputs
        with self.backbone.inactive():
            for stage in self.stages:
                start, x = x.detach(), self.backbone.forward_parts(stage.parts, x)
                target = x.detach()
                if stage.outputs is None:
                    features = neck_features(self, x)
                    losses.update(self.head.loss(features, data_samples))
                    with torch.no_grad():
                        target = self.head(features)
                with self.backbone.active(subnets, execution, stage.parts):
                    loss, of_stage = self._stage_loss(stage, start, target)
                losses[f'loss_{stage.name}'] = self.stage_weight * loss
                of_stages.append(of_stage)
        self.subnet_losses = torch.stack(of_stages).sum(0)
        return losses

    def _stage_loss(self, stage: Stage, start: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        def compute() -> tuple[Tensor, Tensor]:
            output = run_stage(self, stage, start)
            of_subnets = distances(stage_errors(self, stage, output, target))
            return of_subnets.mean(), of_subnets.detach()

        return DifferentiatedLoss.apply(compute, *stage_parameters(self, stage))


class DifferentiatedLoss(torch.autograd.Function):
    """A loss whose gradients are taken at once, so that its graph does not wait for the backward.

    What waits are the gradients, as large as the parameters. The backward hands them on, scaled, so
    that accumulation and DDP see an ordinary loss.
    """

    @staticmethod
    def forward(
        ctx, compute: Callable[[], tuple[Tensor, Tensor]], *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``compute`` returns the loss, and what is returned beside it, without a gradient."""
        with torch.enable_grad():
            loss, others = compute()
        ctx.gradients = (
            torch.autograd.grad(loss, parameters, allow_unused=True) if parameters else ()
        )
        ctx.mark_non_differentiable(others)
        return loss.detach(), others

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, _: None) -> tuple[Tensor | None, ...]:
        return None, *(None if g is None else g * grad for g in ctx.gradients)
