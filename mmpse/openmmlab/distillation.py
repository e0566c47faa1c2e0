"""A teacher for any model of OpenMMLab: the model that it was cut from."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.hub import get_config
from mmengine.logging import print_log
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import Tensor, nn

from mmpse.models.warm_start import load_public, read_checkpoint
from mmpse.registry import HOOKS, MODELS

from .calls import Call, CallError, noted_calls, parts, repeat, tensors
from .scores import divergence, is_sigmoid


@HOOKS.register_module()
class DistillationHook(Hook):
    """Teaches a model by another one, in training only: a pruned model by what it was cut from.

    In every ``every``-th iteration the teacher sees the images that the model saw, and
    ``loss_distill`` joins the model's losses: how far the model's raw outputs, which its own
    forward gave, are from the teacher's.

    * Classifiers: ``KL(teacher || model)`` of the scores, by softmax or sigmoid as in the head's
      loss.
    * Detectors, segmentors: :func:`output_distance` of the heads' outputs on whole images (the RPN
      of a two-stage detector) and of the neck's, where it has the teacher's channels: which of them
      a narrower neck kept is not known here.

    What is compared and what is not is said in one line of the log. The teacher is in no
    checkpoint, and validation and test do not know it. The images are preprocessed once, by the
    model.

    Args:
        teacher: The teacher's config: a file, a name such as ``'mmdet::...'``, or the config of a
            model.
        checkpoint: Its weights, all of them; see :func:`mmpse.models.load_public`.
        every: A teacher's forward costs about a third of a training step. It is saved in all but
            every ``every``-th iteration, whose ``loss_distill`` is ``every`` times as large.
        weight: Of the distillation beside the model's own losses.

    Raises:
        ValueError: Before the first iteration, if the checkpoint does not fit the teacher, or the
            teacher's images are normalised otherwise. In it, if the outputs of the two cannot be
            compared.

    Examples:
        >>> custom_hooks = [
        ...     dict(
        ...         type='mmpse.DistillationHook',
        ...         teacher='my_retinanet.py',
        ...         checkpoint='epoch_12.pth',
        ...     )
        ... ]
    """

    def __init__(
        self,
        teacher: str | Mapping[str, Any],
        checkpoint: str,
        every: int = 2,
        weight: float = 1.0,
    ) -> None:
        if not isinstance(every, int) or every < 1:
            raise ValueError(f'every must be a positive whole number of iterations, got {every!r}')
        if not weight > 0:
            raise ValueError(f'weight must be positive, got {weight!r}')
        self.teacher_cfg = teacher
        self.checkpoint = checkpoint
        self.every = every
        self.weight = weight

    def before_train(self, runner: Runner) -> None:
        model = runner.model
        self.model = model.module if is_model_wrapper(model) else model
        self.teaching = Teaching(self.model, self.teacher_cfg, self.checkpoint, 'DistillationHook')
        self.teacher = self.teaching.teacher
        self._listening = ExitStack()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        if runner.iter % self.every == 0:
            # listening ends with the iteration: nobody copies, saves or tests a model with it
            self._listening.enter_context(self.teaching.joining(self.weight * self.every))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        self._listening.close()

    def after_train(self, runner: Runner) -> None:
        del self.model, self.teacher, self.teaching


class Teaching:
    """A frozen model, and how far the raw outputs of another one are from its own.

    Args:
        student: The other model, not wrapped.
        config, checkpoint: See :class:`DistillationHook`.
        who: For messages, what uses the teacher.

    Attributes:
        teacher: The frozen model.
        predictions: Distance of what the student predicts from in its last forward while it was
            taught, for every image ``(images,)``.

    Raises:
        ValueError: If the checkpoint does not fit, or its images are normalised otherwise.
    """

    def __init__(
        self, student: nn.Module, config: str | Mapping[str, Any], checkpoint: str, who: str
    ) -> None:
        self.student = student
        self.who = who
        # training draws the same random numbers as without a teacher
        with torch.random.fork_rng(devices=[]):
            self.teacher = build_teacher(config, checkpoint)
        check_normalisation(student, self.teacher, who)
        self.teacher.to(next(student.parameters()).device)
        self.predictions: Tensor | None = None
        self._sigmoid: dict[str, bool] = {}
        self._told = False

    @contextmanager
    def joining(self, factor: float) -> Iterator[None]:
        """In a ``with`` block ``loss_distill`` joins the losses of the student.

        Args:
            factor: What the distance is multiplied by.
        """

        def join(
            module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any
        ) -> dict[str, Any] | None:
            noted, calls[:] = list(calls), []
            if kwargs.get('mode') != 'loss':
                return None
            return {**output, 'loss_distill': factor * self._loss(noted)}

        with noted_calls(self.student) as calls:
            handle = self.student.register_forward_hook(join, with_kwargs=True)
            try:
                yield
            finally:
                handle.remove()

    def _loss(self, calls: Sequence[Call]) -> Tensor:
        with torch.no_grad():
            taught = repeat(calls, self.teacher)
        outputs = {call.part: (call.output, other) for call, other in zip(calls, taught)}
        features = 'neck' if 'neck' in outputs else 'backbone'
        terms, left_out = {}, {}
        for part, (output, other) in outputs.items():
            if part in ('backbone', 'neck') or not _has_gradient(output):
                continue
            if part.startswith('auxiliary_head'):
                left_out[part] = 'does not predict'
            elif isinstance(other, CallError):
                left_out[part] = str(other)
            else:
                terms[part] = self._head_term(part, output, other)
        if terms:
            self.predictions = torch.stack(list(terms.values())).mean(0).detach()
        output, other = outputs.get(features, (None, None))
        classifier = bool(self._sigmoid)
        if not classifier and _has_gradient(output):
            problem = str(other) if isinstance(other, CallError) else _difference(output, other)
            if problem:
                left_out[features] = problem
            else:
                terms[features] = output_distance(output, other)
        if not self._told:
            self._told = True
            self._tell(terms, left_out, outputs)
        return torch.stack([term.mean() for term in terms.values()]).mean()

    def _head_term(self, part: str, output: Any, other: Any) -> Tensor:
        problem = _difference(output, other)
        if problem:
            raise ValueError(
                f'{self.who}: {part} cannot be compared with the teacher: {problem}; give the '
                'model that this one was cut from, of the same classes'
            )
        loss = getattr(parts(self.student)[part], 'loss_module', None)
        if loss is None or not torch.is_tensor(output) or output.dim() != 2:
            return output_distance(output, other)
        if part not in self._sigmoid:
            self._sigmoid[part] = is_sigmoid(loss, output.shape[1])
        return divergence(output, other, self._sigmoid[part])

    def _tell(self, terms: Mapping[str, Any], left_out: dict[str, str], outputs: Mapping) -> None:
        """Say once what is compared, and what is not."""
        for name, part in parts(self.student).items():
            if name not in outputs and next(part.parameters(), None) is not None:
                left_out[name] = 'is not called on whole images'
        but = '; '.join(f'{part} {why}' for part, why in left_out.items())
        if not terms:
            raise ValueError(
                f'{self.who}: nothing of this {type(self.student).__name__} can be compared with '
                f'the teacher: {but or "it has no head that puts out tensors"}; train it without '
                'a teacher'
            )
        how = {True: ' (sigmoid)', False: ' (softmax)', None: ''}
        names = ', '.join(part + how[self._sigmoid.get(part)] for part in terms)
        print_log(
            f'{self.who}: the teacher is compared in {names}' + (f'; left out: {but}' * bool(but)),
            logger='current',
        )


def build_teacher(teacher: str | Mapping[str, Any], checkpoint: str) -> BaseModel:
    """A frozen model with the weights of a checkpoint, whose parts give what they do in training.

    Args:
        teacher, checkpoint: See :class:`DistillationHook`.

    Raises:
        ValueError: If the checkpoint does not fit.
    """
    scope = None
    if isinstance(teacher, str):
        cfg = get_config(teacher) if '::' in teacher else Config.fromfile(teacher)
        scope, config = cfg.get('default_scope'), cfg.model
        if 'data_preprocessor' in cfg:  # the runner hands it to the model
            config.setdefault('data_preprocessor', cfg.data_preprocessor)
    else:
        config = ConfigDict(copy.deepcopy(teacher))  # detectors read theirs by attributes
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(config)
    load_public(model, read_checkpoint(checkpoint), checkpoint)
    model.requires_grad_(False).eval()
    for part in parts(model).values():
        # by this flag some heads choose what they put out (FCOS scales its boxes); the layers in
        # them, normalisation and dropout, stay in evaluation
        part.training = next(part.children(), None) is not None
    return model


def check_normalisation(model: nn.Module, teacher: nn.Module, who: str) -> None:
    """Raise an error if two models' preprocessors normalise images differently."""
    for key in ('mean', 'std'):
        own, other = (getattr(m.data_preprocessor, key, None) for m in (model, teacher))
        if torch.is_tensor(own) and torch.is_tensor(other) and own.tolist() != other.tolist():
            raise ValueError(
                f'{who}: the data preprocessors of the model and of the teacher have {key}='
                f'{own.flatten().tolist()} and {other.flatten().tolist()}, but the teacher '
                "sees the model's images; give a teacher of the same data_preprocessor"
            )


