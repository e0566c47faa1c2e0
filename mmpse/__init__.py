"""PSE-Net and stage-wise pruning for OpenMMLab backbones."""

from __future__ import annotations

from importlib.util import find_spec

from .version import __version__

if find_spec('mmengine') is not None:  # `mmpse.space` works without the OpenMMLab stack
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    from . import registry  # noqa: F401  makes the scope 'mmpse' known

    # mmengine asks for these names before it reads `_base_ = 'mmseg::...'`. It knows mmseg by the
    # name of one distribution; the import name fits every distribution.
    MODULE2PACKAGE.update(mmpse='mmpse', mmseg='mmseg')

    _get_cfg_path = Config._get_cfg_path

    def _without_scope(cfg_path: str, filename: str) -> tuple[str, str | None]:
        """MMEngine takes `mmpse::...` to hold names of the scope mmpse. Ours are those of the
        default_scope that the config sets, mmpretrain for instance, or begin with `mmpse.`."""
        path, scope = _get_cfg_path(cfg_path, filename)
        return path, None if scope == 'mmpse' else scope

    Config._get_cfg_path = staticmethod(_without_scope)

__all__ = ['__version__']
