"""Checkpoints of supernets: what marks one, and which one it is."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine import fileio
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmpse.errors import UserError

CHECKPOINT_KEY = 'mmpse_supernet'  # of what SupernetHook adds to a checkpoint's meta
# of a BatchNorm, the batches that its statistics are made of; older checkpoints have none
COUNTER = '.num_batches_tracked'
UNTRACKED = -1  # it is the mark of statistics that mean nothing


def mark_untracked(norms: Iterable[_BatchNorm]) -> None:
    """Let normalisations of a supernet track no statistics, and say so in every state dict.

    Subnets share their batches, so that statistics over them mean nothing. The mark is a counter
    below zero: being a weight, it stays when a checkpoint is published or its ``state_dict`` alone
    is saved; and it goes as soon as the layer tracks statistics, in the training of a subnet.
    """
    for norm in norms:
        norm.track_running_stats = False
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(UNTRACKED)


def untracked_layers(checkpoint: Mapping[str, Any]) -> list[str]:
    """The marked layers of a checkpoint, or of a state dict alone."""
    weights = checkpoint.get('state_dict', checkpoint)
    return [
        name.removesuffix(COUNTER)
        for name, value in weights.items()
        if name.endswith(COUNTER) and value < 0
    ]


def supernet_state(checkpoint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What SupernetHook added to a checkpoint; ``None`` if it did not, or publishing took it."""
    # in the meta, which publishing keeps; older ones have it beside the meta
    return checkpoint.get('meta', {}).get(CHECKPOINT_KEY, checkpoint.get(CHECKPOINT_KEY))


def of_supernet(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's BatchNorm statistics, or some of them, are those of a supernet."""
    return supernet_state(checkpoint) is not None or bool(untracked_layers(checkpoint))


def check_statistics(model: nn.Module, checkpoint: Mapping[str, Any], path: str) -> None:
    """Make sure that a model which is to be evaluated gets the BatchNorm statistics it needs.

    Raises:
        ValueError: If the model has such layers, and the checkpoint is a supernet's; or that of a
            subnet that was trained from one with layers that tracked nothing.
    """
    if not any(isinstance(m, _BatchNorm) for m in model.modules()):
        return
    if of_supernet(checkpoint):
        where = f' (the first: {names[0]})' if (names := untracked_layers(checkpoint)) else ''
        raise UserError(
            f'{path} is the checkpoint of a supernet, or of a subnet in which layers of one were '
            f'frozen: it has no BatchNorm statistics to evaluate with{where}; give the checkpoint '
            'of a subnet that was retrained or fine-tuned with norm_eval=False and nothing frozen'
        )


def file_digest(path: str) -> str:
    """SHA-256 of a file, or of what a URL of a kind known to mmengine.fileio gives."""
    return hashlib.sha256(fileio.get(path)).hexdigest()