def output_distance(outputs: Any, teacher_outputs: Any) -> Tensor:
    """How far the raw outputs of a model are from a teacher's, for every image.

    The mean squared difference, as a share of the teacher's variance in the batch: 0 for the
    teacher itself, about 1 for a model that gives the teacher's mean wherever it is asked. Levels
    of a pyramid (tensors of one list, with equally many channels) are measured together, level by
    level with equal weight; the distance is the mean over such groups, for instance over the
    classes and the boxes of a detector.

    Args:
        outputs: Nested lists, tuples and dicts of tensors ``(images, ...)``.
        teacher_outputs: The same of the teacher.

    Returns:
        ``(images,)``, differentiable in ``outputs``.

    Raises:
        ValueError: If the two differ in structure or shapes.
    """
    problem = _difference(outputs, teacher_outputs)
    if problem:
        raise ValueError(f'outputs cannot be compared: {problem}')
    counterparts = dict(zip(map(id, tensors(outputs)), tensors(teacher_outputs)))
    distances = []
    for levels in _pyramids(outputs):
        pairs = [(_single(x), _single(counterparts[id(x)])) for x in levels]
        errors = [(x - y).square().reshape(len(x), -1).mean(1) for x, y in pairs]
        variance = sum(y.var(correction=0) for _, y in pairs)
        distances.append(sum(errors) / variance.clamp_min(torch.finfo(variance.dtype).tiny))
    return torch.stack(distances).mean(0)


