"""Draw searches, and compare them.

python tools/analysis_tools/plot_search.py ARCHIVE [ARCHIVE2 ...] [--out-dir DIR]

ARCHIVE is the archive.db of a search. Writes search_progress.png (best and mean score of every
generation beside the references; score against FLOPs with the front) and width_profile.png (the
widths of every search's best subnet), and prints a table.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmpse.command import run_command
from mmpse.search.archive import Judged, ranking_key, read_archive, read_identity
from mmpse.visualization import search_progress, width_profile


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('archives', nargs='+', type=Path, metavar='ARCHIVE')
    parser.add_argument('--out-dir', type=Path, help='default: the folder of the first archive')
    return parser.parse_args()


def searches_in(path: Path, name: str) -> dict[str, list[Judged]]:
    """Name -> judged subnets of every search in an archive."""
    rows = read_archive(path)
    numbers = sorted({row.search for row in rows if row.origin != 'fullnet'})
    if not numbers:
        raise SystemExit(f'{path} holds no judged subnets yet')
    names = {n: name if len(numbers) == 1 else f'{name}#{n}' for n in numbers}
    return {names[n]: [row for row in rows if row.search == n] for n in numbers}


def main() -> None:
    args = parse_args()
    identities = [read_identity(path) for path in args.archives]
    for path, identity in zip(args.archives, identities):
        for key in ('units', 'metric'):
            if identity[key] != identities[0][key]:
                raise SystemExit(
                    f'{path} and {args.archives[0]} cannot be compared: their {key} differ '
                    f'({identity[key]}, {identities[0][key]})'
                )
    full, metric = dict(identities[0]['units']), identities[0]['metric']
    names = [path.parent.name or path.stem for path in args.archives]
    if len(set(names)) < len(names):
        names = list(map(str, args.archives))
    searches = {}
    for path, name in zip(args.archives, names):
        searches.update(searches_in(path, name))
    best = {
        name: min((row for row in rows if row.origin != 'fullnet'), key=ranking_key)
        for name, rows in searches.items()
    }

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
        for name, rows in searches.items()
        for row in rows
        if not row.generation
    }
    for name, row in {**references, **best}.items():
        table.add_row(
            name,
            str(len(searches[name])) if name in searches else '',
            f'{row.score:.4f}',
            '' if row.loss is None else f'{row.loss:.4f}',
            f'{row.resources["flops"] / 1e6:.2f}',
            f'{row.resources["params"] / 1e6:.2f}',
        )
    Console().print(table)
    print(f'{out_dir}/search_progress.png and width_profile.png written')


if __name__ == '__main__':
    run_command(main)
