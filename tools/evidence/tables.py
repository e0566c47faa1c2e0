"""Pieces of docs/results.md that all of its sections are made of."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> str:
    """A table in Markdown, its first columns to the left."""
    lines = [header, ['---'] * left + ['---:'] * (len(header) - left), *rows]
    return '\n' + ''.join(f'| {" | ".join(map(str, line))} |\n' for line in lines)


def spread(values: Sequence[float], form: str) -> str:
    """The mean, and the standard deviation where there are several."""
    mean = format(statistics.mean(values), form)
    if len(values) == 1:
        return mean
    return f'{mean} ± {statistics.stdev(values):{form.lstrip("+")}}'


def note(folder: Path, name: str) -> str:
    """What was written by hand."""
    path = folder / f'{name}.md'
    return '\n' + path.read_text(encoding='utf-8') if path.exists() else ''


def machine_name(machine: dict) -> str:
    return f'{machine["device"]}, {machine["threads"]} thread(s), torch {machine["torch"]}'


def provenance(folder: Path, records: Sequence[dict], what: str) -> str:
    """Where records come from, in how much time, and the commands that make them."""
    commands = sorted({record['command'].partition(' --only')[0] for record in records})
    machines = sorted({machine_name(record['machine']) for record in records})
    hours = sum(record['cpu_seconds'] for record in records) / 3600
    dates = sorted(record['date'][:10] for record in records)
    address = f'results/{folder.parent.name}/{folder.name}'
    return (
        f'\n{what}, {hours:.1f} hours of processor time, {dates[0]} to {dates[-1]}, on '
        f'{"; ".join(machines)}. Records: [{folder.name}]({address}). Rerun:\n\n'
        + ''.join(f'    {command}\n' for command in commands)
    )
