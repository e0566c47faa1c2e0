"""Whether a subnet is better than another one that saw the same images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Gain(NamedTuple):
    """How much less one subnet loses than another."""

    mean: float  # over the parts of the images
    error: float  # standard error of that; infinite where there is one part only

    @property
    def sure(self) -> bool:
        """Whether it is more than a standard error: otherwise it may well be chance."""
        return self.mean > self.error


def paired_gain(reference: Sequence[float], losses: Sequence[float]) -> Gain:
    """The gain over a reference.

    Args:
        reference: Losses of the reference on parts of the images, or batches ``(parts,)``.
        losses: Those of the other subnet on the same parts ``(parts,)``.
    """
    gains = np.asarray(reference, dtype=float) - np.asarray(losses, dtype=float)
    error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else np.inf
    return Gain(float(gains.mean()), float(error))
