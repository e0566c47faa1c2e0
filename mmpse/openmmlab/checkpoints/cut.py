"""Checkpoints of a subnet's widths, or of the full ones, into the static network of the subnet."""

import copy
import os
from collections.abc import Collection, Mapping

from torch import nn

from mmpse.openmmlab.checkpoints.supernet import of_supernet
from mmpse.openmmlab.errors import CheckpointError
from mmpse.slim import Layout, cut_

from .files import read_checkpoint
from .loading import Report, load_weights


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
        widths: Unit -> channels.
        checkpoint: Its path, URL or name.
        optional: As of :func:`load_weights`.

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
