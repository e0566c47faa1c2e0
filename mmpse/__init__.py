"""PSE-Net and stage-wise pruning for OpenMMLab backbones."""

from importlib.util import find_spec

from .version import __version__

if find_spec('mmengine') is not None:  # `mmpse.space` works without the OpenMMLab stack
    from mmengine.config.utils import MODULE2PACKAGE

    from . import registry  # noqa: F401  makes the scope 'mmpse' known

    # mmengine asks for these names before it reads `_base_ = 'mmseg::...'`. It knows mmseg by the
    # name of one distribution; the import name fits every distribution.
    MODULE2PACKAGE.update(mmpse='mmpse', mmseg='mmseg')

__all__ = ['__version__']
