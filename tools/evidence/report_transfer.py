"""Section 4 of docs/results.md, from the records of tools/evidence/downstream.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

from frame import read_json
from tables import note, provenance, spread, table

BACKBONES = {
    'full': 'full',
    'uniform': 'uniform',
    'searched': 'searched',
    'searched-pretrained': 'searched, supernet from the full network',
    'own': 'searched as a detector',
    'own-uniform': "uniform, from the detector's supernet",
}
TASKS = {  # record -> heading, metrics: column, key in the record, factor
    'bccd': (
        'Detection: RetinaNet on BCCD',
        (('box mAP', 'coco/bbox_mAP', 100), ('mAP@50', 'coco/bbox_mAP_50', 100)),
    ),
    'camvid': ('Segmentation: Semantic FPN on CamVid', (('mIoU', 'mIoU', 1), ('mAcc', 'mAcc', 1))),
}
SCALES = ('resnet18-w0p5_b128-small', 'resnet18-w0p5_b128-full')
COMMAND = 'python tools/evidence/downstream.py --cifar10 DATA --bccd BCCD --camvid CAMVID'
INTRODUCTION = """
The backbone is searched on CIFAR-10 at half the FLOPs. The full network, the uniform subnet of
like FLOPs and the searched ones are trained alone on CIFAR-10, all by one recipe, and put into a
detector and a segmentor as `tools/transfer.py` does; these train by one recipe for all of them. One
search is in a supernet trained from scratch, one in a supernet that starts from the full network.
Every seed does all of it anew, supernet and search included. The test splits of BCCD (72 images)
and CamVid (233) are used once, at the end of each training.
"""


def transfer_section(folder: Path) -> str:
    text = INTRODUCTION
    for name in SCALES:
        records = [read_json(path) for path in sorted((folder / name).glob('*_seed*.json'))]
        text += f'\n### {name}\n'
        if records:
            text += of_scale(folder / name, records)
        else:
            text += f'\nNot run: `{COMMAND} --scale {name.rpartition("-")[2]}`\n'
    return text


def of_scale(folder: Path, records: list[dict]) -> str:
    text = note(folder, 'setup') + classifiers(folder, records)
    for task, (heading, metrics) in TASKS.items():
        of_task = [r for r in records if r['kind'] == 'task' and r['task'] == task]
        rows = [r for record in records if record['kind'] == 'latency' for r in record['rows']]
        latencies = [row for row in rows if row['task'] == task]
        text += f'\n#### {heading}\n'
        text += transferred(of_task, latencies, metrics) + note(folder, task)
    return text + provenance(folder, records, f'{len(records)} units of work')


def classifiers(folder: Path, records: list[dict]) -> str:
    """The backbones before their transfer."""
    searches = [record for record in records if record['kind'] == 'search']
    alone = [record for record in records if record['kind'] == 'alone']
    text = '\n#### The backbones, on CIFAR-10\n'
    if not searches or not alone:
        return text + '\nNot run.\n'
    rows = []
    for name, shown in BACKBONES.items():
        found = [record['subnets'][name] for record in searches if name in record['subnets']]
        costs = [subnet['resources'] for subnet in found]
        own = [record for record in alone if record['backbone'] == name]
        if not found:
            continue
        rows.append(
            [
                shown,
                spread([record['test'] for record in own], '.1f') if own else 'not run',
                spread([cost['flops'] / 1e6 for cost in costs], '.1f'),
                spread([cost['params'] / 1e6 for cost in costs], '.2f'),
                spread([record['train_seconds'] for record in own], '.0f') if own else '',
                len(own),
            ]
        )
    header = 'backbone', 'top-1 (%, test)', 'FLOPs (M)', 'params (M)', 'training (s)', 'seeds'
    text += table(header, rows) + verdict(alone, lambda record: record['test'], 'top-1')
    text += note(folder, 'alone')
    supernets = [record['train_seconds'] for record in records if record['kind'] == 'supernet']
    judged = statistics.mean(record['judged'] for record in searches)
    taken = statistics.mean(record['cpu_seconds'] for record in searches)
    return text + (
        f'\nFLOPs: multiply-adds of the classifier at 64x64. Supernets trained for '
        f'{statistics.mean(supernets):.0f} s; the searches judged {judged:.0f} subnets each, on '
        f'held-out training images, in {taken:.0f} s.\n'
    )


def transferred(records: list[dict], latencies: list[dict], metrics: tuple) -> str:
    """The table of one task."""
    if not records:
        return '\nNot run.\n'
    runtimes = [
        (part, runtime)
        for part in ('model', 'backbone')
        for runtime in ('eager', 'onnxruntime')
        if any((row['part'], row['runtime']) == (part, runtime) for row in latencies)
    ]
    rows = []
    for name, shown in BACKBONES.items():
        own = [record for record in records if record['backbone'] == name]
        if not own:
            continue
        row = [shown]
        for _, key, factor in metrics:
            row.append(spread([factor * record['test'][key] for record in own], '.1f'))
        for key in ('flops', 'backbone_flops', 'params'):
            row.append(
                spread([record[key] / 1e6 for record in own], '.1f' if key == 'params' else '.0f')
            )
        for of in runtimes:
            ratios = [
                r['ratio'] for r in latencies if (r['part'], r['runtime'], r['name']) == (*of, name)
            ]
            row.append(spread(ratios, '.2f') if ratios else '')
        rows.append([*row, spread([record['train_seconds'] for record in own], '.0f'), len(own)])
    header = ['backbone', *(column for column, *_ in metrics)]
    header += ['FLOPs (M)', 'of the backbone (M)', 'params (M)']
    header += [
        f'latency, {part}, {"PyTorch" if runtime == "eager" else runtime}'
        for part, runtime in runtimes
    ]
    column, key, factor = metrics[0]
    return (
        table([*header, 'training (s)', 'seeds'], rows)
        + verdict(records, lambda record: factor * record['test'][key], column)
        + own_verdict(records, lambda record: factor * record['test'][key], column)
        + '\nTest split; accuracies in %; FLOPs of one image of 256x192; latency: ratio to the '
        'full network, one image, interleaved rounds, median.\n'
    )


def verdict(records: list[dict], score: Callable[[dict], float], metric: str) -> str:
    """In plain words, whether the searched backbones beat the uniform one of the same seed."""
    searched = {
        'searched': 'Searched',
        'searched-pretrained': 'Searched in the supernet from the full network',
    }
    texts = [compare(records, score, metric, s, ('uniform', 'uniform')) for s in searched.items()]
    return f'\n**{" ".join(filter(None, texts))}**\n' if any(texts) else ''


def own_verdict(records: list[dict], score: Callable[[dict], float], metric: str) -> str:
    """Whether a search of the detector itself beats that of the classifier, and no search."""
    own = 'own', 'The search of the detector itself'
    others = {
        'searched': 'that of the classifier',
        'own-uniform': 'the uniform subnet from the same supernet',
    }
    texts = [compare(records, score, metric, own, other) for other in others.items()]
    return f'\n**{" ".join(filter(None, texts))}**\n' if any(texts) else ''


def compare(
    records: list[dict],
    score: Callable[[dict], float],
    metric: str,
    ours: tuple[str, str],
    other: tuple[str, str],
) -> str:
    """One backbone against another one, over the seeds that both have: key and words for each."""
    scores = {(r['backbone'], r['seed']): score(r) for r in records}
    pairs = [
        (value, scores[other[0], seed])
        for (name, seed), value in scores.items()
        if name == ours[0] and (other[0], seed) in scores
    ]
    if not pairs:
        return ''
    (a, b), wins = map(statistics.mean, zip(*pairs)), sum(x > y for x, y in pairs)
    if f'{abs(a - b):.1f}' == '0.0':  # as far as the page shows
        how = 'is level with'
    elif a < b:
        how = 'does not beat'
    elif wins < len(pairs):
        how = 'is better on average, though not in every seed, than'
    else:
        how = 'beats'
    seen = f'better in {wins} of {len(pairs)} seeds'
    if len(pairs) == 1:
        seen = 'one seed: it may be chance'
    return (
        f'{ours[1]} ({a:.1f}) {how} {other[1]} ({b:.1f}) in {metric}: {a - b:+.1f} points, {seen}.'
    )
