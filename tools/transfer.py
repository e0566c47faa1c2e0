"""Put a searched backbone into a detector or segmentor.

python tools/transfer.py CONFIG --subnet best_subnet.json [--checkpoint retrained.pth] -o NEW.py
python tools/transfer.py CONFIG --supernet -o NEW.py

CONFIG is any config of mmdet or mmseg (a file, or 'mmdet::...', 'mmseg::...') with a ResNet, VGG or
MobileNetV2 backbone. The new config inherits from it; necks and heads follow the subnet's widths.
"""

import argparse

from mmengine.config import Config

import mmpse  # noqa: F401  before a config is read: it makes `mmpse::` and `mmseg::` bases resolve
from mmpse.command import run_command
from mmpse.openmmlab.configs.files import write_config
from mmpse.transfer import complexity, new_backbone
from mmpse.transfer.config import plan


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="config file, or 'mmdet::...', 'mmseg::...'")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--subnet', help='subnet file of a search or of tools/make_subnet.py')
    what.add_argument(
        '--supernet', action='store_true', help='train the model itself as a supernet'
    )
    parser.add_argument(
        '--checkpoint',
        help="weights of the whole model or of its backbone: the retrained classifier's; or the "
        "full detector's, the supernet's or public ones, which are cut to the subnet",
    )
    parser.add_argument('-o', '--out', required=True, help='config file to write')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    made = plan(args.config, args.subnet, args.checkpoint)
    cfg = write_config(args.out, args.config, made.changes, made.comment)
    print(args.out)
    if args.subnet is not None:
        report(cfg)
    print(f'weights: {made.weights}')


def report(cfg: Config) -> None:
    """Say what the new backbone costs, and what of it is frozen."""
    for name, (cost, of_full) in complexity(cfg).items():
        print(f'{name} of the backbone: {cost:,} of {of_full:,} ({cost / of_full:.1%})')
    backbone = new_backbone(cfg)
    frozen = {key: backbone[key] for key in ('frozen_stages', 'norm_eval') if key in backbone}
    if frozen:
        print('backbone:', ', '.join(f'{k}={v}' for k, v in frozen.items()))


if __name__ == '__main__':
    run_command(main)
