"""What came of a pruning: a table, and a page with figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmpse.files import write_json
from mmpse.space import Subnet
from mmpse.visualization import picture, width_profile, write_page
from mmpse.visualization import table as html_table

from .subject import Subject

RESOURCES = dict(flops=('FLOPs (M)', 1e-6), params=('parameters (M)', 1e-6))


def cells(table: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table."""
    names = list(dict.fromkeys(key for row in table.values() for key in row))
    header = ['model', *(RESOURCES.get(name, (name,))[0] for name in names)]
    rows = []
    for name, row in table.items():
        rows.append([name])
        for key in names:
            factor = RESOURCES.get(key, ('', 1))[1]
            rows[-1].append(f'{row[key] * factor:.4g}' if key in row else '-')
    return header, rows


def summary(table: Mapping[str, Mapping[str, float]]) -> str:
    """The table for a terminal: a line for each figure, a column for each model."""
    header, rows = cells(table)
    shown = Table('', *(row[0] for row in rows))
    for k, name in enumerate(header[1:], 1):
        shown.add_row(name, *(row[k] for row in rows))
    console = Console(width=100, record=True, file=open('/dev/null', 'w'))  # noqa: SIM115
    console.print(shown)
    return console.export_text()


def write_report(
    out: Path,
    subject: Subject,
    subnet: Subnet,
    table: Mapping[str, Mapping[str, float]],
    steps: Any,
) -> None:
    """Write ``report.json`` and ``report.html``."""
    write_json(out / 'report.json', dict(table, widths=dict(subnet), source=subnet.source))
    header, rows = cells(table)
    profile = width_profile({'pruned': subnet}, subject.space.fullnet)
    sections = [
        ('Result', html_table(header, rows)),
        ('Widths', picture(profile, 'share of channels kept in every unit')),
    ]
    kind = type(subject.model).__name__
    write_page(out / 'report.html', f'mmpse: {kind} pruned', sections)
