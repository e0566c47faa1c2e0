"""Checkpoints of supernets: whether one fits, and which one it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

from mmpse.models import misfit


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


def file_digest(path: str) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
