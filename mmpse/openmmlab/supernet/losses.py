"""The losses of the subnets that share a model's forward, and what a teacher makes of them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmpse.errors import UserError
from mmpse.openmmlab.teaching.distance import is_sigmoid
from mmpse.openmmlab.teaching.distillation import Distillation
from mmpse.slim import Supernet


class SubnetLosses:
    """Listens to the loss of a classifier while subnets are active in it.

    It takes the label loss of every subnet apart, and with a teacher it replaces the loss.

    Args:
        model: The model. Only classifiers have a loss that can be split, their
            ``head.loss_module``, called with scores and targets ``(B, ...)``.
        n: Subnets of an iteration.
        serial: Whether they run one after the other.
        fullnet: Whether the first of them is the fullnet.

    Raises:
        ValueError: If there is a distillation but no loss for it.
    """

    def __init__(
        self,
        model: nn.Module,
        supernet: Supernet,
        distillation: Distillation | None,
        n: int,
        serial: bool,
        fullnet: bool,
    ) -> None:
        self.model = model
        self.supernet = supernet
        self.distillation = distillation
        self.n = n
        self.serial = serial
        in_place = distillation is not None and distillation.teacher is None
        # the fullnet teaches the others: it learns from the labels alone
        self._first_learns_alone = in_place and fullnet
        # and where it runs before them, its own scores are the teacher's
        self._first_is_teacher = in_place and serial
        loss_module = getattr(getattr(model, 'head', None), 'loss_module', None)
        self.of_classifier = loss_module is not None  # then there is a loss to listen to
        if distillation is not None and not self.of_classifier:
            raise UserError(
                f'{type(model).__name__} has no head.loss_module whose loss distillation could '
                'replace; set distillation=None or use a classifier'
            )
        self._sigmoid: bool | None = None
        self._handles = []
        if self.of_classifier:
            self._handles.append(loss_module.register_forward_hook(self._on_loss, with_kwargs=True))
        if distillation is not None:
            self._handles.append(model.register_forward_pre_hook(self._on_images, with_kwargs=True))
        self.begin()

    def begin(self) -> None:
        """Forget the losses of the last iteration."""
        self._losses: list[Tensor] = []
        self._teacher_score: Tensor | None = None

    def of_subnets(self) -> Tensor | None:
        """The label losses of the iteration's subnets in their order, ``(n,)``, if known.

        Of a head that has several scores of an image (Conformer), the mean of their losses.
        """
        if not self._losses:
            return None
        losses = torch.stack(self._losses).float()
        n = self.n
        return (losses.view(n, -1).T if self.serial else losses.view(-1, n)).mean(0)

    def close(self) -> None:
        """Listen no more."""
        for handle in self._handles:
            handle.remove()

    def _on_images(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Before a forward of the model: the teacher's scores of the same images."""
        if self.supernet.active_subnets and self._teacher_score is None:
            if not self._first_is_teacher:
                images = args[0] if args else kwargs['inputs']
                self._teacher_score = self.distillation.scores(self.supernet, images)

    def _on_loss(self, module: nn.Module, args: tuple, kwargs: dict, loss: Tensor) -> Tensor | None:
        """After the head's loss: the label loss of every group; the loss with a teacher."""
        groups = len(self.supernet.active_subnets)
        if not module.training or not groups:
            return None
        score, target, *_ = args
        first = len(self._losses)
        with torch.set_grad_enabled(self.distillation is not None):
            losses = [  # module.forward: without this hook
                module.forward(
                    score[g::groups], target[g::groups], **_of_group(kwargs, g, groups, len(score))
                )
                for g in range(groups)
            ]
        self._losses += [loss.detach() for loss in losses]
        if self.distillation is None:
            return None
        if self._sigmoid is None:
            self._sigmoid = is_sigmoid(module, score.shape[1])
        for g in range(groups):
            if not (self._first_learns_alone and first + g == 0):
                teacher_score = self._teacher_score[g::groups]
                losses[g] = self.distillation.loss(
                    score[g::groups], teacher_score, losses[g], self._sigmoid
                )
        if self._teacher_score is None:
            self._teacher_score = score.detach()
        return torch.stack(losses).mean()


def _of_group(kwargs: Mapping[str, Any], group: int, groups: int, images: int) -> dict[str, Any]:
    """What a head that saw one group's images alone would give its loss besides the scores."""
    own = {
        key: value[group::groups]
        if torch.is_tensor(value) and value.shape[:1] == (images,)
        else value
        for key, value in kwargs.items()
    }
    if own.get('avg_factor') is not None:
        own['avg_factor'] = own['avg_factor'] / groups
    return own
