"""What two JSON contents differ in, in words; needs the standard library only."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

MOST = 3  # differences that are named
LENGTH = 80  # characters of a value


def differences(there: Any, now: Any) -> str:
    """The keys that differ between what a file holds and what was expected, with both values.

    Returns:
        For instance ``'model.head.num_classes: 10 there, 20 now'``; empty if none differ.
    """
    found = list(_differences(there, now, ''))
    more = f' and {len(found) - MOST} more' if len(found) > MOST else ''
    return '; '.join(found[:MOST]) + more


def _differences(there: Any, now: Any, key: str) -> Iterator[str]:
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        for name in sorted(there.keys() | now.keys()):
            inner = f'{key}.{name}' if key else name
            if name in there and name in now:
                yield from _differences(there[name], now[name], inner)
            else:
                values = [_short(x[name]) if name in x else 'nothing' for x in (there, now)]
                yield f'{inner}: {values[0]} there, {values[1]} now'
    elif _long(there) and _long(now) and len(there) == len(now):
        for k, pair in enumerate(zip(there, now)):
            yield from _differences(*pair, f'{key}[{k}]')
    elif there != now:
        yield f'{key}: {_short(there)} there, {_short(now)} now'


def _long(value: Any) -> bool:
    return isinstance(value, list) and len(json.dumps(value)) > LENGTH


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= LENGTH else f'{text[: LENGTH - 3]}...'