def _single(x: Tensor) -> Tensor:
    """In single precision at least: sums of half floats overflow."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _pyramids(tree: Any) -> list[list[Tensor]]:
    """The tensors of a tree; those of one list that have as many channels stand together."""
    if torch.is_tensor(tree):
        return [[tree]]
    items = tree.values() if isinstance(tree, Mapping) else tree
    pyramids: dict[Any, list[Tensor]] = defaultdict(list)
    found = []
    for key, item in enumerate(items):
        if torch.is_tensor(item):
            pyramids[key if isinstance(tree, Mapping) else item.shape[1:2]].append(item)
        elif isinstance(item, (Mapping, list, tuple)):
            found += _pyramids(item)
    return [*pyramids.values(), *found]


def _difference(outputs: Any, teacher_outputs: Any) -> str:
    """Why two outputs cannot be compared, in words; empty if they can."""
    shapes = [[tuple(x.shape) for x in tensors(tree)] for tree in (outputs, teacher_outputs)]
    if not shapes[0]:
        return 'there are no tensors'
    if len(shapes[0]) != len(shapes[1]):
        return f"{len(shapes[0])} tensors, the teacher's are {len(shapes[1])}"
    for own, other in zip(*shapes):
        if own != other:
            return f"a tensor is {own}, the teacher's {other}"
    if len({shape[:1] for shape in shapes[0]}) > 1:
        return f'the first dimension of {shapes[0]} is not the images in all'
    return ''


def _has_gradient(outputs: Any) -> bool:
    return any(x.requires_grad for x in tensors(outputs))
