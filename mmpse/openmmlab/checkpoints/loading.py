"""Any checkpoint of a model, whatever wrote it, into that model; and a report of what it filled."""

import copy
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmpse.openmmlab.errors import CheckpointError, listed, one_line
from mmpse.slim import Layout, cut_

from .content import dataset_meta_in, weights_in
from .files import read_checkpoint
from .matching import collapsed, find_match
from .supernet import of_supernet


@dataclass(frozen=True)
class Report:
    """What a checkpoint gave to a model; as text, one line."""

    source: str
    tensors: int  # of the model's, that it filled
    random: tuple[str, ...]  # modules and tensors that it did not fill
    unused: tuple[str, ...]  # what of it the model has no place for
    notes: tuple[str, ...]  # what else is to be known, such as the layout of the names
    dataset_meta: dict[str, Any] | None  # classes and palette, if it has them
    differing: tuple[str, ...] = ()  # tensors of another shape, with both shapes

    def __str__(self) -> str:
        said = [f'{self.tensors} tensors from {self.source}', *self.notes]
        if self.random:
            said.append(f'at random start {listed(self.random)}')
        if self.unused:
            said.append(f'without a place are {listed(self.unused)}')
        return '; '.join(said)


def load_weights(
    model: nn.Module,
    checkpoint: str | os.PathLike | Mapping[str, Any],
    source: str | None = None,
    optional: Collection[str] = (),
) -> Report:
    """Give a model the weights of a checkpoint of it, or of its backbone.

    The checkpoint may be of mmengine, torchvision, timm or Lightning, the state dict alone, or a
    model saved as a whole; with the names of the model, of torchvision or timm, behind any prefix
    that fits in one way (``module.``, ``model.``, ``_orig_mod.``, ``student.``). The whole backbone
    (without one the whole model) must be in it. Another part, such as a neck or a head, is taken if
    it is the same one; of a head for other classes all but the layers of another shape.

    Args:
        model: The model; if it has no weights in the checkpoint, a part stays as it is.
        checkpoint: Its path, URL or name, as :func:`read_checkpoint` takes it, or its content.
        source: What errors and the report call it, if it is the content.
        optional: Layers of the backbone that need not be in it.

    Raises:
        CheckpointError: If it cannot be read, holds no weights, is another model's (the message
            lists what is missing, left over and of another shape), or holds the model twice.
    """
    if not isinstance(checkpoint, Mapping):
        source = source or os.fspath(checkpoint)
        checkpoint = read_checkpoint(checkpoint)
    source = source or 'the given weights'
    weights, notes = weights_in(checkpoint, source)
    own = model.state_dict()
    found = find_match(own, weights, source, type(model).__name__, optional)
    try:
        model.load_state_dict({**own, **found.used})
    except RuntimeError as error:
        raise CheckpointError(
            f'{source} does not fit {type(model).__name__}: {one_line(error)}'
        ) from error
    if found.layout:
        notes.append(f'named as in {found.layout}')
    if found.prefix:
        notes.append(f'behind the prefix {found.prefix!r}')
    return Report(
        source,
        len(found.used),
        tuple(collapsed([k for k in own if k not in found.used], own)),
        tuple(found.unused),
        tuple(notes),
        dataset_meta_in(checkpoint),
        tuple(found.differing),
    )


def load_cut(
    model: nn.Module,
    layout: Layout,
    widths: Mapping[str, int],
    checkpoint: str | os.PathLike,
    optional: Collection[str] = (),
) -> tuple[nn.Module, Report, bool]:
    """Cut a model and give it the weights of a checkpoint of its widths, or of the full ones.

    Args:
        model: The full-width model; it may be the one that is cut.
        checkpoint, optional: As of :func:`load_weights`.

    Returns:
        The cut model, what it was given, and whether these weights are its own, with statistics.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or fits neither.
    """
    path = os.fspath(checkpoint)
    content = read_checkpoint(path)
    cut = cut_(copy.deepcopy(model), layout, widths)
    try:
        return cut, load_weights(cut, content, path, optional=optional), not of_supernet(content)
    except CheckpointError as error:
        narrow = error
    try:
        report = load_weights(model, content, path, optional=optional)
    except CheckpointError as error:
        raise CheckpointError(f'{error}; nor is it one of the subnet: {narrow}') from error
    return cut_(model, layout, widths), report, False


def check_shapes(model: nn.Module, checkpoint: Mapping[str, Any], path: str) -> None:
    """Make sure that a model which is to be tested gets what a checkpoint has of it.

    MMEngine prints which tensors have another shape, and tests the model with random ones there:
    of a pruned model, where the checkpoint is that of another subnet.

    Raises:
        CheckpointError: If a tensor has another shape in the checkpoint.
    """
    weights, _ = weights_in(checkpoint, path)
    weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise CheckpointError(
            f'{path} is of another model, or of another subnet: {one_line(error)}; give the '
            'checkpoint that was trained by this config, with the same --cfg-options'
        ) from error


def check_whole(model: nn.Module, report: Report, what: str) -> None:
    """Make sure that a checkpoint filled all of a model, which errors call ``what``: the backbone
    alone would leave a random head.

    Raises:
        CheckpointError: If weights are missing, but for heads that only training needs.
    """
    parameters = [name for name, _ in model.named_parameters()]
    lacking = [
        name
        for name in report.random
        if not name.startswith('auxiliary_head')
        and any(f'{parameter}.'.startswith(f'{name}.') for parameter in parameters)
    ]
    if lacking and report.differing:
        raise CheckpointError(
            f'{report.source} does not fit {what}: {listed(report.differing, 3)}; it is of other '
            'classes (num_classes) or widths; give the checkpoint that was trained by this config'
        )
    if lacking:
        instead = f'has {listed(report.unused)} instead' if report.unused else 'has nothing else'
        raise CheckpointError(
            f'{report.source} is of another model: it lacks {listed(lacking)} of {what}, and '
            f'{instead}; give the checkpoint that was trained by this config'
        )
