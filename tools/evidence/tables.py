"""Pieces of docs/results.md that all of its sections are made of."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown, its first column to the left."""
    lines = [header, ['---', *['---:'] * (len(header) - 1)], *rows]
    return '\n' + ''.join(f'| {" | ".join(map(str, line))} |\n' for line in lines)


def spread(values: Sequence[float], form: str) -> str:
    """The mean, and the standard deviation where there are several."""
    mean = format(statistics.mean(values), form)
    return f'{mean} ± {statistics.stdev(values):{form}}' if len(values) > 1 else mean


def note(folder: Path, name: str) -> str:
    """What was written by hand."""
    path = folder / f'{name}.md'
    return '\n' + path.read_text(encoding='utf-8') if path.exists() else ''


def machine_name(machine: dict) -> str:
    return f'{machine["device"]}, {machine["threads"]} thread(s), torch {machine["torch"]}'
