"""A teacher for any model of OpenMMLab: the model that it was cut from."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import Tensor, nn

from mmpse.errors import UserError
from mmpse.openmmlab.checkpoints.loading import check_whole, load_weights
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.jobs import model_of
from mmpse.openmmlab.models.calls import Call, CallError, noted_calls, repeat
from mmpse.openmmlab.models.outputs import parts
from mmpse.registry import HOOKS
from mmpse.slim.watch import map_tensors, tensors_in

from .distance import difference, head_distance, output_distance


@HOOKS.register_module()
class DistillationHook(Hook):
    """Teaches a model by another one, in training only: a pruned model by what it was cut from.

    In every ``every``-th iteration the teacher sees the images that the model saw, as the model
    preprocessed them, and ``loss_distill`` joins the model's losses: how far the model's raw
    outputs, which its own forward gave, are from the teacher's. It is the mean over the heads
    (:func:`head_distance`) and the neck of a detector or segmentor (:func:`output_distance`). Left
    out are heads that see regions, which are not the teacher's, and a neck of fewer channels: which
    of them it kept is not known here. One line of the log says what is compared.

    The teacher is in no checkpoint, and validation and test do not know it.

    Args:
        teacher: The teacher's config: a file, a name such as ``'mmdet::...'``, or the config of a
            model.
        checkpoint: Its weights, all of them; see
            :func:`mmpse.openmmlab.checkpoints.loading.load_weights`.
        every: A teacher's forward costs about a third of a training step. It is saved in all but
            every ``every``-th iteration, whose ``loss_distill`` is ``every`` times as large.
        weight: Of the distillation beside the model's own losses.

    Raises:
        ValueError: Before the first iteration, if the checkpoint does not fit the teacher, or the
            teacher's images are normalised otherwise. In it, if the outputs of the two cannot be
            compared.
    """

    def __init__(
        self, teacher: str | Mapping[str, Any], checkpoint: str, every: int = 2, weight: float = 1.0
    ) -> None:
        if not isinstance(every, int) or every < 1:
            raise UserError(f'every must be a positive whole number of iterations, got {every!r}')
        if not weight > 0:
            raise UserError(f'weight must be positive, got {weight!r}')
        self.how = teacher, checkpoint, every, weight

    def before_train(self, runner: Runner) -> None:
        self.teaching = Teaching('DistillationHook', model_of(runner), *self.how)
        self._listening = ExitStack()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        # listening ends with the iteration: nobody copies, saves or tests a model with it
        self._listening.enter_context(self.teaching.joining(runner.iter))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        self._listening.close()

    def after_train(self, runner: Runner) -> None:
        del self.teaching


class Teaching:
    """A frozen model, and how far the raw outputs of another one are from its own.

    Args:
        who: For messages, what uses the teacher.
        student: The other model, not wrapped.

    Raises:
        ValueError: If the checkpoint does not fit, or its images are normalised otherwise.
    """

    def __init__(
        self,
        who: str,
        student: nn.Module,
        teacher: str | Mapping[str, Any],
        checkpoint: str,
        every: int = 2,
        weight: float = 1.0,
    ) -> None:
        self.who = who
        self.student = student
        self.every = every
        self.weight = weight
        # training draws the same random numbers as without a teacher
        with torch.random.fork_rng(devices=[]):
            self.teacher = build_teacher(teacher, checkpoint)
        for key in ('mean', 'std'):
            own, other = (getattr(m.data_preprocessor, key, None) for m in (student, self.teacher))
            if torch.is_tensor(own) and torch.is_tensor(other) and own.tolist() != other.tolist():
                raise UserError(
                    f'{who}: the data preprocessors of the model and of the teacher have {key}='
                    f'{own.flatten().tolist()} and {other.flatten().tolist()}, but the teacher '
                    "sees the model's images; give a teacher of the same data_preprocessor"
                )
        self.teacher.to(next(student.parameters()).device)
        # distances of the heads' outputs in the last iteration, (groups,), if it was taught
        self.of_groups: Tensor | None = None
        self._form: dict[str, str] = {}  # of each part, in words
        self._told = False

    @contextmanager
    def joining(self, iteration: int, groups: int = 0) -> Iterator[None]:
        """In a ``with`` block ``loss_distill`` joins the student's losses, if it is its turn.

        Args:
            groups: Image ``i`` is of group ``i % groups``; each is measured too.
        """
        self.of_groups = None
        if iteration % self.every:
            yield
            return
        factor = self.weight * self.every

        def join(
            module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any
        ) -> dict[str, Any] | None:
            noted, calls[:] = list(calls), []
            if kwargs.get('mode') != 'loss':
                return None
            return {**output, 'loss_distill': factor * self._loss(noted, groups)}

        with (
            noted_calls(self.student) as calls,
            self.student.register_forward_hook(join, with_kwargs=True),
        ):
            yield

    def _loss(self, calls: Sequence[Call], groups: int) -> Tensor:
        with torch.no_grad():
            taught = repeat(calls, self.teacher)
        outputs = {call.part: (call.output, other) for call, other in zip(calls, taught)}
        features = 'neck' if 'neck' in outputs else 'backbone'
        terms, of_groups, left_out = {}, [], {}
        for part, (output, other) in outputs.items():
            if part in ('backbone', 'neck') or not _has_gradient(output):
                continue
            if part.startswith('auxiliary_head'):
                left_out[part] = 'does not predict'
            elif isinstance(other, CallError):
                left_out[part] = str(other)
            else:
                terms[part] = self._head_term(part, output, other)
                of_groups.append(self._of_groups(part, output, other, groups))
        self.of_groups = torch.stack(of_groups).mean(0) if of_groups else None
        output, other = outputs.get(features, (None, None))
        classifier = hasattr(getattr(self.student, 'head', None), 'loss_module')
        if not classifier and _has_gradient(output):
            problem = str(other) if isinstance(other, CallError) else difference(output, other)
            if problem:
                left_out[features] = problem
            else:
                terms[features] = output_distance(output, other).mean()
                self._form[features] = 'raw outputs'
        if not self._told:
            self._told = True
            self._tell(terms, left_out, outputs)
        return torch.stack(list(terms.values())).mean()

    def _head_term(self, part: str, output: Any, other: Any) -> Tensor:
        problem = difference(output, other)
        if problem:
            raise UserError(
                f'{self.who}: {part} cannot be compared with the teacher: it {problem}; give the '
                'model that this one was cut from, of the same classes'
            )
        distance, self._form[part] = head_distance(parts(self.student)[part], output, other)
        return distance

    @torch.no_grad()
    def _of_groups(self, part: str, output: Any, other: Any, groups: int) -> Tensor:
        head, distances = parts(self.student)[part], []
        for g in range(groups):
            pair = map_tensors(lambda _, x, g=g: x[g::groups], (output, other))
            distances.append(head_distance(head, *pair)[0])
        return torch.stack(distances).float() if groups else torch.empty(0)

    def _tell(self, terms: Mapping[str, Any], left_out: dict[str, str], outputs: Mapping) -> None:
        """Say once what is compared, and what is not."""
        for name, part in parts(self.student).items():
            if name not in outputs and next(part.parameters(), None) is not None:
                left_out[name] = 'is not called on whole images'
        but = '; '.join(f'{part} {why}' for part, why in left_out.items())
        if not terms:
            raise UserError(
                f'{self.who}: nothing of this {type(self.student).__name__} can be compared with '
                f'the teacher: {but or "it has no head that puts out tensors"}; train it without '
                'a teacher'
            )
        names = ', '.join(f'{part} ({self._form[part]})' for part in terms)
        print_log(
            f'{self.who}: the teacher is compared in {names}' + (f'; left out: {but}' * bool(but)),
            logger='current',
        )


def teacher_of(config: str | os.PathLike | Config) -> str | dict[str, Any]:
    """A config as the teacher of a ``mmpse.DistillationHook``: its name, or what model it builds.

    A Config may have been changed since its file was read.
    """
    if isinstance(config, Config):
        content = config.to_dict()
        shared = content.get('data_preprocessor')
        return {**({} if shared is None else dict(data_preprocessor=shared)), **content['model']}
    name = os.fspath(config)
    return os.path.abspath(name) if os.path.exists(name) else name


def build_teacher(teacher: str | Mapping[str, Any], checkpoint: str) -> BaseModel:
    """A frozen model with the weights of a checkpoint, whose parts give what they do in training.

    Raises:
        ConfigError, CheckpointError: If the config cannot be used, or the checkpoint does not fit.
    """
    if isinstance(teacher, str):
        cfg = load_config(teacher)
    else:  # in the scope of the model that it teaches
        scope = DefaultScope.get_current_instance()
        cfg = Config(dict(model=teacher, default_scope=scope and scope.scope_name))
    model = build_model(cfg)
    check_whole(model, load_weights(model, checkpoint), f'the teacher, a {type(model).__name__}')
    model.requires_grad_(False).eval()
    for part in parts(model).values():
        # by this flag some heads choose what they put out (FCOS scales its boxes); the layers in
        # them, normalisation and dropout, stay in evaluation
        part.training = next(part.children(), None) is not None
    return model


def _has_gradient(outputs: Any) -> bool:
    return any(x.requires_grad for x in tensors_in(outputs))
