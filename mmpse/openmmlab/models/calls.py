"""The calls of a model's parts in a forward, and the same calls in another model of its kind.

A detector's raw outputs come up inside its loss, and every head is called in its own way. Noting
the calls and repeating them with another model's parts gives that model's raw outputs, without a
rule for each kind of model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from mmpse.errors import UserError
from mmpse.slim.watch import exchanged, map_tensors, tensors_in

from .outputs import parts


class Call(NamedTuple):
    """A call of a part of a model."""

    part: str  # name of the part in the model
    args: tuple
    kwargs: dict[str, Any]
    output: Any


class CallError(UserError):
    """A call that cannot be repeated in another model."""


@contextmanager
def noted_calls(model: nn.Module) -> Iterator[list[Call]]:
    """Inside, the list grows by every call of a part.

    Parts call each other by ``forward`` too (mmseg's heads do), which PyTorch's hooks do not see.
    """
    calls: list[Call] = []

    def call(name: str, forward: Callable, *args, **kwargs) -> Any:
        output = forward(*args, **kwargs)
        calls.append(Call(name, args, kwargs, output))
        return output

    with ExitStack() as stack:
        for name, part in parts(model).items():
            stack.enter_context(exchanged(part, partial(call, name, part.forward)))
        yield calls


def repeat(calls: Sequence[Call], model: nn.Module) -> list[Any]:
    """What the parts of another model give in the same calls.

    What a part of the first model put out is replaced, wherever it is an argument, by what the same
    part of the other put out. Other numbers than these and the images cannot be had from the other
    model.

    Returns:
        The output of every call, or a :class:`CallError` that says why it was not repeated.
    """
    counterparts: dict[int, Tensor] = {}  # by the tensor's id: the calls keep it alive
    own = parts(model)

    def counterpart(_: int, x: Tensor) -> Tensor:
        if id(x) in counterparts:
            return counterparts[id(x)]
        if x.is_floating_point():
            raise CallError('reads numbers that are neither images nor the output of a part')
        return x  # labels

    outputs: list[Any] = []
    if calls:  # nothing was put out before the first call: it reads the images
        counterparts |= {id(x): x for x in tensors_in((calls[0].args, calls[0].kwargs))}
    for call in calls:
        try:
            if call.part not in own:
                raise CallError('is not in the teacher')
            args, kwargs = map_tensors(counterpart, (call.args, call.kwargs))
        except CallError as error:
            outputs.append(error)
            continue
        outputs.append(own[call.part].forward(*args, **kwargs))
        pair = tensors_in(call.output), tensors_in(outputs[-1])
        if len(pair[0]) == len(pair[1]):
            counterparts |= {id(x): y for x, y in zip(*pair)}
    return outputs
