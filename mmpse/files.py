"""Files that are there as a whole or not at all; needs the standard library only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written(*paths: str | os.PathLike) -> Iterator[list[Path]]:
    """Temporary files to write, which at the end become ``paths``, or vanish after an error."""
    paths = [Path(path) for path in paths]
    temporary = [path.with_name(f'.{path.stem}.{os.getpid()}.tmp{path.suffix}') for path in paths]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        for new, path in zip(temporary, paths, strict=True):
            os.replace(new, path)
    finally:
        for new in temporary:
            new.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: Any) -> None:
    with written(path) as (temporary,):
        temporary.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
