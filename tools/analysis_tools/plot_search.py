"""Draw searches, and compare them.

python tools/analysis_tools/plot_search.py ARCHIVE [ARCHIVE2 ...] [--out-dir DIR]

ARCHIVE is the archive.db of a search. Writes search_progress.png (highest and mean score of every
generation beside the references; score against FLOPs with the front) and width_profile.png (the
widths of every search's best subnet), and prints a table. The best subnet is the one that the
search chose; in an archive of an earlier version, that of the highest score within its budget.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from mmpse.command import run_command
from mmpse.errors import UserError
from mmpse.search.archive import (
    Judged,
    ranking_key,
    read_archive,
    read_chosen,
    read_identity,
    read_searches,
)
from mmpse.space.budget import parse_amount
from mmpse.visualization import search_progress, width_profile


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('archives', nargs='+', type=Path, metavar='ARCHIVE')
    parser.add_argument('--out-dir', type=Path, help='default: the folder of the first archive')
    return parser.parse_args()


class Searched(NamedTuple):
    """One search of an archive."""

    judged: list[Judged]
    within: list[Judged]  # those of them that meet its budget: uniform pruning does
    chosen: Judged | None  # a search that is not at its end may have none


def searches_in(path: Path, name: str) -> dict[str, Searched]:
    """Name -> what was judged, of every search in an archive."""
    rows, chosen, found = read_archive(path), read_chosen(path), {}
    full = next((row for row in rows if row.origin == 'fullnet'), None)
    for number, settings in read_searches(path).items():
        judged = [row for row in rows if row.search == number]
        if full is None or all(row is full for row in judged):
            continue
        limits = {
            resource: parse_amount(amount, full.resources[resource], resource)
            for resource, amount in settings['budget'].items()
            if resource in full.resources  # an earlier search may have had no latency
        }
        within = [
            row
            for row in judged
            if all(row.resources[resource] <= limit for resource, limit in limits.items())
        ]
        if number in chosen:  # maybe judged by an earlier search
            best = next(row for row in rows if row.widths == chosen[number])
        else:
            best = min(within, key=ranking_key, default=None)
        found[f'{name}#{number}'] = Searched(judged, within, best)
    if not found:
        raise UserError(f'{path} holds no judged subnets yet')
    return found if len(found) > 1 else {name: next(iter(found.values()))}


def main() -> None:
    args = parse_args()
    identities = [read_identity(path) for path in args.archives]
    for path, identity in zip(args.archives, identities):
        for key in ('units', 'metric'):
            if identity[key] != identities[0][key]:
                raise UserError(
                    f'{path} and {args.archives[0]} cannot be compared: their {key} differ '
                    f'({identity[key]}, {identities[0][key]})'
                )
    full, metric = dict(identities[0]['units']), identities[0]['metric']
    names = [path.parent.name or path.stem for path in args.archives]
    if len(set(names)) < len(names):
        names = list(map(str, args.archives))
    searches: dict[str, Searched] = {}
    for path, name in zip(args.archives, names):
        searches.update(searches_in(path, name))
    best = {name: search.chosen for name, search in searches.items() if search.chosen is not None}

    out_dir = args.out_dir or args.archives[0].parent
    out_dir.mkdir(parents=True, exist_ok=True)
    search_progress(searches, metric).savefig(out_dir / 'search_progress.png', dpi=150)
    widths = {name: dict(zip(full, row.widths)) for name, row in best.items()}
    width_profile(widths, full).savefig(out_dir / 'width_profile.png', dpi=150)

    table = Table(title=f'the best subnet of every search, by {metric}')
    for column in ('search', 'judged', metric, 'loss', 'FLOPs (M)', 'params (M)'):
        table.add_column(column, justify='left' if column == 'search' else 'right')
    references = {
        f'{name}: {row.origin}': row
        for name, search in searches.items()
        for row in search.judged
        if not row.generation
    }
    for name, row in {**references, **best}.items():
        table.add_row(
            name,
            str(len(searches[name].judged)) if name in searches else '',
            f'{row.score:.4f}',
            '' if row.loss is None else f'{row.loss:.4f}',
            f'{row.resources["flops"] / 1e6:.2f}',
            f'{row.resources["params"] / 1e6:.2f}',
        )
    Console().print(table)
    print(f'{out_dir}/search_progress.png and width_profile.png written')


if __name__ == '__main__':
    run_command(main)
