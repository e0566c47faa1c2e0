"""The first part of docs/results.md, and the table of the README, from the records of whole.py."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from records import full_seconds, percent, points, records
from report_figure import draw
from runs import ABLATIONS, MODELS, SCRATCH
from tables import note, spread, table

NAMES = {
    'trained': 'unpruned, as given',
    'unpruned': 'unpruned, same extra epochs',
    'uniform': '`uniform`',
    'torch-pruning': 'Torch-Pruning, group norm',
    'torch-pruning-taught': 'Torch-Pruning, group norm, taught',
    'torch-pruning-taylor': 'Torch-Pruning, Taylor, taught',
    'torch-pruning-fifth': 'Torch-Pruning, group norm, floor of a fifth, taught',
    'torch-pruning-taylor-fifth': 'Torch-Pruning, Taylor, floor of a fifth, taught',
    'fastnas': 'ModelOpt FastNAS',
    'sensitivity': '`sensitivity` (the default)',
    'search': '`search`',
    'uniform-longer': '`uniform`, as long as `search` in all',
    'sensitivity-longer': '`sensitivity`, as long as `search` in all',
    'sensitivity-taught': '`sensitivity`, taught by the unpruned model',
    'sensitivity-sixteenth': '`sensitivity`, floor of a sixteenth instead of an eighth',
    'sensitivity-fifth': '`sensitivity`, floor of a fifth',
    'sensitivity-backbone': '`sensitivity`, of the backbone alone',
}


LEFT_OUT = {  # how -> the order of channels, and what comes after the cut
    'uniform': ('selection', 'reconstruction'),
    'uniform-taylor': ('Taylor', 'reconstruction'),
    'uniform-group': ('group norm', 'reconstruction'),
    'uniform-bn': ('BatchNorm scale', 'reconstruction'),
    'uniform-l1': ('L1 norm', 'reconstruction'),
    'uniform-unsorted': ('as they were trained', 'reconstruction'),
    'uniform-recalibrated': ('selection', 'recalibration'),
    'uniform-l1-recalibrated': ('L1 norm', 'recalibration'),
}
COUNTED = {  # how -> what is trained when everything counts
    'sensitivity': 'the full model, then pruned by `sensitivity`',
    'scratch-longer': 'the small model, from random weights, as long in all',
    'scratch': 'the small model, from random weights, in the epochs of the fine-tuning',
}
FIRST = next(iter(MODELS))  # the model of the figure
STAGES = {  # of a pruning's time -> the steps of whole.py
    'choosing': ('sensitivity', 'exploring', 'choice'),
    'fine-tuning': ('fine-tuning',),
    'the rest': ('evaluation', 'sorting', 'cut', 'report'),
}
UNPRUNED = 'trained', 'unpruned'  # columns of the first table, as are
PRUNED = {'uniform': '`uniform`', 'torch-pruning': 'Torch-Pruning', 'fastnas': 'FastNAS'}
PRUNED.update({'sensitivity': '`sensitivity`', 'search': '`search`'})
FEW = 'torch-pruning', 'uniform', 'sensitivity'  # of the README


def whole_section(folder: Path, images: Path) -> str:
    """The page's first table, its figure, notes by hand, and what stands behind the table."""
    rows = records(folder)
    text = top(rows)
    if any(row['name'] == FIRST for row in rows):
        draw(folder, images / f'{FIRST}.png', FIRST)
        text += f'\n![{MODELS[FIRST].title} against FLOPs](images/{FIRST}.png)\n'
    text += note(folder, 'account')
    text += ''.join(behind(folder, name, rows) for name in MODELS)
    return text + parts(folder, rows) + scratch(folder, rows) + steps(folder, rows)


def readme_table(folder: Path) -> str:
    """The same table, shorter: fewer methods, and budgets at which several seeds were run."""
    rows = records(folder)
    several = {
        (row['name'], row['budget'])
        for row in rows
        if row['how'] == 'sensitivity' and row['seed'] > 0
    }
    several.update((name, '100%') for name in MODELS)
    return top([r for r in rows if (r['name'], r['budget']) in several], UNPRUNED, FEW)


def top(
    rows: Sequence[dict], unpruned: Sequence[str] = UNPRUNED, pruned: Sequence[str] = tuple(PRUNED)
) -> str:
    """A line for each budget of a model; a column for each method."""
    lines = []
    for name, model in MODELS.items():
        own = [row for row in rows if row['name'] == name]
        budgets = {row['budget'] for row in own if row['how'] in pruned}
        title, *whole = model.title, *(spread_of(own, '100%', how) for how in unpruned)
        for budget in sorted(budgets, key=in_order):
            cells = [spread_of(own, budget, how) for how in pruned]
            for k in best([values_of(own, budget, how) for how in pruned]):
                cells[k] = f'**{cells[k]}**'
            lines.append([title, heading(budget), *whole, *cells])
            title, whole = '', [''] * len(whole)
    header = ['', 'budget', *(NAMES[how] for how in unpruned), *(PRUNED[how] for how in pruned)]
    return table(header, lines, left=2)


def values_of(rows: Sequence[dict], budget: str, how: str) -> list[float]:
    return points([r for r in rows if (r['budget'], r['how']) == (budget, how)], 'test')


def spread_of(rows: Sequence[dict], budget: str, how: str) -> str:
    values = values_of(rows, budget, how)
    return spread(values, '.1f') if values else ''


def best(groups: Sequence[Sequence[float]]) -> list[int]:
    """Which have the best mean of several seeds, or one within two standard errors of it."""
    known = [k for k, values in enumerate(groups) if len(values) > 1]
    if len(known) < 2:
        return []
    mean, error = (
        [f(values) if len(values) > 1 else None for values in groups]
        for f in (statistics.mean, lambda v: statistics.variance(v) / len(v))
    )
    first = max(known, key=lambda k: mean[k])
    return [k for k in known if mean[first] - mean[k] <= 2 * (error[first] + error[k]) ** 0.5]


