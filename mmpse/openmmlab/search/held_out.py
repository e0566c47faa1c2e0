"""Whether the images that judge subnets were held out of the training."""

from collections.abc import Mapping
from typing import Any

from mmengine.runner import Runner

from mmpse.openmmlab.checkpoints.supernet import supernet_state
from mmpse.openmmlab.configs.datasets import folds_of


def warn_of_seen_images(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Warn if subnets are judged on a part of the training set (``KFoldDataset``) that the supernet
    was trained on, or that they are recalibrated on: a config names that part in three places."""
    cfg = runner.cfg
    judging = folds_of(cfg.val_dataloader.dataset)
    held_out = {'the calibration (train_dataloader)': folds_of(cfg.train_dataloader.dataset)}
    state = supernet_state(checkpoint) or {}
    if 'held_out' in state:  # older checkpoints do not tell
        held_out['the training of the supernet'] = state['held_out']
    for who, parts in held_out.items():
        # a whole set is another one than that of the training, as far as a config tells
        seen = [part for part in judging if part is not None and part not in parts]
        if seen:
            runner.logger.warning(
                f'subnets are judged on images that {who} has, too: val_dataloader.dataset is the '
                f'part {seen[0]}, and held out there is {parts[0] or "nothing"}; give all '
                'KFoldDatasets, of the supernet and of the search, the same num_splits, fold and '
                'seed'
            )
