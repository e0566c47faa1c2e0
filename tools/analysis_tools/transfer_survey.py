"""Try tools/transfer.py on every config of an installed mmdet or mmseg, and print a table.

python tools/analysis_tools/transfer_survey.py mmdet [-o work_dirs/transfer_mmdet.json]

Takes about an hour on a CPU; goes on where it was stopped.
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

import mmpse  # noqa: F401  before a config is read: it makes `mmpse::` and `mmseg::` bases resolve
from mmpse.command import run_command
from mmpse.transfer.survey import survey


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('package', choices=['mmdet', 'mmseg'])
    parser.add_argument('--only', default='', help='only configs with this in their name')
    parser.add_argument('-o', '--out', type=Path, help='JSON file of the results')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    out = args.out or Path('work_dirs') / f'transfer_{args.package}.json'
    results = survey(args.package, out, args.only)
    tried, good, reasons = Counter(), Counter(), defaultdict(list)
    for config, result in results.items():
        tried[result['backbone']] += 1
        good[result['backbone']] += result['error'] is None
        if result['error'] is not None:
            alike = result.get('original') == result['error']
            reasons[result['error'] + ' (so does the original)' * alike].append(config)
    table = Table(title=f'{args.package}: configs that build, run and reload')
    table.add_column('backbone')
    for column in ('configs', 'good', '%'):
        table.add_column(column, justify='right')
    for backbone, count in [*tried.items(), ('all', sum(tried.values()))]:
        ok = sum(good.values()) if backbone == 'all' else good[backbone]
        table.add_row(backbone, str(count), str(ok), f'{100 * ok / count:.1f}')
    console = Console()
    console.print(table)
    runs = len({result['ran'] for result in results.values() if result['ran']})
    console.print(f'{runs} distinct structures ran loss, forward and reload.')
    for reason, configs in sorted(reasons.items(), key=lambda item: -len(item[1])):
        console.print(f'{len(configs)} failed: {reason}', *configs, sep='\n    ', markup=False)


if __name__ == '__main__':
    run_command(main, 'the same command goes on')
