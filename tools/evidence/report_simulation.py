"""The part of docs/results.md on searches of a table, from the record of simulate.py."""

from __future__ import annotations

from collections.abc import Mapping

from tables import table

SEARCHES = {
    'random': 'random',
    'evolution': 'evolution',
    'greedy': 'greedy (AutoSlim)',
    'predictor': 'predictor (`mmpse.PredictorSearchLoop`)',
}


def simulation_section(record: Mapping) -> str:
    """What each search gains over uniform pruning, and how often it ends below it."""
    noises = sorted({row['noise'] for row in record['rows']})
    lines = []
    for budget in record['budgets']:
        title = f'uniform {budget["width"]:g}x'
        for search, words in SEARCHES.items():
            rows = {
                row['noise']: row
                for row in record['rows']
                if (row['search'], row['width']) == (search, budget['width'])
            }
            cells = [
                f'{rows[n]["gain"]:+.2f} ± {rows[n]["error"]:.2f}, {rows[n]["worse"]:.0%}'
                for n in noises
            ]
            lines.append([title, words, *cells])
            title = ''
    header = ['budget of', 'search', *(f'noise {noise:g}x' for noise in noises)]
    networks, best = (
        ' and '.join(form.format(budget[key]) for budget in record['budgets'])
        for key, form in dict(networks='{}', oracle='{:.2f}').items()
    )
    return (
        '\nA published table (that of Channel-Bench-Macro) holds the accuracies of all networks of '
        f'a space, of which {networks} lie within the budgets. A search sees '
        f'{record["evaluations"]} scores, which are accuracies with noise of 1, 2 or 4 times '
        'their spread. A cell has the gain over uniform pruning in points, its standard error over '
        f'{record["repetitions"]} repetitions, and how often the search ends below uniform '
        f'pruning. The best network gains {best} points.\n'
        + table(header, lines, left=2)
        + '\nThe predictor gains at every noise, since it keeps the uniform network unless another '
        'is surely better. The others pick the luckiest of their scores.\n'
        + f'\nRerun: `{record["command"]}`\n'
    )
