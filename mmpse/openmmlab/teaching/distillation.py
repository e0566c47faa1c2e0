"""Distillation: subnets learn from the scores of a teacher."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

from mmpse.errors import UserError
from mmpse.registry import MODELS
from mmpse.slim import Supernet

from .distance import divergence


class Distillation:
    """The loss that pulls subnets towards a teacher, and the teacher's scores.

    Args:
        teacher: Config of a classifier of the same classes; ``init_cfg`` (or timm's
            ``pretrained``) brings its weights. It sees the images as the supernet's own data
            preprocessor leaves them. ``None``: the fullnet, in place (US-Nets).
        weight: Share of the teacher in a subnet's loss; the rest is the label loss.
        temperature: Divides the scores of both.
    """

    def __init__(
        self,
        teacher: Mapping[str, Any] | None = None,
        weight: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        if not 0 < weight <= 1:
            raise UserError(f'distillation.weight must be in (0, 1], got {weight!r}')
        if not temperature > 0:
            raise UserError(f'distillation.temperature must be positive, got {temperature!r}')
        self.weight = weight
        self.temperature = temperature
        self.teacher: BaseModel | None = None
        if teacher is not None:
            self.teacher = MODELS.build(dict(teacher))
            self.teacher.init_weights()
            self.teacher.requires_grad_(False).eval()

    @torch.no_grad()
    def scores(self, supernet: Supernet, images: Tensor) -> Tensor:
        """The teacher's scores ``(B, classes)`` of preprocessed images ``(B, C, H, W)``."""
        if self.teacher is not None:
            return self.teacher.to(images.device)(images, mode='tensor')
        with supernet.active([supernet.space.fullnet], supernet.execution):
            return supernet.model.forward(images, mode='tensor')  # without the module's hooks

    def loss(
        self, score: Tensor, teacher_score: Tensor, label_loss: Tensor, sigmoid: bool
    ) -> Tensor:
        """Loss of one group's scores ``(B, classes)``.

        ``(1 - weight) * label_loss + weight * T**2 * KL(teacher || student)``, the mean over images
        (Hinton et al., arXiv 1503.02531). Where the classes are questions of their own (sigmoid),
        the divergence is their sum.

        Raises:
            ValueError: If the teacher has other classes.
        """
        if score.shape != teacher_score.shape:
            raise UserError(
                f'the teacher gives scores {tuple(teacher_score.shape)}, the supernet '
                f'{tuple(score.shape)}; distillation.teacher must be a classifier of the same '
                'classes'
            )
        soft = divergence(score, teacher_score, sigmoid, self.temperature).mean()
        return (1 - self.weight) * label_loss + self.weight * self.temperature**2 * soft
