"""What the scores of a search depend on, and what makes it another search than others."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict
from mmengine.runner import Runner

from mmpse.openmmlab import compat
from mmpse.openmmlab.checkpoints.supernet import file_digest
from mmpse.space import SearchSpace


def identity_of(runner: Runner, space: SearchSpace, **judging: Any) -> dict[str, Any]:
    """What scores depend on, and so an archive is bound to; the budget is not among it."""
    cfg = runner.cfg
    model = cfg.model.to_dict()
    if cfg.get('data_preprocessor') is not None:  # the runner hands it to the model
        model.setdefault('data_preprocessor', cfg.data_preprocessor.to_dict())
    return dict(
        judging,
        units=[[unit.name, unit.max_width] for unit in space.units],
        checkpoint_sha256=file_digest(compat.load_path(runner)),
        calibration_dataset=cfg.train_dataloader.dataset.to_dict(),
        dataset=cfg.val_dataloader.dataset.to_dict(),
        evaluator=cfg.val_evaluator,
        model=without_weights(model),
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
