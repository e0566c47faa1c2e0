"""What came of a pruning: a table, a file for programs, and a page with figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mmpse.files import write_json
from mmpse.openmmlab.errors import one_line
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
    flops=('FLOPs (M multiply-adds)', 1e-6),
    params=('parameters (M)', 1e-6),
    bytes=('file of the weights (MB)', 1e-6),
    latency_ms=('latency, PyTorch (ms)', 1.0),
    onnxruntime_ms=('latency, onnxruntime (ms)', 1.0),
)
Stages = Mapping[str, Mapping[str, float]]


def cells(table: Stages) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: a row for each figure, a column for each stage."""
    keys = list(dict.fromkeys(key for stage in table.values() for key in stage))
    first, last = (list(table)[k] for k in (0, -1))
    rows = []
    for key in keys:
        name, factor = RESOURCES.get(key, (key, 1.0))
        figures = [
            f'{stage[key] * factor:,.4g}' if key in stage else '-' for stage in table.values()
        ]
        change = '-'
        if key in table[first] and key in table[last]:
            old, new = table[first][key], table[last][key]
            if key not in RESOURCES:
                change = f'{new - old:+.4g}'
            elif old:
                change = f'{new / old:.1%}'
        rows.append([name, *figures, change])
    return ['', *table, f'{last} : {first}'], rows


def summary(table: Stages) -> str:
    """The table for a terminal."""
    return text_table(*cells(table))


def write_report(
    out: Path,
    subject: Subject,
    model: nn.Module,
    subnet: Subnet,
    table: Stages,
    title: str,
    steps: Path,
) -> None:
    """Write ``report.json`` and ``report.html``.

    Args:
        out: Their folder.
        subject: The model as it was; its channels may be sorted.
        model: The pruned model.
        subnet: Its widths.
        table: Stage (``'before'``, ``'cut'``, ``'after'``) -> metrics and resources.
        title: What was done, for the first line of the page.
        steps: Folder of what was measured on the way.
    """
    write_json(out / 'report.json', dict(table, widths=dict(subnet), source=subnet.source))
    sections = [('Result', html_table(*cells(table)) + _notes(subject, subnet, table))]
    if validates(subject.cfg):
        models = dict(before=subject.model, after=model)
        shown = _or_why_not(lambda: predictions(subject, models))
        sections.append(('Predictions on validation images', shown))
    full = subject.space.fullnet
    widths = [(unit, w / full[unit], f'{w} of {full[unit]}') for unit, w in subnet.items()]
    sections.append(('Channels kept in every unit', bars(widths)))
    sections.append(('What is reachable', _reach(subject)))
    sections += [(name, _or_why_not(draw)) for name, draw in _choice(subject, subnet, steps)]
    write_page(out / 'report.html', title, sections)


def _notes(subject: Subject, subnet: Subnet, table: Stages) -> str:
    shape = 'x'.join(map(str, subject.input_shape))
    notes = [
        f'Widths are chosen by: {subnet.source["how"]}.',
        f'FLOPs and latency are those of one image of {shape}, up to the raw outputs.',
    ]
    if validates(subject.cfg):
        notes.append("Metrics are those of the config's validation split.")
    else:
        notes.append('The config has no validation data, so that no metric can be shown.')
    if 'latency_ms' in table['after']:
        notes.append('Latencies are medians, measured interleaved on this machine.')
    return paragraph(' '.join(notes))


def _reach(subject: Subject) -> str:
    """Lowest and full subnet, and what keeps its width."""
    reach = reachable(subject)
    text = html_table(*reach.cells)
    if reach.fixed:
        header = ['what keeps its width', 'why', 'of all FLOPs', "of the lowest's FLOPs"]
        fixed = [
            [group.names, group.why, f'{group.full["flops"]:.1%}', f'{group.lowest["flops"]:.1%}']
            for group in reach.fixed
        ]
        text += '<br>' + html_table(header, fixed, left=2)
    return text


def _choice(subject: Subject, subnet: Subnet, steps: Path) -> list[tuple[str, Callable[[], str]]]:
    """How the widths were chosen, as far as it was measured."""
    figures: list[tuple[str, Callable[[], str]]] = []
    judged, sensitivity = steps / 'judged.json', steps / 'sensitivity.json'
    if judged.exists():
        rows: list[dict[str, Any]] = json.loads(judged.read_text())
        flops = subject.costs['flops']([row['widths'] for row in rows])
        columns = [[row[key] for row in rows] for key in ('name', 'loss', 'error')]
        names, losses, errors = columns

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
