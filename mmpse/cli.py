"""The command ``mmpse``: what :mod:`mmpse.api` does, and the tools, as one command.

mmpse prune CONFIG CHECKPOINT --flops 50% -o pruned
mmpse units CONFIG
mmpse transfer CONFIG --subnet best_subnet.json --checkpoint retrained.pth -o NEW.py
mmpse latency CONFIG -o latency.json
mmpse train|test|search|export ...
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mmpse.command import run_command
from mmpse.openmmlab.pruning.request import check_request

# command -> the tool that it is with its first arguments, and what it does
TOOLS = dict(
    train=('train.py', (), 'train by a config'),
    test=('test.py', (), 'test a checkpoint by its config'),
    search=('train.py', ('--search',), 'search widths by a config'),
    export=('export.py', (), 'export a trained model, checked'),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; ``None``: with the arguments of the process.

    Raises:
        SystemExit: With one line for what the user can mend (status 1), and after Ctrl-C (130).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in TOOLS:
        return run_tool(*arguments)
    args = parser().parse_args(arguments)
    run_command(partial(args.run, args), args.again)


def run_tool(name: str, *arguments: str) -> None:
    """Run one of the tools as if it were started by its file."""
    file, first, _ = TOOLS[name]
    path = tools() / file
    sys.argv = [f'mmpse {name}', *first, *arguments]
    code = compile(path.read_bytes(), path, 'exec')
    exec(code, {'__name__': '__main__', '__file__': str(path), '__builtins__': __builtins__})


def tools() -> Path:
    """The folder of the tools: the checkout's, or that of the installed package."""
    package = Path(__file__).resolve().parent
    folders = package.parent / 'tools', package / '.mim/tools'
    for folder in folders:
        if (folder / 'train.py').is_file():
            return folder
    raise SystemExit(
        f'the tools are neither in {folders[0]} nor in {folders[1]}; install mmpse again'
    )


def parser() -> argparse.ArgumentParser:
    """The parser of the commands that are not tools; their names are shown too."""
    own = argparse.ArgumentParser(
        prog='mmpse',
        description='Prune classifiers, detectors and segmentors of OpenMMLab.',
        allow_abbrev=False,
    )
    commands = own.add_subparsers(metavar='COMMAND', required=True)
    add = partial(commands.add_parser, allow_abbrev=False)

    one = add('prune', help='prune a trained model and fine-tune it')
    _add_model(one)
    one.add_argument('--flops', metavar='AMOUNT', help="budget of FLOPs: '50%%', 300M, 4.1G")
    one.add_argument('--params', metavar='AMOUNT', help="budget of parameters: '50%%', 5M")
    one.add_argument('--latency', metavar='TIME', help="budget of one image's time: '50%%', 12ms")
    one.add_argument(
        '--runtime', default='torch', help='what --latency is measured in: torch, onnxruntime, ...'
    )
    one.add_argument(
        '--how',
        default='sensitivity',
        help='how widths are chosen: uniform, sensitivity (default) or search',
    )
    one.add_argument(
        '--epochs', type=int, help="of fine-tuning; a quarter of the config's by default"
    )
    one.add_argument(
        '--no-finetune',
        dest='finetune',
        action='store_false',
        help='only cut the model, and fit its layers to what they were',
    )
    one.add_argument(
        '--teacher',
        action='store_true',
        help='the original model teaches the fine-tuning, which takes longer then',
    )
    one.add_argument(
        '--sort',
        default='selection',
        help='importance of channels: selection (default), group, l1, l2, bn or taylor',
    )
    one.add_argument('--seed', type=int, default=0, help='seed of everything (default: 0)')
    one.add_argument('-o', '--out', default='pruned', help='folder of the results (pruned)')
    one.add_argument(
        '--resume', action='store_true', help='go on where the same command stopped in that folder'
    )
    one.add_argument(
        '--dry-run', action='store_true', help='show what is reachable, and write nothing'
    )
    one.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='launcher'
    )
    one.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    one.set_defaults(run=prune, again='the same command with --resume goes on')

    one = add('units', help='list the width units of a model')
    _add_model(one, checkpoint='?')
    one.set_defaults(run=units, again='start it again')

    one = add('transfer', help='put a searched backbone into a detector or segmentor')
    one.add_argument('config', help="config of the detector or segmentor: a file, 'mmdet::...'")
    one.add_argument(
        '--subnet', required=True, help="subnet file of a classifier's search or pruning"
    )
    one.add_argument(
        '--checkpoint',
        help="weights: the retrained classifier's, or full-width ones, which are cut (the "
        "supernet's, public ones, the detector's own)",
    )
    one.add_argument('-o', '--out', required=True, help='config file to write')
    one.set_defaults(run=transfer, again='start it again')

    one = add('latency', help='measure what subnets of a model take on this device')
    _add_model(one, checkpoint='?')
    one.add_argument('--runtime', default='torch', help='torch (default), onnxruntime, ...')
    one.add_argument('-o', '--out', required=True, help='the file, for train_cfg.latency')
    one.set_defaults(run=latency, again='start it again')

    for name, (_, _, text) in TOOLS.items():
        commands.add_parser(name, help=text)
    return own


