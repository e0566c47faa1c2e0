"""Write docs/results.md and its figures from the records beside it. Trains nothing.

python tools/evidence/report.py [--results docs/results]

What a reader needs to know beyond the figures is written by hand in docs/results/*.md, and put
under the table that it is about.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frame import ROOT, read_json
from report_equal_flops import EqualFlops, equal_flops
from report_parts import parts
from report_ranking import Ranking, ranking
from report_transfer import transfer_section
from tables import EQUAL, machine_name, not_run, note, table

from mmpse.command import run_command
from mmpse.files import written

INTRODUCTION = """# Results

`make results` rewrites this page from the records in [results](results) and trains nothing: every
figure of a table is in one of those JSON files, together with the command that made it, the seed,
the machine, the time, the date and the version of the code. The notes under the tables are written
by hand; what they say was tried beside them has no record.

The experiments read CIFAR-10 from `--data-root DATA`, in its official form, the folder
`cifar-10-batches-py`. They can be killed at any time: run again, they go on with what has no record
yet.

**Equal time** is processor time of one process with one thread (`OMP_NUM_THREADS=1`, no worker
processes) where there is no GPU, since other jobs on the machine do not add to it; with a GPU it is
wall-clock. It includes the loading of the data, and not the judging of the ranked subnets; a search
counts as a whole.

**Splits.** Supernets are trained, recalibrated, judged and searched on parts of the *training* set.
The test set is used for one thing: the accuracy of a network trained alone, once, at its end.
"""
EXPECTED = [  # of experiments 1 to 3: network and scale
    *('resnet20_b64-small', 'resnet20_b64-full'),
    *('mobilenet-v2-w0p5_b128-small', 'mobilenet-v2-w0p5_b128-full'),
]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--results', type=Path, default=ROOT / 'docs/results')
    results = parser.parse_args(arguments).results
    run = [of for of in map(Ranking, sorted(results.glob('ranking/*/'))) if of.alone]
    missing = [name for name in EXPECTED if name not in [of.folder.name for of in run]]
    text = INTRODUCTION + '\n## 1. Ranking at equal time\n'
    text += ''.join(map(ranking, run)) + not_run(missing)
    equal = [of for of in map(EqualFlops, sorted(results.glob('equal_flops/*/'))) if of.results]
    text += '\n## 2. Accuracy at equal FLOPs and equal total time\n'
    text += ''.join(map(equal_flops, equal))
    text += not_run([name for name in EXPECTED if name not in [of.name for of in equal]], EQUAL)
    text += '\n## 3. What each part brings\n'
    for of in run:
        text += parts(of, EqualFlops(results / 'equal_flops' / of.folder.name))
    text += not_run(missing)
    text += '\n## 4. Transfer\n' + transfer_section(results / 'transfer')
    text += '\n## 5. Cost\n' + cost(results / 'cost')
    page = results.parent / 'results.md'
    with written(page) as (temporary,):
        temporary.write_text(text, encoding='utf-8')
    print(f'{page} rewritten')


def cost(folder: Path) -> str:
    """The tables of the benchmarks."""
    text = ''
    for path in sorted(folder.glob('*.json')):
        record = read_json(path)
        rows = [[shown(value) for value in row.values()] for row in record['rows']]
        text += f'\n### {path.stem}\n' + table(list(record['rows'][0]), rows)
        text += note(folder, path.stem)
        text += (
            f'\n{record["seconds"] / 60:.0f} minutes on {machine_name(record["machine"])}, '
            f'{record["date"][:10]}, code {record["code"]}. Rerun: `{record["command"]}`\n'
        )
    return text or '\nNot run: `python tools/evidence/cost.py`\n'


def shown(value: Any) -> str:
    return f'{value:.3g}' if isinstance(value, float) else '' if value is None else str(value)


if __name__ == '__main__':
    run_command(main)
