"""How far a classifier's scores are from a teacher's, in the form that its loss gives them."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmpse.errors import UserError


def is_sigmoid(loss: nn.Module, classes: int) -> bool:
    """Whether a loss takes every class for a question of its own (sigmoid), not one of all.

    A softmax does not see the level of its scores, so that the gradients of a loss on top of it sum
    to zero over the classes. This is tried out, whatever the loss is called.

    Args:
        loss: A head's ``loss_module``, called with scores ``(B, classes)`` and targets, either of
            the same shape or indices ``(B,)``.
        classes: The number of classes.

    Raises:
        ValueError: If the loss takes neither.
    """
    device = next(itertools.chain(loss.parameters(), loss.buffers()), torch.empty(0)).device
    levels = torch.linspace(0, 1, classes, device=device)[None]
    one_hot = F.one_hot(torch.zeros(1, dtype=torch.long, device=device), classes).float()
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    for target in (one_hot, one_hot.argmax(1)):
        scores = levels.clone().requires_grad_()
        try:
            with torch.enable_grad():
                value = loss.forward(scores, target).sum()  # without the module's hooks
            gradient = torch.autograd.grad(value, scores)[0]
        except Exception as error:  # whatever the loss raises at a target that it does not take
            problem = error
            continue
        finally:
            loss.load_state_dict(state)  # some count the labels that they saw
        return bool(gradient.sum().abs() > 1e-3 * gradient.abs().sum())
    raise UserError(
        f'{type(loss).__name__} takes neither targets (B, {classes}) nor indices (B,), so that it '
        f'is not known how its scores are to be compared with a teacher ({problem}); use a loss of '
        'mmpretrain, or train without a teacher'
    ) from problem


def divergence(score: Tensor, teacher: Tensor, sigmoid: bool, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of the scores of every image from the teacher's.

    Args:
        score, teacher: ``(B, classes)``, before sigmoid or softmax.
        sigmoid: Whether a class is a distribution of its own, yes or no: the divergence is the sum
            over the classes. Otherwise they are one distribution.
        temperature: Divides the scores of both.

    Returns:
        ``(B,)``, not negative.
    """
    dtype = torch.promote_types(score.dtype, torch.float32)
    score, teacher = score.to(dtype) / temperature, teacher.to(dtype) / temperature
    if sigmoid:
        probability = teacher.sigmoid()
        cross, own = (
            F.binary_cross_entropy_with_logits(x, probability, reduction='none')
            for x in (score, teacher)
        )
        return (cross - own).sum(1)
    return F.kl_div(
        score.log_softmax(1), teacher.log_softmax(1), reduction='none', log_target=True
    ).sum(1)
