"""Recomputing BatchNorm statistics for one subnet."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch.nn.modules.batchnorm import _BatchNorm

from mmpse.errors import UserError
from mmpse.openmmlab import compat

from .batches import HeldBatches
from .losses import unmixed
from .outputs import raw_outputs


@torch.no_grad()
def recalibrate(model: BaseModel, batches: Sequence[Any] | HeldBatches) -> None:
    """Set every BatchNorm's running statistics to their mean over ``batches``.

    A supernet keeps no running statistics of its subnets, so that each is recalibrated on training
    images before it is judged. Every batch has the same weight. A BatchNorm that no image reaches,
    as one that only training runs, keeps its statistics.

    Args:
        model: A static model; its training mode is left as it was.
        batches: Batches as the training dataloader gives them. For many models, hand them over as
            :class:`HeldBatches`.

    Raises:
        ValueError: If there are no batches.
    """
    if not batches:
        raise UserError('recalibration needs at least one batch of training images, got none')
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    was_training, momenta = model.training, [norm.momentum for norm in norms]
    before = [{key: x.clone() for key, x in norm._buffers.items()} for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    with unmixed(model):
        for batch in batches if isinstance(batches, HeldBatches) else HeldBatches(batches):
            # as in training: segmentors pad crops of unequal sizes there only
            data = model.data_preprocessor(batch, True)
            if hasattr(model, 'encode_decode'):  # with the auxiliary heads
                raw_outputs(model, data['inputs'])
            else:
                for sample in data.get('data_samples') or []:
                    if sample.get('flip'):  # mmdet's cascades would flip masks back, with NumPy
                        sample.set_metainfo(dict(flip=False))
                compat.forward_by_mode(model, data, 'tensor')
    for norm, momentum, buffers in zip(norms, momenta, before, strict=True):
        norm.momentum = momentum
        if not norm.num_batches_tracked:
            for key, value in buffers.items():
                norm._buffers[key].copy_(value)
    model.train(was_training)
