"""Draw the training losses of a supernet's subnets against their FLOPs.

python tools/analysis_tools/plot_losses.py CHECKPOINT [--input-shape 3 224 224] [--out FILE.png]

CHECKPOINT is one that SupernetHook has put its loss record into. FLOPs are the whole model's, for
an image of the input shape, by default that of the config's tests.
"""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import CheckpointLoader

from mmpse.command import run_command
from mmpse.openmmlab.checkpoints.supernet import supernet_state
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.supernet.building import supernet_of
from mmpse.visualization import training_losses


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('--input-shape', nargs=3, type=int, metavar=('C', 'H', 'W'))
    parser.add_argument('--out', type=Path, help='default: training_losses.png beside CHECKPOINT')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if not args.checkpoint.is_file():
        raise SystemExit(f'there is no checkpoint {args.checkpoint}')
    checkpoint = CheckpointLoader.load_checkpoint(str(args.checkpoint), map_location='cpu')
    state = supernet_state(checkpoint)
    if state is None or not len(state['record']['loss']):
        raise SystemExit(
            f'{args.checkpoint} holds no losses of subnets; give a checkpoint of a classifier that '
            'was trained with SupernetHook'
        )
    record = state['record']
    cfg = Config.fromstring(checkpoint['meta']['cfg'], '.py')
    _, costs = supernet_of(build_model(cfg), checkpoint, cfg, args.input_shape)
    flops = costs['flops'](record['widths'].numpy())
    out = args.out or args.checkpoint.parent / 'training_losses.png'
    figure = training_losses(flops, record['loss'].numpy(), record['iteration'].numpy())
    figure.savefig(out, dpi=150)
    print(f'{len(flops)} losses drawn in {out}')


if __name__ == '__main__':
    run_command(main)
