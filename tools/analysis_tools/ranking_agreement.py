"""How well a supernet's scores rank subnets, and FLOPs alone beside it.

python tools/analysis_tools/ranking_agreement.py SUBNETS [--archive ARCHIVE] [--json FILE]

SUBNETS is a CSV with a header, or a JSON list of objects, with the columns `subnet` (a subnet file,
relative to SUBNETS) and `accuracy` (of that subnet trained on its own). The supernet's scores come
from the archive of a search, or else from a column `score`.
"""

import argparse
import csv
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmpse.command import run_command
from mmpse.files import write_json
from mmpse.search.archive import read_archive, read_identity
from mmpse.search.ranking import ranking_agreement
from mmpse.space import Subnet


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('subnets', type=Path, metavar='SUBNETS')
    parser.add_argument('--archive', type=Path, help='archive.db of a search of the supernet')
    parser.add_argument('--topk', type=int, nargs='+', default=[1, 5], help='regret of the best k')
    parser.add_argument('--json', type=Path, help='write the figures to this file')
    return parser.parse_args()


def read_rows(path: Path, columns: tuple[str, ...]) -> list[dict]:
    """Rows of a CSV or JSON file; an error names the row that lacks a column."""
    with path.open(newline='', encoding='utf-8') as file:
        rows = json.load(file) if path.suffix == '.json' else list(csv.DictReader(file))
    for number, row in enumerate(rows, 1):
        missing = [column for column in columns if row.get(column) in (None, '')]
        if missing:
            raise SystemExit(f'{path}, row {number}: no {" and no ".join(missing)}, got {row}')
    return rows


def main() -> None:
    args = parse_args()
    columns = ('subnet', 'accuracy') if args.archive else ('subnet', 'accuracy', 'score')
    rows = read_rows(args.subnets, columns)
    subnets = [Subnet.load(args.subnets.parent / row['subnet']) for row in rows]
    for subnet in subnets:
        if 'flops' not in subnet.resources:
            raise SystemExit(f'{subnet.path}: no FLOPs among its resources {subnet.resources}')
    if args.archive is None:
        scores = [float(row['score']) for row in rows]
    else:
        archived = {row.widths: row.score for row in read_archive(args.archive)}
        units = [name for name, _ in read_identity(args.archive)['units']]
        widths = [tuple(subnet[unit] for unit in units) for subnet in subnets]
        missing = [s.path for s, row in zip(subnets, widths) if row not in archived]
        if missing:
            raise SystemExit(
                f'{args.archive} lacks {len(missing)} of {len(subnets)} subnets: '
                f'{", ".join(missing[:5])}'
            )
        scores = [archived[row] for row in widths]
    accuracies = [float(row['accuracy']) for row in rows]
    rankings = dict(supernet=scores, FLOPs=[subnet.resources['flops'] for subnet in subnets])
    figures = {
        name: ranking_agreement(values, accuracies, args.topk) for name, values in rankings.items()
    }
    table = Table(title=f'ranking of {len(rows)} subnets against their own accuracies')
    for column in ('ranked by', *figures['supernet']):
        table.add_column(column, justify='left' if column == 'ranked by' else 'right')
    for name, values in figures.items():
        table.add_row(name, *(f'{value:.3f}' for value in values.values()))
    Console().print(table)
    if args.json:
        write_json(args.json, figures)


if __name__ == '__main__':
    run_command(main)
