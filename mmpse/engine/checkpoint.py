"""Checkpoints of supernets: whether one fits, and which one it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from mmengine import fileio
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmpse.models import misfit

CHECKPOINT_KEY = 'mmpse_supernet'  # of what SupernetHook adds to a checkpoint


def check_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], path: str) -> None:
    """Make sure that a checkpoint is one of this model, entirely.

    Raises:
        ValueError: If a tensor is missing, unexpected, or of another shape.
    """
    problems = misfit(getattr(model, 'module', model), weights)
    if problems:
        raise ValueError(
            f'the checkpoint {path} is not one of this supernet: {problems}; give the checkpoint '
            'that the supernet config of the same backbone and head trained'
        )


def check_statistics(model: nn.Module, checkpoint: Mapping[str, Any], path: str) -> None:
    """Make sure that a model which is to be evaluated gets the BatchNorm statistics it needs.

    A supernet tracks none, since they mean nothing when subnets share its layers; those in its
    checkpoint are what it started from.

    Raises:
        ValueError: If the model has such layers, and the checkpoint is a supernet's.
    """
    if CHECKPOINT_KEY in checkpoint and any(isinstance(m, _BatchNorm) for m in model.modules()):
        raise ValueError(
            f'{path} is the checkpoint of a supernet, which has no BatchNorm statistics to '
            'evaluate with; give the checkpoint of a subnet that was retrained or fine-tuned'
        )


def file_digest(path: str) -> str:
    """SHA-256 of a file, or of what a URL of a kind known to mmengine.fileio gives."""
    return hashlib.sha256(fileio.get(path)).hexdigest()
