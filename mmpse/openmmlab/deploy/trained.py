"""A trained model as it is deployed."""

import os
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from torch import nn

from mmpse.openmmlab.checkpoints.files import read_checkpoint
from mmpse.openmmlab.checkpoints.loading import check_whole, load_cut, load_weights
from mmpse.openmmlab.checkpoints.supernet import check_statistics
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.datasets import all_training
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.errors import CheckpointError, name_of
from mmpse.openmmlab.models.losses import training_batches
from mmpse.openmmlab.models.pruned import layout_of
from mmpse.openmmlab.models.recalibration import recalibrate
from mmpse.openmmlab.types import is_type
from mmpse.slim import CutError
from mmpse.space import Subnet, SubnetError

IMAGES = 128  # that statistics are computed from


def trained_model(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    subnet: str | os.PathLike | Mapping[str, Any] | None = None,
) -> tuple[nn.Module, Subnet | None]:
    """The model of a config with all its weights, in eval mode, and its widths if it is pruned.

    Args:
        checkpoint: Its trained weights; with a subnet also those of the full model or supernet.
        subnet: Widths to cut the model to. Unless the checkpoint is of these widths, BatchNorms get
            their statistics from training images of the config.

    Raises:
        ConfigError, CheckpointError, SubnetError: If one of them cannot be used; a supernet's
            checkpoint without a subnet, for instance.
    """
    cfg, path = load_config(config), os.fspath(checkpoint)
    model = build_model(cfg)
    model.eval()
    if subnet is not None:
        subnet = Subnet.load(subnet)
        try:
            model, report, own = load_cut(model, layout_of(subnet), subnet, path)
        except CutError as error:
            raise SubnetError(f'{subnet.path or "the subnet"}: {error}') from error
        if not own:
            scope = cfg.get('default_scope')
            recalibrate(model, training_batches(all_training(cfg), IMAGES, scope))
    else:
        content = read_checkpoint(path)
        report = load_weights(model, content, path)
        try:
            check_statistics(model, content, path)
        except ValueError as error:
            raise CheckpointError(f'{error}, or name a subnet to cut it to') from error
        if is_type(cfg.model, 'mmpse.Pruned') and cfg.model.subnet is not None:
            subnet = Subnet.load(cfg.model.subnet)
    check_whole(model, report, f'the {type(model).__name__} of {name_of(cfg)}')
    model.dataset_meta = report.dataset_meta  # the names of the classes
    return model, subnet
