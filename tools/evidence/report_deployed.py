"""The part of docs/results.md on exported files, from the records of tools/evidence/deployed.py."""

from __future__ import annotations

from pathlib import Path

from deployed import RUNTIMES
from frame import read_json
from report_whole import heading, in_order
from runs import MODELS
from tables import note, table

NAMES = dict(torch='PyTorch', onnxruntime='onnxruntime', openvino='OpenVINO', int8='int8')


def deployed_section(folder: Path) -> str:
    """Metric and latency of every file, of full and pruned models."""
    lines = []
    for name, model in MODELS.items():
        found = {}
        for path in folder.glob(f'{name}_*.json'):
            kind, _, amount = path.stem.removeprefix(f'{name}_').rpartition('-')
            found[f'{kind} {amount}%'.strip()] = read_json(path)
        for number, budget in enumerate(sorted(found, key=in_order)):
            record = found[budget]
            if not number:
                full = [cell(record, 'full', runtime) for runtime in RUNTIMES]
                lines.append([model.title, 'full', *full])
            pruned = [cell(record, 'pruned', runtime) for runtime in RUNTIMES]
            lines.append(['', heading(budget), *pruned])
    if not lines:
        return '\nNot run: `python tools/evidence/deployed.py`\n'
    header = '', 'budget', *(NAMES[runtime] for runtime in RUNTIMES)
    return table(header, lines, left=2) + note(folder, 'notes')


def cell(record: dict, model: str, runtime: str) -> str:
    """Metric of a file, and its latency: of a pruned model as a share of the full one's, which was
    measured in turns with it."""
    metric, time = (record[model][key][runtime] for key in ('metric', 'ms'))
    metric = 100 * metric if metric <= 1 else metric
    if model == 'full':
        return f'{metric:.1f}, {time:.{1 if time >= 1 else 2}f} ms'
    return f'{metric:.1f}, {time / record["full"]["ms"][runtime]:.2f}'
