"""Section 2 of docs/results.md, from the records of tools/evidence/equal_flops.py."""

from __future__ import annotations

import statistics
from pathlib import Path

from frame import read_json
from tables import note, provenance, spread, table

METHODS = {  # of experiment 2
    'uniform': 'uniform pruning',
    'random': 'random search (parallel supernet)',
    'greedy': 'greedy slimming (AutoSlim)',
    'torch-pruning': 'Torch-Pruning, fine-tuned',
    'evolution': 'evolution from the prior (PSE-Net)',
    'evolution-pretrained': 'evolution, its supernet from the full network',
    'stage-wise': 'stage-wise search (SP)',
}
OUR_METHODS = ('evolution', 'evolution-pretrained', 'stage-wise')
WARM = ", from the supernet's weights"


class EqualFlops:
    """The records of one network at one scale."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        self.records = [read_json(path) for path in sorted(folder.glob('*_seed*.json'))]
        self.results = [record for record in self.records if record['kind'] == 'result']
        self.searches = [record for record in self.records if record['kind'] == 'search']

    def of(self, budget: str, free: bool = False) -> dict[str, list[dict]]:
        """The results at a budget, by the name of the method.

        Args:
            free: Those retrained for the whole time, as if nothing had come before.
        """
        names = [(m, warm) for m in METHODS for warm in (False, True)]
        of_budget = [
            r for r in self.results if r['budget'] == budget and is_free(r) in (free, None)
        ]
        return {
            METHODS[m] + WARM * warm: records
            for m, warm in names
            if (records := [r for r in of_budget if (r['method'], r['warm']) == (m, warm)])
        }


def is_free(result: dict) -> bool | None:
    """Whether the time does not count what came before the retraining; None: nothing did."""
    return None if result['method'] == 'uniform' else result.get('free', False)


def equal_flops(of: EqualFlops) -> str:
    total = ', '.join(f'{s:g}' for s in sorted({r['seconds_allowed'] for r in of.results}))
    text = f'\n### {of.name}\n\n{total} s for every result. '
    text += (
        'Found subnets are retrained from scratch, unless a row says otherwise, for what the '
        'supernet (or the full network that is pruned) and the search leave of the time. A '
        'supernet is trained once for all methods and budgets that use it, and counts in full for '
        'each. The recipe of all trainings is the same but for the length.\n'
    )
    text += note(of.folder, 'setup')
    for budget in sorted({r['budget'] for r in of.results}, reverse=True):
        text += equal_flops_at(of, budget)
    what = f'{len(of.results)} results and what they needed, {len(of.records)} records in all'
    return text + provenance(of.folder, of.records, what)


def equal_flops_at(of: EqualFlops, budget: str) -> str:
    results, free = of.of(budget), of.of(budget, free=True)
    text = f'\n#### At {budget} of the FLOPs\n' + table_of_results(results)
    text += verdict_of_results(results) + note(of.folder, f'at_{budget.rstrip("%")}')
    missing = [name for name in METHODS.values() if name not in results]
    if missing:
        text += f'\nNot run: {", ".join(missing)}.\n'
    if len(free) > 1:
        text += (
            f'\n#### At {budget} of the FLOPs, retrained for the whole time\n\nFound subnets, '
            'retrained from scratch for as long as the uniform one: how good they are, whatever it '
            'cost to find them.\n'
        )
        text += table_of_results(free) + verdict_of_results(free)
        text += note(of.folder, f'at_{budget.rstrip("%")}_free')
    return text


def table_of_results(results: dict[str, list[dict]]) -> str:
    margins = above_uniform(results)
    rows = [
        [
            name,
            spread([r['flops'] / 1e6 for r in records], '.2f'),
            spread([r['test'] for r in records], '.2f'),
            spread(margins[name], '+.2f') if name in margins else '',
            spread([r['held_out'] for r in records], '.2f'),
            len(records),
            *(
                f'{statistics.mean(r[part] for r in records):.0f}'
                for part in ('supernet_seconds', 'search_seconds', 'train_seconds', 'steps')
            ),
        ]
        for name, records in results.items()
    ]
    header = 'method', 'M FLOPs', 'test accuracy (%)', 'against uniform', 'held-out accuracy (%)'
    header = *header, 'seeds', 'supernet (s)', 'search (s)', 'retraining (s)', 'its steps'
    return table(header, rows)


def above_uniform(results: dict[str, list[dict]]) -> dict[str, list[float]]:
    """Points of test accuracy above uniform pruning with the same seed, for all such seeds.

    The results of a seed are of one day, on which the machine was as fast for all.
    """
    uniform = {r['seed']: r['test'] for r in results.get(METHODS['uniform'], [])}
    margins = {
        name: [r['test'] - uniform[r['seed']] for r in records if r['seed'] in uniform]
        for name, records in results.items()
    }
    return {name: values for name, values in margins.items() if values}


def verdict_of_results(results: dict[str, list[dict]]) -> str:
    """In plain words, who wins, and where the best of ours stands."""
    margins = {name: statistics.mean(values) for name, values in above_uniform(results).items()}
    if len(margins) < 2:
        return ''
    names = {METHODS[m] + WARM * warm for m in OUR_METHODS for warm in (False, True)}
    ours = {name: value for name, value in margins.items() if name in names}
    rivals = {name: value for name, value in margins.items() if name not in names}
    first = max(margins, key=margins.get)
    text = f'{place(first, margins)} wins'
    if first in ours:
        text += f', one of ours; the best rival is {place(max(rivals, key=rivals.get), margins)}'
    elif ours:
        best = max(ours, key=ours.get)
        text += f'; the best of ours is {place(best, margins)}'
        also = [name for name, value in rivals.items() if value >= ours[best] and name != first]
        if also:
            text += f', which also loses to {"; ".join(also)}'
    return f'\n**{text}.**\n'


def place(name: str, margins: dict[str, float]) -> str:
    """A method, and where it stands to uniform pruning."""
    return name if name == METHODS['uniform'] else f'{name} ({margins[name]:+.2f} points)'