def in_order(budget: str) -> tuple[bool, float]:
    """FLOPs first, from the whole to the least."""
    return ' ' in budget, -percent(budget)


def heading(budget: str) -> str:
    kind, _, amount = budget.rpartition(' ')
    return f'{amount[:-1]} % of {f"the {kind}" if kind else "FLOPs"}'


def behind(folder: Path, name: str, rows: Sequence[dict]) -> str:
    """Of one model: what every figure of the table is made of."""
    rows = [row for row in rows if row['name'] == name and row['how'] not in (*ABLATIONS, *SCRATCH)]
    if not rows:
        return f'\n### {MODELS[name].title}\n\nNot run: `{command(name)}`\n'
    lines = []
    for key in dict.fromkeys((row['budget'], row['how']) for row in rows):
        own = [row for row in rows if (row['budget'], row['how']) == key]
        times = [row['cpu_seconds'] for row in own if row.get('cpu_seconds')]
        speed = [ratio(row) for row in own if 'report' in row]
        lines.append(
            [
                heading(key[0]),
                NAMES[key[1]],
                f'{100 * statistics.mean(row["flops"] for row in own):.1f} %',
                own[0]['epochs'],
                ' '.join(f'{value:.1f}' for value in points(own, 'test')),
                ' '.join(f'{value:.1f}' for value in points(own, 'val')),
                ' '.join(f'{value:.1f}' for value in points(map(cut, own), 'val')),
                f'{statistics.median(speed):.2f}' if speed else '',
                f'{statistics.mean(times):.0f}' if times else '',
            ]
        )
    header = 'budget', 'method', 'FLOPs', 'epochs', 'test', 'validation', 'as cut', 'latency'
    return (
        f'\n### {MODELS[name].title}\n'
        + table([*header, 'CPU seconds'], lines, left=2)
        + note(folder, name)
        + f'\nRerun: `{command(name)}`\n'
    )


def groups(
    rows: Sequence[dict], of: Sequence[str], hows: Iterable[str]
) -> Iterator[tuple[str, str, list[dict]]]:
    """The rows of each method, where a budget has one of the methods ``of``; titles stand once."""
    for name, budget in dict.fromkeys((r['name'], r['budget']) for r in rows if r['how'] in of):
        title = f'{MODELS[name].title}, {heading(budget)}'
        for how in hows:
            own = [r for r in rows if (r['name'], r['budget'], r['how']) == (name, budget, how)]
            if own:
                yield title, how, own
                title = ''


def parts(folder: Path, rows: Sequence[dict]) -> str:
    """What each part of the command brings, at uniform widths."""
    lines = []
    for title, how, own in groups(rows, ABLATIONS, LEFT_OUT):
        cuts, tests = points([cut(row) for row in own], 'val'), points(own, 'test')
        lines.append([title, *LEFT_OUT[how], spread(cuts, '.1f'), spread(tests, '.1f'), len(own)])
    if not lines:
        return ''
    header = '', 'channels by', 'after the cut', 'as cut, validation', 'test', 'seeds'
    return (
        '\n### What each part of the command brings\n'
        + table(header, lines, left=3)
        + note(folder, 'parts')
    )


def scratch(folder: Path, rows: Sequence[dict]) -> str:
    """A small model from the start, where everything counts."""
    lines = []
    for title, how, own in groups(rows, SCRATCH, COUNTED):
        seconds = statistics.mean(row['cpu_seconds'] for row in own)
        if how == 'sensitivity':
            seconds += full_seconds(own[0]['name'], rows)
        figures = own[0]['epochs'], spread(points(own, 'test'), '.1f'), len(own), f'{seconds:.0f}'
        lines.append([title, COUNTED[how], *figures])
    if not lines:
        return ''
    header = '', 'trained', 'epochs of the small model', 'test', 'seeds', 'CPU seconds in all'
    return (
        '\n### Everything counts: a small model from the start?\n'
        + table(header, lines, left=2)
        + note(folder, 'scratch')
    )


def steps(folder: Path, rows: Sequence[dict]) -> str:
    """What the steps of a pruning take, as shares of its time."""
    lines = []
    for name, model in MODELS.items():
        title = model.title.partition(',')[0]
        timed = [row for row in rows if row['name'] == name and row.get('steps')]
        for how in ('uniform', 'sensitivity', 'search'):
            own = [row for row in timed if row['how'] == how]
            if not own or all(row['how'] != 'search' for row in timed):
                continue  # what a search takes is the question
            whole = sum(sum(row['steps'].values()) for row in own)
            taken = [
                sum(row['steps'].get(step, 0) for row in own for step in part) / whole
                for part in STAGES.values()
            ]
            lines.append([title, f'`{how}`', len(own), *(f'{share:.0%}' for share in taken)])
            title = ''
    if not lines:
        return ''
    return (
        '\n### Where the time goes\n'
        + table(['', 'method', 'runs', *STAGES], lines, left=2)
        + note(folder, 'steps')
    )


def cut(row: dict) -> dict[str, float]:
    """What the validation split says of the cut model before its fine-tuning."""
    if row['how'] not in (*PRUNED, *ABLATIONS) or 'report' not in row:
        return {}
    return dict(val=row['report']['cut'].get(row['metric'], 0.0))


def ratio(row: dict) -> float:
    """Latency in PyTorch, as a share of the unpruned model's, measured beside it."""
    after, before = (row['report'][stage]['latency_ms'] for stage in ('after', 'before'))
    return after / before


def command(name: str) -> str:
    return f'python tools/evidence/whole.py {name}'
