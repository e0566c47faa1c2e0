"""One model run many times on the same images: what a change does not reach is not run again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from .watch import exchanged, map_tensors, tensors_in


class Noted(NamedTuple):
    """A call of a module, and the version of each tensor that it put out."""

    args: tuple
    kwargs: dict[str, Any]
    output: Any
    versions: list[int]


Notes = dict[nn.Module, list[Noted]]


@contextmanager
def noted_outputs(model: nn.Module, modules: Iterable[nn.Module] | None = None) -> Iterator[Notes]:
    """Inside, the calls of modules are noted.

    The notes of all hold as much memory as the same forward takes in training. Outputs that are
    written into later, as by an activation in place, are left out when the ``with`` block ends.

    Args:
        modules: Which; by default all but the model itself.
    """
    notes: Notes = {}

    def call(module: nn.Module, forward: Callable, *args, **kwargs) -> Any:
        output = forward(*args, **kwargs)
        if _plain(output):
            # lists are copied: who reads them may change them
            notes.setdefault(module, []).append(
                Noted(*_copied((args, kwargs, output)), _versions(output))
            )
        return output

    with ExitStack() as stack:
        for module in _inner(model) if modules is None else modules:
            stack.enter_context(exchanged(module, partial(call, module, module.forward)))
        yield notes
    for module, calls in notes.items():
        notes[module] = [call for call in calls if call.versions == _versions(call.output)]


@contextmanager
def reused_outputs(
    model: nn.Module, notes: Notes, changed: Collection[nn.Module]
) -> Iterator[None]:
    """Inside, modules give what was noted where they read the very tensors that they read then.

    Args:
        notes: Of :func:`noted_outputs`, on the same images.
        changed: Layers that compute something else now.
    """
    changed = set(changed)

    def call(module: nn.Module, forward: Callable, *args, **kwargs) -> Any:
        for noted in notes[module]:
            if _same((noted.args, noted.kwargs), (args, kwargs)):
                return _copied(noted.output)
        return forward(*args, **kwargs)

    with ExitStack() as stack:
        for module in _inner(model):
            if notes.get(module) and changed.isdisjoint(module.modules()):
                stack.enter_context(exchanged(module, partial(call, module, module.forward)))
        yield


def _inner(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if module is not model]


def _copied(tree: Any) -> Any:
    """A tree of the same tensors."""
    return map_tensors(lambda _, x: x, tree)


def _versions(tree: Any) -> list[int]:
    return [x._version for x in tensors_in(tree)]


def _plain(tree: Any) -> bool:
    """Whether there are only tensors, in nested lists, tuples and dicts."""
    if isinstance(tree, Mapping):
        return all(map(_plain, tree.values()))
    if type(tree) in (list, tuple):
        return all(map(_plain, tree))
    return tree is None or torch.is_tensor(tree)


def _same(a: Any, b: Any) -> bool:
    """Whether two trees hold the same tensors and objects, and equal numbers."""
    if torch.is_tensor(a) or type(a) is not type(b):
        return a is b
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return a is b or isinstance(a, (bool, int, float, str)) and a == b
