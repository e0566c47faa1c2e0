"""Marks (NaN) in tensors: written by image and channel, and read again."""

import itertools
from math import comb

import torch
from torch import Tensor

MIXED = -2  # in a map of channels: a position that depends on several
NOBODY = -1  # ... and one that depends on none
# places of a code, each an image: primes, so that no other dimension is a multiple by chance
PLACES = (5, 7, 11, 13, 17, 19, 23)


class IndistinctError(Exception):
    """Images of a batch cannot be told apart in a tensor that marks reach."""


def codes_for(channels: int) -> Tensor:
    """A code for each channel, half ones, bool ``(places, channels)``."""
    places = next(n for n in PLACES if comb(n, n // 2) >= channels)
    ones = list(itertools.islice(itertools.combinations(range(places), places // 2), channels))
    codes = torch.zeros(channels, places, dtype=torch.bool, device='cpu')
    return codes.scatter_(1, torch.tensor(ones, device='cpu'), True).T


def mark_(y: Tensor, marks: Tensor, dim: int) -> None:
    """Write marks ``(images, channels)`` into ``y``, whose first dimension holds the images'
    regions, windows or tokens, one image after the other; mark everything if it does not, and all
    channels of an image if they are others."""
    if len(y) % len(marks):
        y.fill_(torch.nan)
        return
    if y.shape[dim] != marks.shape[1]:
        marks = marks.any(1, keepdim=True)
    marks = marks.repeat_interleave(len(y) // len(marks), 0)
    y.masked_fill_(marks[(...,) + (None,) * (y.dim() - 2)].movedim(1, dim), torch.nan)


def nan_of(x: Tensor, dim: int) -> Tensor | None:
    """Where marks are, bool ``(first dimension, positions)``; ``None`` if there are none.

    Args:
        x: The input of a layer.
        dim: Its dimension of channels.
    """
    sums = x.movedim(dim, 1)
    nan = (sums.flatten(2).sum(2) if sums.dim() > 2 else sums).isnan()
    return nan if nan.any() else None


def by_image(nan: Tensor, images: int) -> Tensor:
    """Rows of one image joined, bool ``(images, positions)``.

    Raises:
        IndistinctError: If the rows are not those of so many images.
    """
    if len(nan) % images:
        raise IndistinctError
    return nan.unflatten(0, (images, -1)).any(1)
