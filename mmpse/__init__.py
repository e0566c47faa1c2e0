"""PSE-Net and stage-wise pruning for OpenMMLab backbones."""

from __future__ import annotations

from importlib.util import find_spec

from .version import __version__

if find_spec('mmengine') is not None:  # `mmpse.space` works without the OpenMMLab stack
    from .openmmlab import compat

    compat.check_versions()
    from . import registry  # noqa: F401  makes the scope 'mmpse' known

    compat.teach_config_names()

__all__ = ['__version__']
