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
    """Write marks ``(images, channels)`` into the images of ``y``; mark everything if these cannot
    be told apart, and all channels of an image if they are others."""
    dim %= y.dim()
    try:
        at = images_dim(y, len(marks), dim)
    except IndistinctError:
        y.fill_(torch.nan)
        return
    if y.shape[dim] != marks.shape[1]:
        marks = marks.any(1, keepdim=True)
    marks = marks.repeat_interleave(y.shape[at] // len(marks), 0)
    y.masked_fill_(marks[(...,) + (None,) * (y.dim() - 2)].movedim((0, 1), (at, dim)), torch.nan)


def nan_of(x: Tensor, dim: int, images: int = 1) -> Tensor | None:
    """Where marks are in the input of a layer, bool ``(images, positions)``; ``None``: nowhere.

    Raises:
        IndistinctError: If there are some, and the images cannot be told apart.
    """
    dim %= x.dim()
    try:
        at = images_dim(x, images, dim)
    except IndistinctError:
        if x.isnan().any():
            raise
        return None
    sums = x.movedim((at, dim), (0, 1))
    nan = (sums.flatten(2).sum(2) if sums.dim() > 2 else sums).isnan()
    return nan.unflatten(0, (images, -1)).any(1) if nan.any() else None


def images_dim(x: Tensor, images: int, channels: int | None = None) -> int:
    """The dimension that holds the regions, windows or tokens of the images, one image after the
    other: the first, unless its size shows that it does not (layers of a decoder, tokens).

    Raises:
        IndistinctError: If none does.
    """
    for dim, size in enumerate(x.shape):
        if dim != channels and size and size % images == 0:
            return dim
    raise IndistinctError
