"""What came of a pruning: a table, a file for programs, and a page with figures."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mmpse.files import write_json
from mmpse.openmmlab.errors import one_line
from mmpse.resources.busy import BUSY
from mmpse.space import Subnet
from mmpse.visualization import (
    bars,
    judged_candidates,
    paragraph,
    picture,
    sensitivity_curves,
    text_table,
    write_page,
)
from mmpse.visualization import table as html_table

from .pictures import predictions
from .reach import reachable
from .subject import Subject, validates

# key of a stage -> how it is shown, and in which unit
RESOURCES = dict(
    flops=('FLOPs (M multiply-adds)', 1e-6),  # or G
    params=('parameters (M)', 1e-6),
    bytes=('file of the weights (MB)', 1e-6),
    latency_ms=('latency, PyTorch (ms)', 1.0),
    onnxruntime_ms=('latency, onnxruntime (ms)', 1.0),
)
Stages = Mapping[str, Mapping[str, float | None]]


def cells(table: Stages, busy: Mapping[str, float]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: a row for each figure, a column for each stage.

    Args:
        table: Stage -> metrics and resources.
        busy: Latency -> by what factor it was slowed down; too much of it gives it a mark.
    """
    keys = list(dict.fromkeys(key for stage in table.values() for key in stage))
    first, last = (list(table)[k] for k in (0, -1))
    rows = []
    for key in keys:
        name, factor = RESOURCES.get(key, (key, 1.0))
        values = [stage.get(key) for stage in table.values()]
        if key in ('flops', 'params') and max(v for v in values if v is not None) >= 1e9:
            name, factor = name.replace('(M', '(G'), 1e-9
        change, (old, new) = '-', (values[0], values[-1])
        if old is not None and new is not None:
            if key in RESOURCES:
                change = f'{new / old:.1%}' if old else '-'
            elif -1 not in (old, new):
                change = f'{new - old:+.4g}'
        mark = ' *' * (busy.get(key, 0) >= BUSY)
        rows.append([name + mark, *(_figure(key, value, factor) for value in values), change])
    return ['', *table, f'{last} : {first}'], rows


def _figure(key: str, value: float | None, factor: float) -> str:
    if value in (None, -1) and key not in RESOURCES:  # -1 is COCO's word for no such objects
        return 'n/a'
    if value is None:
        return '-'
    return f'{value * factor:,.4g}' if value * factor < 1e4 else f'{value * factor:,.0f}'


def footnote(busy: Mapping[str, float], steps: Path) -> str:
    """What the mark of latencies means, and how to measure them again; empty if all are good."""
    factor = max(busy.values(), default=0)
    if factor < BUSY:
        return ''
    return (
        f'* The machine was busy: this took {factor:.1f} times as long as the processor worked for '
        'it. To measure again when nothing else runs: '
        f'rm {shlex.quote(str(steps / "measured.json"))}, then the same command with --resume.'
    )


def summary(table: Stages, busy: Mapping[str, float], steps: Path) -> str:
    """The table for a terminal, with its footnote."""
    return '\n'.join(filter(None, [text_table(*cells(table, busy)), footnote(busy, steps)]))


def write_report(
    out: Path,
    steps: Path,
    subject: Subject,
    model: nn.Module,
    subnet: Subnet,
    table: Stages,
    busy: Mapping[str, float],
    title: str,
    notes: Sequence[str] = (),
) -> None:
    """Write ``report.json`` and ``report.html``.

    Args:
        steps: Folder of what was measured on the way.
        subject: The model as it was; its channels may be sorted.
        model, subnet: The pruned model, and its widths.
        table, busy: See :func:`cells`.
        title: What was done, for the first line of the page.
        notes: What the user must know, a sentence each.
    """
    content = dict(table, busy=busy, widths=dict(subnet), source=subnet.source, notes=list(notes))
    write_json(out / 'report.json', content)
    said = ''.join(map(paragraph, filter(None, [footnote(busy, steps), *notes])))
    result = html_table(*cells(table, busy)) + said
    sections = [('Result', result + _notes(subject, subnet, table))]
    if validates(subject.cfg):
        models = dict(before=subject.model, after=model)
        shown = _or_why_not(lambda: predictions(subject, models))
        sections.append(('Predictions on validation images', shown))
    full = subject.space.fullnet
    widths = [(unit, w / full[unit], f'{w} of {full[unit]}') for unit, w in subnet.items()]
    sections.append(('Channels kept in every unit', bars(widths)))
    reach = reachable(subject)
    tables = [html_table(*reach.cells)]
    if reach.fixed:
        tables.append(html_table(*reach.fixed_cells, left=2))
    sections.append(('What is reachable', '<br>'.join(tables)))
    sections += [(name, _or_why_not(draw)) for name, draw in _choice(subject, subnet, steps)]
    write_page(out / 'report.html', title, sections)


def _notes(subject: Subject, subnet: Subnet, table: Stages) -> str:
    notes = [
        f'Widths are chosen by: {subnet.source["how"]}.',
        f'FLOPs and latency are those of {subject.counted}, up to the raw outputs.',
    ]
    if validates(subject.cfg):
        notes.append("Metrics are those of the config's validation split.")
    else:
        notes.append('The config has no validation data, so that no metric can be shown.')
    if 'latency_ms' in table['after']:
        notes.append('Latencies are medians, measured interleaved on this machine.')
    return paragraph(' '.join(notes))


def _choice(subject: Subject, subnet: Subnet, steps: Path) -> list[tuple[str, Callable[[], str]]]:
    """How the widths were chosen, as far as it was measured."""
    figures: list[tuple[str, Callable[[], str]]] = []
    judged, sensitivity = steps / 'judged.json', steps / 'sensitivity.json'
    if judged.exists():
        rows: list[dict[str, Any]] = json.loads(judged.read_text())
        flops = subject.costs['flops']([row['widths'] for row in rows])
        names, losses = ([row[key] for row in rows] for key in ('name', 'loss'))
        errors = [row['error'] or 0.0 for row in rows]  # of a single image there is none

        def candidates() -> str:
            figure = judged_candidates(names, flops, losses, errors, subnet.source['how'])
            said = paragraph(
                'Each candidate is judged by its loss on training images that its choice did not '
                'see. The bar is one standard error of the difference from uniform pruning.'
            )
            return picture(figure, 'loss against FLOPs of the candidates') + said

        figures.append(('Candidates', candidates))
    if sensitivity.exists():
        found = {
            unit: {int(width): loss for width, loss in row.items()}
            for unit, row in json.loads(sensitivity.read_text()).items()
        }

        def curves() -> str:
            figure = sensitivity_curves(found, subject.space.fullnet)
            return picture(figure, 'loss where one unit is cut')

        figures.append(('What the model loses where one unit is cut', curves))
    return figures


def _or_why_not(draw: Callable[[], str]) -> str:
    """A part of the page; one that cannot be drawn does not undo hours of training."""
    try:
        return draw()
    except Exception as error:  # whatever a dataset or visualizer raises
        return paragraph(f'Cannot be shown ({type(error).__name__}: {one_line(error)}).')
