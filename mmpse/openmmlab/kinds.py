"""Types in configs, compared without importing packages that nothing has needed yet."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from mmengine.registry import Registry

from .types import find_type, is_type


def is_kind(config: Any, expected: str | tuple[str, ...], registry: Registry) -> bool:
    """Whether a config builds one of these types, named with their scopes, or a subclass.

    :func:`is_type` would import mmpretrain to tell that a dataset of mmdet is none of its own.
    """
    find_type(config, registry)  # imports the package of the config's own type
    names = (expected,) if isinstance(expected, str) else expected
    known = tuple(name for name in names if name.partition('.')[0] in sys.modules)
    return is_type(config, known, registry)


def default_of(config: Mapping[str, Any], name: str, registry: Registry) -> Any:
    """The default of an argument of what a config builds; None: it has no such argument."""
    kind = find_type(config, registry)
    parameter = None if kind is None else inspect.signature(kind).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default
