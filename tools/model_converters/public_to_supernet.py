"""Write a public checkpoint as one of a supernet, its channels sorted if asked for.

python tools/model_converters/public_to_supernet.py CONFIG resnet50.pth supernet.pth --sort bn
"""

import argparse
from pathlib import Path

import torch
from mmengine.registry import init_default_scope

import mmpse  # noqa: F401
from mmpse.command import run_command
from mmpse.files import written
from mmpse.models import WarmStart, with_subnet
from mmpse.registry import MODELS
from mmpse.transfer.config import load_supernet


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of a classifier with a slimmable backbone')
    parser.add_argument('checkpoint', help='a file, a URL, or e.g. torchvision://resnet50')
    parser.add_argument('out', help='checkpoint to write')
    parser.add_argument('--sort', choices=['bn', 'l1', 'l2'], help='sort channels by importance')
    parser.add_argument(
        '--backbone-only', action='store_true', help='leave the classifier as it is initialized'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_supernet(args.config)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = MODELS.build(with_subnet(cfg.model.to_dict(), None))
    model.init_weights()
    start = WarmStart(args.checkpoint, args.sort)
    start(model.backbone if args.backbone_only else model)
    out = Path(args.out)
    with written(out) as (temporary,):
        torch.save(dict(state_dict=model.state_dict()), temporary)
    print(f'{out}: {len(model.state_dict())} tensors of {args.checkpoint}')


if __name__ == '__main__':
    run_command(main)
