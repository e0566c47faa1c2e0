"""Scenes of coloured handwritten digits over a cluttered background, and what is visible of each.

Pixels are computed with integers, and all chance comes from ``np.random.RandomState``, whose
streams NumPy has frozen: a seed gives the same scene with every NumPy version.
"""

from typing import NamedTuple

import numpy as np

SIDE = 128  # of a scene, in pixels
MIN_VISIBLE = 0.6  # a digit occluded beyond this is not a fair target
MAX_BOX_OVERLAP = 0.25  # of the smaller box; more, and suppression would drop neighbours
MIN_CONTRAST = 90  # in luma (0..255), of a digit above what lies under it
STROKE_ALPHA = 96  # opacity (of 255) from which a pixel belongs to the digit


class Scene(NamedTuple):
    """A picture and what is visible in it."""

    image: np.ndarray  # (SIDE, SIDE, 3) uint8, RGB
    owner: np.ndarray  # (SIDE, SIDE) uint8, 0 = background, k = the k-th digit drawn, from 1
    indices: list[int]  # the source index of each digit drawn, in drawing order


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an integer picture (H, W, ...) bilinearly to int64 (height, width, ...)."""
    picture = picture.astype(np.int64)
    for target in (height, width):  # rows; then, axes swapped, columns
        source = len(picture)
        unit = 2 * target  # positions are counted in units of 1 / unit source pixels
        left, weight = np.divmod((2 * np.arange(target) + 1) * source - target, unit)
        weight = weight.reshape(-1, *[1] * (picture.ndim - 1))
        before, after = picture[left.clip(0)], picture[(left + 1).clip(max=source - 1)]
        picture = (before * (unit - weight) + after * weight).swapaxes(0, 1)
    scale = 4 * height * width
    return (picture + scale // 2) // scale


def draw_scene(rng: np.random.RandomState, inks: np.ndarray, pool: np.ndarray) -> Scene:
    """Draw 2 to 6 digits, each about 5/32 to 3/8 of the scene high (20 to 48 pixels of 128).

    Digits are lighter than what is under them, as in the pictures for classification, so that a
    backbone trained on those has something to transfer. Later digits occlude earlier ones, but at
    least ``MIN_VISIBLE`` of each remains.

    Args:
        rng: source of all choices.
        inks: (N, 8, 8) integers, 0 = paper .. 16 = ink.
        pool: indices into ``inks`` that may be used.
    """
    image = _background(rng, SIDE)
    owner = np.zeros((SIDE, SIDE), np.uint8)
    indices, boxes, areas = [], [], []  # boxes and areas of the digits as if nothing hid them
    wanted = rng.randint(2, 7)
    for _ in range(10 * wanted):  # a digit that does not fit is replaced by another elsewhere
        if len(indices) == wanted:
            break
        index = int(pool[rng.randint(len(pool))])
        alpha = opacity(inks[index], rng.randint(SIDE * 5 // 32, SIDE * 3 // 8 + 1))
        side = len(alpha)
        top, left = (int(start) for start in rng.randint(0, SIDE - side + 1, 2))
        window = np.s_[top : top + side, left : left + side]
        stroke = alpha >= STROKE_ALPHA

        x, y, width, height = tight_box(stroke)
        box = (left + x, top + y, width, height)
        if any(_overlap(other, box) > MAX_BOX_OVERLAP for other in boxes):
            continue
        after = owner.copy()
        after[window][stroke] = len(indices) + 1
        visible = np.bincount(after.ravel(), minlength=len(indices) + 2)[1:-1]
        if np.any(visible < MIN_VISIBLE * np.array(areas)):
            continue

        under = _luma(image[window][stroke]).mean()
        if under > 255 - MIN_CONTRAST:  # not even white would stand out
            continue
        colour = _lighter_colour(rng, under + MIN_CONTRAST)
        blend = image[window] * (255 - alpha[..., None]) + colour * alpha[..., None]
        image[window] = (blend + 127) // 255
        owner = after
        indices.append(index)
        boxes.append(box)
        areas.append(np.count_nonzero(stroke))
    return Scene(image.astype(np.uint8), owner, indices)


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box (x, y, width, height), in pixels, that holds a non-empty (H, W) mask."""
    ys, xs = np.nonzero(mask)
    x, y = int(xs.min()), int(ys.min())
    return x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1


def _overlap(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Intersection of two (x, y, width, height) boxes as a part of the smaller one."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / min(a[2] * a[3], b[2] * b[3])


def opacity(ink: np.ndarray, height: int) -> np.ndarray:
    """The digit, ``height`` pixels high, as opacity 0..255 on a square patch with a soft margin."""
    side = height * 10 // 8
    ink = np.pad(ink.astype(np.int64), 1)  # the margin: the 8x8 pictures are cut at the stroke
    return resize((ink * 255 // 14).clip(max=255), side, side)


def _luma(colours: np.ndarray) -> np.ndarray:
    return colours @ np.array([299, 587, 114]) // 1000


def _lighter_colour(rng: np.random.RandomState, luma: float) -> np.ndarray:
    """A random colour of at least the given luma."""
    while True:
        colour = rng.randint(0, 256, 3)
        if _luma(colour) >= luma:
            return colour


def _background(rng: np.random.RandomState, size: int) -> np.ndarray:
    """Colour gradient, blotches, rectangles, straight lines, noise: (size, size, 3) int64."""
    base = rng.randint(0, 120, 3)
    gradient = resize(base + rng.randint(-50, 51, (3, 3, 3)), 12, 12)
    image = resize(gradient + rng.randint(-20, 21, (12, 12, 3)), size, size)
    for _ in range(rng.randint(0, 4)):
        top, left = rng.randint(0, size, 2)
        height, width = rng.randint(size // 16, size // 2, 2)
        image[top : top + height, left : left + width] += rng.randint(-50, 51, 3)
    y, x = np.mgrid[:size, :size]
    for _ in range(rng.randint(0, 4)):  # lines cross the whole scene: a short one would be a "one"
        (y0, x0), (dy, dx) = rng.randint(0, size, 2), rng.randint(-9, 10, 2)
        distance = abs((x - x0) * dy - (y - y0) * dx)  # in units of 1 / |(dy, dx)| pixels
        image[distance**2 <= rng.randint(1, 3) ** 2 * (dy**2 + dx**2)] += rng.randint(-60, 61, 3)
    image += rng.randint(-10, 11, (size, size, 1))
    return image.clip(0, 255)
