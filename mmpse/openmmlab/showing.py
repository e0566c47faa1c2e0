"""Drawn predictions in a folder, in whatever package a config is of."""

import inspect
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmpse.registry import HOOKS

from .errors import ConfigError, name_of
from .types import find_type

IMAGES = '.png', '.jpg', '.jpeg'


def show_predictions(cfg: Config, folder: str) -> None:
    """Let the test of a config draw every image with its prediction into a folder.

    The visualization hooks of mmdet, mmpretrain and mmseg take it in different ways: by
    ``test_out_dir``, by ``out_dir``, and where the visualizer saves.

    Raises:
        ConfigError: If the config has no such hook, or one that draws in none of these ways.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise ConfigError(
            f'{name_of(cfg)} has no default_hooks.visualization that could draw; add that of its '
            "package, e.g. dict(type='DetVisualizationHook')"
        )
    scope = hook.get('_scope_') or cfg.get('default_scope') or 'mmengine'
    with DefaultScope.overwrite_default_scope(scope):
        kind = find_type(hook, HOOKS)
    arguments = {
        name
        for base in inspect.getmro(kind or object)
        for name in inspect.signature(base.__init__).parameters
    }
    folder = str(Path(folder).absolute())  # a relative one is of the work dir, anew in every batch
    if 'test_out_dir' in arguments:
        hook.update(draw=True, test_out_dir=folder)
    elif 'out_dir' in arguments:
        hook.update(enable=True, out_dir=folder, interval=1)
    elif 'draw' in arguments:
        hook.update(draw=True)
        cfg.visualizer = cfg.get('visualizer') or dict(type='Visualizer')
        backends = [dict(type='mmengine.LocalVisBackend')]
        cfg.visualizer.update(save_dir=folder, vis_backends=backends)
    else:
        raise ConfigError(
            f'{name_of(cfg)}: default_hooks.visualization is {hook.get("type")!r}, which takes no '
            "folder to draw into; use that of the config's package, e.g. 'DetVisualizationHook'"
        )


def count_images(folder: str) -> int:
    """Images in a folder and those below it."""
    return sum(path.suffix in IMAGES for path in Path(folder).rglob('*'))
