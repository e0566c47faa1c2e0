"""Files that are there as a whole or not at all; needs the standard library only."""

import errno
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = errno.ENOSPC, errno.EDQUOT  # what the operating system says of a full disk


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
    except OSError as error:
        if error.filename is None and error.errno in FULL:  # of an open file it names none
            error.filename = str(paths[0])
        raise
    finally:
        for new in temporary:
            new.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike) -> None:
    """Make sure, before there is something to write, that a file can be written.

    Raises:
        OSError: If it cannot.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f'{path} is a folder; give the name of a file')
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent):
        pass


def plain(content: Any) -> Any:
    """Content as JSON has it: arrays and tensors as lists, scalars as numbers, else its text.

    JSON has no word for a float that is not finite: it becomes ``None``.
    """
    if isinstance(content, Mapping):
        return {str(key): plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple, set)):
        return [plain(value) for value in content]
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if content is None or isinstance(content, (bool, int, str)):
        return content
    return plain(content.tolist()) if hasattr(content, 'tolist') else str(content)


def write_json(path: str | os.PathLike, content: Any) -> None:
    with written(path) as (temporary,):
        temporary.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
