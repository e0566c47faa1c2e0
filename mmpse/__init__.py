"""Channel pruning of classifiers, detectors and segmentors: ``mmpse.prune`` and its parts.

``import mmpse`` is light: what the functions need is imported when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .version import __version__

if find_spec('mmengine') is not None:  # `mmpse.space` works without the OpenMMLab stack
    from .openmmlab import compat

    compat.check_versions()
    from . import registry  # noqa: F401  makes the scope 'mmpse' known

    compat.teach_config_names()

if TYPE_CHECKING:
    from .api import prune
    from .functions import build, cost, cut, export, sort, units
    from .openmmlab.transfer import transfer

# name -> the module that it is in
_FUNCTIONS = dict.fromkeys(('build', 'cost', 'cut', 'export', 'sort', 'units'), 'functions')
_FUNCTIONS |= dict(prune='api', transfer='openmmlab.transfer')
_ROOMS = 'api', 'resources', 'slim', 'space'

__all__ = ['__version__', 'build', 'cost', 'cut', 'export', 'prune', 'sort', 'transfer', 'units']


def __getattr__(name: str):
    if name in _FUNCTIONS:
        return getattr(import_module(f'{__name__}.{_FUNCTIONS[name]}'), name)
    if name in _ROOMS:
        return import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *_FUNCTIONS, *_ROOMS})
