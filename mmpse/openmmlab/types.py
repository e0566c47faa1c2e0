"""What a type in a config stands for.

A type may be a name with a scope or without, the whole path of an object, or (in new-style configs)
the class itself. Only the registry knows whether two of them are the same.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope, Registry

from mmpse.registry import MODELS


def in_scope(cfg: Config) -> AbstractContextManager[None]:
    """Inside, names without a scope in a config are those of its ``default_scope``."""
    return DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine')


def find_type(config: Any, registry: Registry = MODELS) -> Callable | None:
    """The class or function that a config, or a type in one, stands for in the default scope.

    Returns:
        ``None`` for a config without a type and for a type that nothing is registered as, such as
        one of a package that is not installed.
    """
    kind = config.get('type') if isinstance(config, Mapping) else config
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(None) as scoped:
        try:
            return scoped.get(kind)
        except RuntimeError:  # mmengine's word for an unknown type
            return None


def is_type(config: Any, expected: Any, registry: Registry = MODELS) -> bool:
    """Whether a config builds a certain type, or a subclass of it.

    Args:
        config: A config with a ``type``, or a type.
        expected: A type as a config may name it, e.g. ``'mmdet.RetinaNet'`` or the class; or a
            tuple of them. Their packages are not imported for the answer.

    Examples:
        >>> is_type(dict(type='BN'), torch.nn.BatchNorm2d)
        True
        >>> is_type(dict(type=WarmStart), 'mmpse.WarmStart', WEIGHT_INITIALIZERS)
        True
    """
    found = find_type(config, registry)
    wanted = expected if isinstance(expected, tuple) else (expected,)
    for one in (find_type(kind, registry) for kind in wanted if _is_imported(kind)):
        if found is not None and found is one:
            return True
        if isinstance(found, type) and isinstance(one, type) and issubclass(found, one):
            return True
    return False


def _is_imported(kind: Any) -> bool:
    """Whether the package of a type is there: what a config builds has imported its own."""
    return not isinstance(kind, str) or '.' not in kind or kind.partition('.')[0] in sys.modules


def default_of(config: Mapping[str, Any], name: str, registry: Registry) -> Any:
    """The default of an argument of what a config builds; None: it has no such argument."""
    kind = find_type(config, registry)
    parameter = None if kind is None else inspect.signature(kind).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default
