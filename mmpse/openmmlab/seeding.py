"""Random numbers that depend on the iteration alone, so that a killed training can be repeated."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner, set_random_seed

from mmpse.registry import HOOKS


def seed_iteration(seed: int, iteration: int) -> None:
    """Make the random numbers of an iteration independent of what came before it; every process
    draws other ones."""
    entropy = np.random.SeedSequence([seed, dist.get_rank(), iteration])
    set_random_seed(int(entropy.generate_state(1)[0]))


@contextmanager
def drawn_aside(seed: int | None = None) -> Iterator[None]:
    """Random numbers drawn in a ``with`` block change none of those drawn outside.

    Args:
        seed: With one, the block draws the same numbers every time.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            if seed is not None:
                set_random_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@HOOKS.register_module()
class SeedHook(Hook):
    """Lets a training that was killed and resumed end with the weights of one that was not.

    What an iteration draws (augmentation in the process, dropout) depends on the runner's seed, the
    rank and the iteration alone. Worker processes draw alike in an epoch-based training whose
    dataloader has ``persistent_workers=False``; in an iteration-based one they start anew where it
    is resumed, and augment otherwise than without the interruption.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        seed_iteration(runner.seed, runner.iter)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        # here too: loading the first batch after a resume draws otherwise, and dropout follows it
        seed_iteration(runner.seed, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        seed_iteration(runner.seed, runner.iter + 1)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        seed_iteration(runner.seed, runner.iter)
