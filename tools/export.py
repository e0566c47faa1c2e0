"""Export a trained model, and check that it computes the same.

python tools/export.py CONFIG CHECKPOINT --input-shape 3 224 224 -o model.onnx [--backbone]
python tools/export.py CONFIG CHECKPOINT --input-shape 3 224 224 -o backbone.json

.onnx: the classifier, single-stage detector or segmentor up to its raw outputs, or with --backbone
the backbone with its features; for batches of any size. .json: the backbone for plain PyTorch, its
weights in a .pth beside it (docs/transfer.md).
"""

import argparse
from pathlib import Path

from rich.console import Console

import mmpse  # noqa: F401  before a config is read: it makes `mmpse::` and `mmseg::` bases resolve
from mmpse.openmmlab.errors import CheckpointError, ConfigError
from mmpse.transfer import (
    ExportError,
    backbone_of,
    export_onnx,
    export_plain,
    load_model,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='the checkpoint that was trained with it')
    parser.add_argument('--input-shape', nargs=3, type=int, required=True, metavar=('C', 'H', 'W'))
    parser.add_argument('--backbone', action='store_true', help='only the backbone')
    parser.add_argument('-o', '--out', type=Path, required=True, help='.onnx or .json file')
    args = parser.parse_args()
    if args.out.suffix not in ('.onnx', '.json'):
        parser.error(f'-o must end in .onnx or .json, got {args.out}')
    return args


def main() -> None:
    args = parse_args()
    try:
        export(args)
    except (CheckpointError, ConfigError, ExportError) as error:
        raise SystemExit(f'{type(error).__name__}: {error}') from None


def export(args: argparse.Namespace) -> None:
    model = load_model(args.config, args.checkpoint)
    plain = args.out.suffix == '.json'
    write = export_plain if plain else export_onnx
    with Console().status(f'exporting to {args.out}, about half a minute'):
        part = backbone_of(model) if plain or args.backbone else model
        outputs = write(part, args.out, args.input_shape)
    print(f'{args.out}: checked against PyTorch')
    for name, shape in outputs.items():
        print(f'    {name} {shape}')


if __name__ == '__main__':
    main()
