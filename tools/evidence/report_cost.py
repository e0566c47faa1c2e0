"""The part of docs/results.md on costs, from the records of tools/evidence/cost.py."""

from __future__ import annotations

from pathlib import Path

from frame import read_json
from tables import machine_name, note, table

# mode and number of subnets of a step -> its column
STEPS = {
    ('masked', 4): 'masked, n=4',
    ('sliced', 2): 'sliced, n=2',
    ('sliced', 4): 'sliced, n=4',
    ('sliced', 8): 'sliced, n=8',
    ('stage-wise sliced', 4): 'stage-wise',
    ('sandwich', 4): 'sandwich',
    ('spos', 1): 'single path',
}


def cost_section(folder: Path) -> str:
    """What a supernet's training step costs, and what judging a subnet costs."""
    steps = [read_json(path) for path in sorted(folder.glob('train_step_*.json'))]
    rows = []
    for record in steps:
        for layout in dict.fromkeys(row['layout'] for row in record['rows']):
            own = {(r['mode'], r['n']): r for r in record['rows'] if r['layout'] == layout}
            plain = own['plain', 1]
            ratios = [f'{own[key]["ratio"]:.2f}' if key in own else '' for key in STEPS]
            rows.append([name_of(record), layout, f'{plain["seconds"]:.2f}', *ratios])
    text = ''
    if steps:
        text += (
            "\nSeconds of a plain training step of the full network, and what a supernet's step "
            'costs as a share of it (n subnets share the batch):\n'
            + table(['network', 'layout', 'plain (s)', *STEPS.values()], rows, left=2)
            + note(folder, 'notes')
        )
    wholes = {path.stem.rpartition('_')[2]: path for path in folder.glob('model_step_*.json')}
    rows = []
    for name, path in sorted(wholes.items()):
        seconds, ratios = zip(*((r['seconds'], r['ratio']) for r in read_json(path)['rows']))
        rows.append([name, f'{seconds[0]:.2f}', *(f'{ratio:.2f}' for ratio in ratios[1:])])
    if rows:
        text += (
            '\nThe same of a detector on BCCD, four subnets in slices: of its backbone alone, with '
            'neck and head at their full width, and of the whole model:\n'
            + table(['model', 'plain (s)', 'backbone, n=4', 'whole model, n=4'], rows)
        )
    judge = folder / 'judge.json'
    if judge.exists():
        record = read_json(judge)
        text += (
            '\nThe judging of a candidate of half the FLOPs, as a share of a plain evaluation: '
            + '; '.join(
                f'{row["network"]} {row["ratio"]:.2f} ({row["images"]} images, recalibration '
                f'on {row["calibration_images"]})'
                for row in record['rows']
            )
            + '.\n'
        )
    if not text:
        return '\nNot run: `python tools/evidence/cost.py`\n'
    machines = {machine_name(record['machine']) for record in steps}
    return text + f'\nOn {"; ".join(sorted(machines))}. Rerun: `python tools/evidence/cost.py`\n'


def name_of(record: dict) -> str:
    """Network, numbers, and what is special of a benchmark of training steps."""
    name = record['command'].rpartition('train_step_')[2]
    network, _, rest = name.partition('_')
    return f'{network}, {rest.replace("_", ", ").replace("-", " ")}'
