"""The training losses of subnets, from which the search's prior is made."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmpse.openmmlab.checkpoints.supernet import supernet_state

MOMENTUM = 0.01  # weight of a new loss in the running mean
SIZE = 50_000


class LossRecord:
    """Losses of the drawn subnets of a supernet training, the latest ``size`` of them.

    A late loss is lower merely for being late: the running mean of the losses of its time is kept
    beside each one.
    """

    def __init__(self, size: int = SIZE) -> None:
        self.size = size
        self._mean: float | None = None
        self._rows: list[tuple[int, tuple[int, ...], float, float]] = []

    def extend(self, iteration: int, widths: np.ndarray, losses: Sequence[float]) -> None:
        """Add the losses of subnets ``(subnets, units)`` trained in one iteration."""
        for row, loss in zip(widths, losses, strict=True):
            mean = loss if self._mean is None else self._mean
            self._mean = mean + MOMENTUM * (loss - mean)
            self._rows.append((iteration, tuple(map(int, row)), loss, self._mean))
        if len(self._rows) > 2 * self.size:  # drop seldom, since it copies
            del self._rows[: -self.size]

    def before(self, iteration: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Iterations ``(n,)``, widths ``(n, units)`` and losses ``(n,)`` of earlier entries."""
        rows = [row for row in self._rows[-self.size :] if row[0] < iteration]
        return tuple(np.array([row[k] for row in rows]) for k in range(3))

    def state_dict(self) -> dict[str, Tensor | float | None]:
        """Tensors of the latest entries: ``iteration``, ``widths`` (entries, units), ``loss``,
        ``running_mean``; plain enough for ``torch.load(weights_only=True)``."""
        rows = self._rows[-self.size :]
        return dict(
            iteration=torch.tensor([row[0] for row in rows], dtype=torch.int64),
            widths=torch.tensor([row[1] for row in rows], dtype=torch.int16),
            loss=torch.tensor([row[2] for row in rows], dtype=torch.float64),
            running_mean=torch.tensor([row[3] for row in rows], dtype=torch.float64),
        )

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._rows = list(
            zip(
                state['iteration'].tolist(),
                map(tuple, state['widths'].tolist()),
                state['loss'].tolist(),
                state['running_mean'].tolist(),
                strict=True,
            )
        )
        self._mean = self._rows[-1][3] if self._rows else None


def recorded_losses(
    checkpoint: Mapping[str, Any],
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """What a supernet's training recorded, if it did: iterations, widths ``(n, units)``, losses."""
    state = supernet_state(checkpoint)
    if state is None or not len(state['record']['loss']):
        return None
    iterations, widths, losses = (state['record'][k] for k in ('iteration', 'widths', 'loss'))
    return iterations.numpy(), widths.numpy().astype(np.int64), losses.numpy()


def relative_losses(state: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Widths ``(entries, units)`` and losses over the running mean of their time ``(entries,)``."""
    widths = state['widths'].numpy().astype(np.int64)
    return widths, (state['loss'] / state['running_mean']).numpy()
