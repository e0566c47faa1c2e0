"""Values of a config as Python source that people can read."""

import keyword
import math
import os
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np

from mmpse.errors import UserError

WIDTH = 100


def plain(value: Any, where: str = '') -> Any:
    """A value as its source will read back: dicts, lists, tuples and scalars alone.

    A class or function becomes its dotted path, which every registry resolves.

    Raises:
        UserError: If it holds something that cannot be written down; its key is named.
    """
    if isinstance(value, Mapping):
        return {key: plain(item, f'{where}.{key}') for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(item, f'{where}.{k}') for k, item in enumerate(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return f'{value.__module__}.{value.__qualname__}'
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    raise UserError(
        f'{where.removeprefix(".")} is a {type(value).__name__} ({str(value)[:60]}), which cannot '
        'be written as Python'
    )


def python_source(value: Any, indent: int = 0) -> str:
    """A plain value as Python source, whose first line is put behind ``indent`` characters.

    Dicts are calls of ``dict`` where their keys allow it.
    """
    if isinstance(value, Mapping):
        call = all(
            isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)
            for key in value
        )
        start, end = ('dict(', ')') if call else ('{', '}')
        items = [
            (f'{key}=' if call else f'{key!r}: ') + python_source(item, indent + 4)
            for key, item in value.items()
        ]
    elif isinstance(value, (list, tuple)):
        start, end = '[]' if isinstance(value, list) else '()'
        items = [python_source(item, indent + 4) for item in value]
        if isinstance(value, tuple) and len(items) == 1:
            return f'({items[0]},)'
    elif isinstance(value, float) and not math.isfinite(value):
        return f'float({str(value)!r})'
    else:
        return repr(value)
    line = start + ', '.join(items) + end
    if '\n' not in line and indent + len(line) < WIDTH - 10:
        return line
    margin = '\n' + ' ' * (indent + 4)
    return start + margin + f',{margin}'.join(items) + f',\n{" " * indent}{end}'
