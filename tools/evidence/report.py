"""Write docs/results.md, its figure and the table of the README from records. Trains nothing.

python tools/evidence/report.py [--results docs/results]

What a reader needs to know beyond the figures is written by hand in docs/results/*/*.md, and put
under the table that it is about.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from frame import ROOT, read_json
from report_cost import cost_section
from report_deployed import deployed_section
from report_predictor import predictor_section
from report_ranking import Ranking, ranking
from report_simulation import simulation_section
from report_supernets import supernets_section
from report_whole import readme_table, whole_section
from tables import table

from mmpse.command import run_command
from mmpse.files import written

INTRODUCTION = """# Results

`make results` writes this page from the records in [results](results) and trains nothing. Every
figure of a table is in one of those JSON files. They also hold the command, the seed, the machine,
the date and the version of the code; some older ones, as all of section 2, have only the figures.
Notes are written by hand. Everything was measured with small data sets on one core of a CPU,
section 6 on two.

"""
BEGIN, END = '<!-- table of tools/evidence/report.py -->\n', '<!-- end of table -->\n'


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--results', type=Path, default=ROOT / 'docs/results')
    results = parser.parse_args(arguments).results
    whole = results / 'whole'
    sections = {
        'Trained models, pruned as wholes': whole_section(whole, results.parent / 'images'),
        'Where they run': deployed_section(results / 'deployed'),
        'What the search knows': predictor_section(results / 'predictor'),
        'One supernet, several budgets': supernets_section(
            results / 'supernets', results / 'whole'
        ),
        'How supernets rank subnets, at equal time': ''.join(
            ranking(of) for of in map(Ranking, sorted(results.glob('ranking/*/'))) if of.alone
        ),
        'What supernets cost': cost_section(results / 'cost'),
    }
    single = {
        'simulation': ('Searches of a table, under noise', simulation_section),
        'resumed': ('Killed, and gone on', resumed),
    }
    for name, (title, section) in single.items():
        if (path := results / f'{name}.json').exists():
            sections[title] = section(read_json(path))
    text = INTRODUCTION
    for number, title in enumerate(sections, 1):
        address = re.sub(r'[^\w -]', '', f'{number} {title}'.lower()).replace(' ', '-')
        text += f'{number}. [{title}](#{address})\n'
    for number, (title, content) in enumerate(sections.items(), 1):
        text += f'\n## {number}. {title}\n{content}'
    write(results.parent / 'results.md', text)
    readme = results.parents[1] / 'README.md'
    if readme.exists():
        before, rest = readme.read_text(encoding='utf-8').split(BEGIN)
        write(readme, before + BEGIN + readme_table(whole) + END + rest.split(END)[1])


def resumed(record: dict) -> str:
    """What a pruning comes to that was killed and gone on with."""
    keys = 'weights', 'subnet', 'sensitivity', 'report'
    rows = [
        [row['killed'], *('the same' if row.get(key) else 'another' for key in keys)]
        for row in record['rows']
    ]
    return (
        '\n`mmpse prune` killed by SIGKILL, and the same command with `--resume`, against a run '
        'left alone: all weights and figures, to the last bit, but for those of the clock.\n'
        + table(['killed', 'weights', 'widths', 'sensitivity', 'report'], rows)
        + f'\nRerun: `{record["command"]}`\n'
    )


def write(path: Path, text: str) -> None:
    with written(path) as (temporary,):
        temporary.write_text(text, encoding='utf-8')
    print(f'{path} rewritten')


if __name__ == '__main__':
    run_command(main)
