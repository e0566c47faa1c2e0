"""Draw the training losses of a supernet's subnets against their FLOPs.

python tools/analysis_tools/plot_losses.py CHECKPOINT [--input-shape 3 224 224] [--out FILE.png]

CHECKPOINT is one that SupernetHook has put its loss record into. FLOPs are the backbone's.
"""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader

from mmpse.command import run_command
from mmpse.models import backbone_costs
from mmpse.openmmlab.supernet.checkpoint import supernet_state
from mmpse.registry import MODELS
from mmpse.visualization import training_losses


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument(
        '--input-shape', nargs=3, type=int, default=(3, 224, 224), metavar=('C', 'H', 'W')
    )
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
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    backbone = MODELS.build(dict(cfg.model.backbone, init_cfg=None))
    flops = backbone_costs(backbone, args.input_shape)['flops'](record['widths'].numpy())
    out = args.out or args.checkpoint.parent / 'training_losses.png'
    figure = training_losses(flops, record['loss'].numpy(), record['iteration'].numpy())
    figure.savefig(out, dpi=150)
    print(f'{len(flops)} losses drawn in {out}')


if __name__ == '__main__':
    run_command(main)
