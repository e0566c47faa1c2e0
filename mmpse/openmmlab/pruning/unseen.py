"""The losses that a pruning judges by, and layers that only these run.

A watched prediction does not tell what such layers read.
"""

import copy
from collections.abc import Mapping
from typing import Any

from mmpse.errors import is_bug
from mmpse.openmmlab.errors import listed, one_line
from mmpse.openmmlab.models.losses import batch_losses
from mmpse.slim import cut_

from .steps import PruneError
from .subject import Subject


def check_losses(subject: Subject, batch: Mapping[str, Any]) -> None:
    """Make sure that a model has losses, also after any unit was cut.

    Args:
        batch: Training images as :func:`mmpse.openmmlab.models.losses.preprocessed` gives them.

    Raises:
        PruneError: If the full model fails. If a layer that a prediction does not run reads units;
            it names these.
    """
    model, layout, space = subject.model, subject.layout, subject.space
    try:
        batch_losses(model, [batch])
    except Exception as error:  # heads and losses raise whatever they do
        if is_bug(error):
            raise
        raise PruneError(
            f'the losses of {type(model).__name__}, by which pruned models are judged, fail on a '
            f'training image ({type(error).__name__}: {one_line(error)}); make sure that the '
            'config trains: mmpse train'
        ) from error
    if not layout.unseen:
        return
    full, least = dict(space.fullnet), dict(space.tinynet)

    def fails(widths: Mapping[str, int]) -> bool:
        cut = cut_(copy.deepcopy(model), layout, widths)
        try:
            batch_losses(cut, [batch])
        except RuntimeError:  # PyTorch's word for shapes that do not fit
            return True
        return False

    if not fails(least):
        return
    read = [unit for unit in full if fails({**full, unit: least[unit]})]
    if read:
        raise PruneError(
            f'only the losses of {type(model).__name__} run {listed(layout.unseen)}, which read '
            f'channels that a pruning would cut; keep these: --keep {" ".join(read)}'
        )
