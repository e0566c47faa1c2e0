"""Going on with a job that was killed."""

from mmengine.config import Config
from mmengine.fileio import exists
from mmengine.runner import find_latest_checkpoint

from mmpse.openmmlab.types import is_type
from mmpse.registry import LOOPS

from .base import SearchLoop


def resume_latest(cfg: Config) -> None:
    """Let a config's job go on where it stopped; one that has left nothing starts as configured.

    A search goes on from its archive, a training from the latest checkpoint in its work dir. With
    ``resume`` alone MMEngine would resume the checkpoint of ``load_from``: in a fine-tuning, the
    training of the supernet.

    Raises:
        FileNotFoundError: The latest checkpoint is not where the work dir says.
    """
    if is_search(cfg):
        cfg.resume = True
    elif (latest := find_latest_checkpoint(cfg.work_dir)) is not None:
        if not exists(latest):
            raise FileNotFoundError(
                f'{cfg.work_dir}/last_checkpoint names {latest}, which is missing. If it was '
                'moved, write its place into that file; if it is lost, remove the file to start '
                'anew. CheckpointHook with max_keep_ckpts=1 loses it when it is killed while it '
                'saves the next one: keep 2'
            )
        cfg.resume, cfg.load_from = True, latest


def is_search(cfg: Config) -> bool:
    return is_type(cfg.train_cfg, SearchLoop, LOOPS)
