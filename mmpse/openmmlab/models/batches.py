"""Batches that are held: what a model gets is a copy, since models write into theirs."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.structures import BaseDataElement


def copied(tree: Any) -> Any:
    """A copy of a batch, in a tenth of ``deepcopy``'s time.

    Tensors, boxes, data samples, lists, tuples, dicts and sets are copied; whatever else is in them
    (text, masks) is shared.
    """
    if isinstance(tree, BaseDataElement):
        new = copy.copy(tree)
        vars(new).update({key: copied(value) for key, value in vars(tree).items()})
        return new
    if isinstance(tree, Mapping):
        return {key: copied(value) for key, value in tree.items()}
    if isinstance(tree, set):
        return set(tree)
    if type(tree) in (list, tuple):
        return type(tree)(map(copied, tree))
    return tree.clone() if hasattr(tree, 'clone') else tree


def nbytes(tree: Any) -> int:
    """Memory that the tensors of a batch take."""
    if torch.is_tensor(tree):
        return tree.nbytes
    if isinstance(tree, BaseDataElement):
        tree = dict(tree.items())
    if isinstance(tree, Mapping):
        return sum(map(nbytes, tree.values()))
    return sum(map(nbytes, tree)) if isinstance(tree, (list, tuple)) else 0
