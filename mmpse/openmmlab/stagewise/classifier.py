"""A classifier whose subnets learn stage by stage from the fullnet (arXiv 2011.04908)."""

from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.models import ImageClassifier
from torch import Tensor

from mmpse.registry import MODELS
from mmpse.slim import Supernet

from .stages import Stages, distance


@MODELS.register_module()
class StageWiseClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier``, trained as a stage-wise supernet (SP, arXiv 2011.04908).

    :class:`mmpse.SupernetHook` draws and activates the subnets. The fullnet runs on the whole batch
    and learns from the labels, exactly as without subnets. Then the subnets run, image ``i``
    through subnet ``i % n``: each of their stages starts from the fullnet's feature, and learns to
    give the fullnet's next one. Those features are detached on both sides.

    State and checkpoint keys are those of ``ImageClassifier``; without active subnets it is one.

    Args:
        stages: Modules of the backbone behind which a stage ends, see
            :class:`mmpse.openmmlab.stagewise.stages.Stages`.
        stage_weight: Weight of the stages' losses beside the label loss.
        *args, **kwargs: See ``ImageClassifier``.

    Raises:
        ValueError: If the stages are none; in a forward, if an end is not passed once.
    """

    def __init__(
        self, *args, stages: Sequence[str] | None = None, stage_weight: float = 1.0, **kwargs
    ) -> None:
        super().__init__(*args, **kwargs)
        self.stages = Stages(self, stages)
        self.stage_weight = stage_weight
        self.supernet: Supernet | None = None  # of this model; the hook sets it
        # each subnet's distance to the fullnet in the last batch, summed over the stages, (groups,)
        self.subnet_losses: Tensor | None = None

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        """The label loss of the fullnet, and the loss of every stage, of images ``(B, 3, H, W)``.

        Returns:
            ``loss`` as the head gives it, and ``loss_STAGE``: the distance of the stage's output to
            the fullnet's, the mean over the subnets, times ``stage_weight``.
        """
        if self.supernet is None or not self.supernet.active_subnets:
            return super().loss(inputs, data_samples)
        targets: list[Tensor] = []
        with self.supernet.inactive():
            with self.stages.at_ends(lambda y: targets.append(y.detach())):
                features = self.extract_feat(inputs)
            losses = self.head.loss(features, data_samples)
            with torch.no_grad():
                targets.append(self.head(features))
        of_stages = [*map(distance, self.stages.errors(self.supernet, inputs, targets))]
        for name, of_stage in zip(self.stages.names, of_stages, strict=True):
            losses[f'loss_{name}'] = self.stage_weight * of_stage.mean()
        self.subnet_losses = torch.stack(of_stages).detach().sum(0)
        return losses
