"""Section 3 of docs/results.md, from the records of sections 1 and 2."""

from __future__ import annotations

import statistics

import numpy as np
from report_equal_flops import EqualFlops
from report_ranking import NAMES, Ranking, tau
from tables import EQUAL, RANKING, note, rerun, spread, table

SAMPLERS = {  # what a random search draws by, and its name there
    'random': 'uniform',
    'random-cost': 'cost alone',
    'random-loss': 'loss alone',
    'random-prior': 'prior: loss and cost',
}


def parts(of: Ranking, searched: EqualFlops) -> str:
    """Of one network at one scale."""
    text = f'\n### {of.folder.name}\n'
    return text + settings(of) + recalibrations(of) + samplers(searched)


def settings(of: Ranking) -> str:
    """Supernets with one setting changed, against the one with none changed, in equal time."""
    accuracies, reference = np.array(of.accuracies()), 'parallel-sliced'
    changed = [record for record in of.supernets if record['way'] not in NAMES]
    if not changed or not np.isfinite(accuracies).all():
        return "\nNot run: `--only 'supernet_*'` of the command above trains them.\n"
    text = ''
    for seconds in sorted({record['seconds_allowed'] for record in changed}):
        rows = []
        for way in [reference, *sorted({r['way'] for r in changed})]:
            records = of.of(way, seconds)
            if records:
                taus = [tau(np.array(record['scores']), accuracies) for record in records]
                rows.append(
                    [
                        f'{NAMES[way]}, n=4' if way == reference else way,
                        round(statistics.mean(record['steps'] for record in records)),
                        spread(taus, '.3f'),
                        spread([record['scores'][-1] for record in records], '.1f'),
                        spread([statistics.mean(r['scores']) for r in records], '.1f'),
                        len(records),
                    ]
                )
        header = 'changed', 'steps', "Kendall's τ", 'fullnet (%)', 'mean of all (%)', 'seeds'
        text += f'\n#### Supernets trained for {seconds:g} s\n' + table(header, rows)
        text += note(of.folder, f'parts_{seconds:g}s')
    return text


def recalibrations(of: Ranking) -> str:
    """The ranking after more and more batches of recalibration."""
    text, accuracies = '\n#### Batches of recalibration\n', np.array(of.accuracies())
    records = of.recalibrations
    if not records or not np.isfinite(accuracies).all():
        return text + f"\nNot run: `{rerun(of.folder.name, RANKING)} --only 'recalibration_*'`\n"
    rows = []
    for count in records[0]['scores_of_batches']:
        scores = [record['scores_of_batches'][count] for record in records]
        taus = [tau(np.array(of_record), accuracies) for of_record in scores]
        rows.append(
            [
                count,
                # subnets that all score the same are in no order
                '–' if any(len(set(s)) == 1 for s in scores) else spread(taus, '.3f'),
                spread([of_record[-1] for of_record in scores], '.1f'),
                spread([statistics.mean(of_record) for of_record in scores], '.1f'),
                len(records),
            ]
        )
    header = 'batches', "Kendall's τ", 'fullnet (%)', 'mean of all (%)', 'seeds'
    return (
        f'{text}\nOne supernet (parallel, n=4, {records[0]["seconds_allowed"]:g} s) a seed, its '
        f'subnets judged after recalibration on this many training batches of '
        f'{records[0]["batch_size"]}; 8 is the default.\n'
        + table(header, rows)
        + note(of.folder, 'recalibration')
    )


def samplers(of: EqualFlops) -> str:
    """What candidates of a random search are drawn by, the supernet and their number the same."""
    text = '\n#### Samplers of candidates\n'
    for budget in sorted({r['budget'] for r in of.searches}, reverse=True):
        by_sampler = {
            method: [r for r in of.searches if (r['method'], r['budget']) == (method, budget)]
            for method in SAMPLERS
        }
        if not all(by_sampler.values()):
            continue
        rows = [
            [
                SAMPLERS[method],
                spread([r['trials'] / r['accepted'] for r in records], '.1f'),
                spread([r['score'] for r in records], '.2f'),
                spread([statistics.mean(r['scores']) for r in records], '.2f'),
                len(records),
            ]
            for method, records in by_sampler.items()
        ]
        judged = ', '.join(sorted({str(r['judged']) for r in sum(by_sampler.values(), [])}))
        text += (
            f'\nRandom searches of the parallel supernet of section 2 at {budget} of the FLOPs, '
            f'{judged} subnets judged by each; accuracies on held-out training images.\n'
        )
        header = 'drawn by', 'draws a candidate', 'best (%)', 'mean (%)', 'seeds'
        text += table(header, rows) + verdict_of_samplers(by_sampler)
        text += note(of.folder, f'samplers_{budget.rstrip("%")}')
    if not text.count('|'):
        text += (
            f"\nNot run: `{rerun(of.name, EQUAL)} --only 'supernet_parallel*' 'search_random*'`\n"
        )
    return text


def verdict_of_samplers(by_sampler: dict[str, list[dict]]) -> str:
    means = {m: statistics.mean(r['score'] for r in rs) for m, rs in by_sampler.items()}
    own = means.pop('random-prior')
    worse = [f'{SAMPLERS[m]} ({value:.2f})' for m, value in means.items() if own <= value]
    text = f'finds nothing better than {", ".join(worse)}' if worse else 'finds the best subnet'
    return f'\n**The prior of loss and cost ({own:.2f}) {text}.**\n'
