"""What each subnet of a shared batch lost, in a model of any kind."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmpse.errors import is_bug
from mmpse.openmmlab import compat
from mmpse.openmmlab.errors import one_line
from mmpse.openmmlab.models.batches import copied
from mmpse.openmmlab.models.calls import Call, noted_calls
from mmpse.openmmlab.models.losses import unchanged
from mmpse.openmmlab.seeding import drawn_aside
from mmpse.slim import Supernet
from mmpse.slim.watch import exchanged, map_tensors

EVERY = 2  # iterations; such a one of a small RetinaNet takes 1.16 of the time of a plain one


class GroupLosses:
    """What the subnets of a model lose, whatever its losses are: each on its own images alone.

    After the forward of a training step the model computes its losses again for the images of each
    group, without gradients. The parts that subnets run through put out what they gave for these
    images, and compute nothing. So it takes the assignment of labels and the sums once more, but no
    forward. Heads of regions, which no subnet narrows, do compute again, with regions drawn anew.

    Args:
        model: The model, not wrapped.
    """

    def __init__(self, model: nn.Module, supernet: Supernet) -> None:
        self.model = model
        self.supernet = supernet
        self._warned = False
        self.begin()

    def begin(self) -> None:
        """Forget the losses of the last iteration."""
        self._losses: list[Tensor] = []

    def of_subnets(self) -> Tensor | None:
        """The losses of the iteration's subnets in their order, ``(n,)``, if it is one of those.

        NaN where the model's own code fails on the images of one group.
        """
        return torch.stack(self._losses).float() if self._losses else None

    @contextmanager
    def listening(self, iteration: int) -> Iterator[None]:
        """Inside, the loss of each active subnet is kept when a batch passes the model, in every
        second iteration."""
        if iteration % EVERY:
            yield
            return
        batch: list[tuple[tuple, dict[str, Any]]] = []

        def keep(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            samples = {key: _unwritten(value) for key, value in kwargs.items()}
            batch[:] = [(tuple(map(_unwritten, args)), samples)]

        def measure(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            noted, calls[:] = list(calls), []
            if kwargs.get('mode') != 'loss':
                return
            if len(self.supernet.active_subnets) == 1:  # it was alone
                self._losses.append(self.model.parse_losses(output)[0].detach())
                return
            own = batch.pop()
            for g in range(len(self.supernet.active_subnets)):
                self._losses.append(self._loss(g, *own, noted))

        with (
            noted_calls(self.model) as calls,
            self.model.register_forward_pre_hook(keep, with_kwargs=True),
            self.model.register_forward_hook(measure, with_kwargs=True),
        ):
            yield

    @torch.no_grad()
    def _loss(
        self, group: int, args: tuple, kwargs: Mapping[str, Any], calls: Sequence[Call]
    ) -> Tensor:
        groups = len(self.supernet.active_subnets)
        images = args[0] if args else kwargs['inputs']

        def own(x: Any) -> Any:
            """What a value has of the group, if it has something of each image."""
            if torch.is_tensor(x) and x.dim() and len(x) == len(images):
                return x[group::groups].contiguous()  # RoIAlign takes it for that
            if isinstance(x, (list, tuple)) and len(x) == len(images):
                return x[group::groups]
            return x

        with ExitStack() as stack:
            stack.enter_context(drawn_aside())
            stack.enter_context(compat.alone())
            stack.enter_context(unchanged(self.model))
            for name, part in self.supernet.parts.items():
                given = [call.output for call in calls if call.part == name]
                outputs = (map_tensors(lambda _, y: own(y), output) for output in given)
                stack.enter_context(exchanged(part.module, partial(_next_of, outputs)))
            try:  # by the class's forward: without hooks, and not compiled
                output = type(self.model).forward(
                    self.model, *map(own, args), **{key: own(x) for key, x in kwargs.items()}
                )
            except Exception as error:  # whatever a head raises at few images
                if is_bug(error):
                    raise
                self._warn(error)
                return torch.tensor(torch.nan, device=images.device)
            return self.model.parse_losses(output)[0]

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            print_log(
                f'SupernetHook: the losses of {type(self.model).__name__} fail on the images of '
                f'one subnet ({type(error).__name__}: {one_line(error)}); such losses are left '
                'out of the record of the search',
                'current',
                logging.WARNING,
            )


def _next_of(outputs: Iterator[Any], *args: Any, **kwargs: Any) -> Any:
    return next(outputs)


def _unwritten(value: Any) -> Any:
    """A copy of samples, which heads write into."""
    return value if torch.is_tensor(value) else copied(value)
