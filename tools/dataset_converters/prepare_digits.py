"""Write the embedded digits data, or verify what is there.

python tools/dataset_converters/prepare_digits.py [--root data/digits]
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, installed or not


def main() -> None:
    parser = argparse.ArgumentParser(description='Write or verify the embedded digits data.')
    parser.add_argument('--root', default='data/digits', help='folder (default: %(default)s)')
    root = parser.parse_args().root

    from mmpse.datasets import prepare_digits  # after --help: it imports torch
    from mmpse.errors import UserError

    console = Console()
    try:
        manifest = prepare_digits(root)
    except (OSError, UserError) as error:
        sys.exit(f'prepare_digits: {error}')

    table = Table('files below ' + root, 'count')
    for folder, count in sorted(manifest['counts'].items()):
        table.add_row(folder, str(count))
    console.print(table)
    console.print(f'SHA-256 {manifest["digest"]}', soft_wrap=True)


if __name__ == '__main__':
    main()