def _add_model(one: argparse.ArgumentParser, checkpoint: str | None = None) -> None:
    """Arguments that say which model, and which widths it may have."""
    one.add_argument('config', help="config file, or 'mmdet::...' and the like")
    one.add_argument('checkpoint', nargs=checkpoint, help='its trained weights')
    one.add_argument(
        '--divisor', type=int, default=8, help='widths are multiples of it (default: 8)'
    )
    one.add_argument(
        '--input-shape',
        nargs=3,
        type=int,
        metavar=('C', 'H', 'W'),
        help='image that FLOPs are counted for; by default that of the tests',
    )
    one.add_argument(
        '--keep',
        nargs='+',
        default=[],
        metavar='PATTERN',
        help="units that keep their width, e.g. 'neck.*'; `mmpse units` lists them",
    )


def prune(args: argparse.Namespace) -> None:
    """``mmpse prune``."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    limits = {name: getattr(args, name) for name in ('latency', 'flops', 'params')}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    check_request(given, args.how, shell=True)  # before anything slow
    from mmpse import api  # slow to import: not for --help

    names = (
        'flops params latency runtime how epochs finetune teacher sort divisor keep input_shape '
        'seed out resume dry_run launcher'
    )
    options = {name: getattr(args, name) for name in names.split()}
    result = api.prune(args.config, args.checkpoint, **options)
    if not args.dry_run and result is not None:  # the first of several processes says it
        print(f'{result.out}: pruned.py, pruned.pth, subnet.json, report.html, report.json')


def _examined(args: argparse.Namespace):
    """The model that a command is about, with its units."""
    from mmpse.openmmlab.pruning.subject import examine

    return examine(
        args.config, args.checkpoint, args.input_shape, args.divisor, show=True, keep=args.keep
    )


def units(args: argparse.Namespace) -> None:
    """``mmpse units``."""
    from mmpse.openmmlab.pruning.reach import reachable
    from mmpse.visualization import text_table

    subject = _examined(args)
    rows = []
    for unit in subject.space.units:
        found = subject.layout.units[unit.name]
        lowest = 'kept' if len(unit.candidates) == 1 else str(unit.candidates[0])
        rows.append(
            [unit.name, ' '.join(found.writers), ' '.join(found.readers), str(found.width), lowest]
        )
    header = ['unit', 'written by', 'read by', 'width', 'lowest']
    print(text_table(header, rows, left=3, width=shutil.get_terminal_size((160, 24)).columns))
    print(reachable(subject))


def transfer(args: argparse.Namespace) -> None:
    """``mmpse transfer``."""
    from mmpse.openmmlab.errors import listed
    from mmpse.openmmlab.transfer import transfer

    made = transfer(args.config, args.subnet, args.checkpoint, args.out)
    print(args.out)
    for name, text in (('flops', 'FLOPs'), ('params', 'parameters')):
        now, full = made.subnet.resources[name], made.full[name]
        print(f'{text} of the whole model: {now:,} of {full:,} ({now / full:.1%})')
    if made.kept:
        print(f'not in the model of the subnet, and full: {listed(made.kept)}')
    print(f'weights: {made.weights}')
    if not made.frozen:
        print('nothing is frozen: the weights have no statistics of this subnet')


def latency(args: argparse.Namespace) -> None:
    """``mmpse latency``."""
    from mmpse.files import check_writable, write_json
    from mmpse.openmmlab.deploy.latency import error_sentence
    from mmpse.openmmlab.pruning.latency import add_latency
    from mmpse.resources.busy import busy_sentence

    check_writable(args.out)
    subject = _examined(args)
    content = add_latency(subject, args.runtime)
    write_json(args.out, content)
    times = [microseconds / 1000 for _, microseconds in content['measured']]
    print(
        f'{args.out}: {len(times)} subnets took {min(times):.3g} to {max(times):.3g} ms on '
        f'{content["on"]}; predicted with a mean error of {content["error"]:.1%}'
    )
    again = 'measure again when nothing else runs'
    for sentence in (error_sentence(content['error'], again), busy_sentence(content['busy'])):
        if sentence:
            print(sentence)
