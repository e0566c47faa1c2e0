"""What the scores of a search depend on, and what makes it another search than others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmpse.openmmlab import compat
from mmpse.openmmlab.checkpoints.supernet import file_digest

if TYPE_CHECKING:
    from mmengine.config import ConfigDict

    from .base import SearchLoop


def identity_of(search: SearchLoop) -> dict[str, Any]:
    """What scores depend on, and so an archive is bound to; the budget is not among it."""
    cfg = search.runner.cfg
    model = cfg.model.to_dict()
    if cfg.get('data_preprocessor') is not None:  # the runner hands it to the model
        model.setdefault('data_preprocessor', cfg.data_preprocessor.to_dict())
    return dict(
        units=[[unit.name, unit.max_width] for unit in search.space.units],
        checkpoint_sha256=file_digest(compat.load_path(search.runner)),
        metric=search.metric,
        calibration=search.calibration,
        calibration_batch_size=getattr(search.dataloader.batch_sampler, 'batch_size', None),
        calibration_dataset=cfg.train_dataloader.dataset.to_dict(),
        seed=search.seed,
        fp16=search.fp16,
        dataset=cfg.val_dataloader.dataset.to_dict(),
        evaluator=cfg.val_evaluator,
        model=without_weights(model),
        input_shape=search.input_shape,
    )


def settings_of(train_cfg: ConfigDict) -> dict[str, Any]:
    """What tells a search from others in one archive: its settings, but those that only end it."""
    ending = 'archive', 'topk', 'generations'
    return {key: value for key, value in train_cfg.to_dict().items() if key not in ending}


def without_weights(config: Any) -> Any:
    """A model's config but for what names its first weights."""
    if isinstance(config, Mapping):
        names = 'init_cfg', 'pretrained'
        return {k: without_weights(v) for k, v in config.items() if k not in names}
    return [*map(without_weights, config)] if isinstance(config, (list, tuple)) else config
