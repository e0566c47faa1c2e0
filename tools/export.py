"""Export a trained model, and check that it computes the same.

python tools/export.py CONFIG CHECKPOINT -o model.onnx [--preprocess] [--decode [--nms] | --argmax]
    [--subnet SUBNET] [--int8 [IMAGES]] [--runtime-check openvino] [--backbone]

The classifier, single-stage detector or segmentor, full or pruned; or with --backbone the backbone
with its features. For batches of any size, and images of any size where the model allows it.
docs/deployment.md says what the file takes and gives.
"""

import argparse
from pathlib import Path

from mmengine.config import Config
from rich.console import Console
from torch import nn

import mmpse  # noqa: F401  before a config is read: it makes `mmpse::` and `mmseg::` bases resolve
from mmpse.command import run_command
from mmpse.deploy import (
    ExportError,
    calibration_images,
    evaluate,
    evaluate_onnx,
    export_onnx,
    fingerprint,
    quantize,
)
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.configs.images import default_input_shape
from mmpse.openmmlab.deploy.trained import trained_model
from mmpse.visualization import text_table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='the checkpoint that was trained with it')
    parser.add_argument(
        '--subnet',
        help='widths to cut the model to; its statistics are those of training images, unless the '
        'checkpoint is of these widths',
    )
    parser.add_argument(
        '--input-shape',
        nargs=3,
        type=int,
        metavar=('C', 'H', 'W'),
        help='by default that of the tests',
    )
    parser.add_argument('--backbone', action='store_true', help='only the backbone')
    parser.add_argument(
        '--preprocess', action='store_true', help='the file takes pictures, uint8 RGB'
    )
    parser.add_argument('--decode', action='store_true', help='detectors: boxes, scores and labels')
    parser.add_argument('--nms', action='store_true', help='with --decode: non-maximum suppression')
    parser.add_argument('--argmax', action='store_true', help='segmentors: the class of each pixel')
    parser.add_argument(
        '--int8',
        nargs='?',
        type=int,
        const=100,
        metavar='IMAGES',
        help='also an int8 file, *.int8.onnx, calibrated on so many training images of the config '
        '(100); prints the metrics of the val split',
    )
    parser.add_argument(
        '--runtime-check',
        nargs='+',
        default=[],
        metavar='RUNTIME',
        help='runtimes that must agree beside onnxruntime: openvino, tensorrt',
    )
    parser.add_argument('-o', '--out', type=Path, required=True, help='.onnx file')
    args = parser.parse_args()
    if args.out.suffix != '.onnx':
        parser.error(f'-o must end in .onnx, got {args.out}')
    if args.backbone and args.int8:
        parser.error('--int8 is for whole models, whose metric can be told; got --backbone')
    return args


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config)
    model, subnet = trained_model(cfg, args.checkpoint, args.subnet)
    part = getattr(model, 'backbone', None) if args.backbone else model
    if part is None:
        raise ExportError(f'{type(model).__name__} has no backbone; leave out --backbone')
    with Console().status(f'exporting to {args.out}, about half a minute'):
        outputs = export_onnx(
            part,
            args.out,
            args.input_shape or default_input_shape(cfg, model),
            preprocess=args.preprocess,
            decode=args.decode,
            nms=args.nms,
            argmax=args.argmax,
            metadata=None if subnet is None else dict(subnet=fingerprint(subnet)),
            runtimes=['onnxruntime', *args.runtime_check],
        )
    print(f'{args.out}: checked against PyTorch')
    for name, shape in outputs.items():
        print(f'    {name} {shape}')
    print(f'free: {", ".join(outputs.dynamic)}')
    if outputs.fixed:
        print(f'height and width are fixed: {outputs.fixed}')
    for what, value in outputs.agreement.items():
        print(f'    {what}: {value if isinstance(value, list) else f"{value:.3g}"}')
    if args.int8:
        int8(args, cfg, model)


def int8(args: argparse.Namespace, cfg: Config, model: nn.Module) -> None:
    out = args.out.with_suffix('.int8.onnx')
    images = calibration_images(cfg, model, args.int8, args.preprocess)
    counts = quantize(args.out, out, images)
    print(
        f'{out}: {counts["int8"]} layers int8, {counts["float32"]} float32, calibrated on '
        f'{counts["images"]} images'
    )
    files = {
        'PyTorch': evaluate(model, cfg),
        args.out.name: evaluate_onnx(args.out, cfg),
        out.name: evaluate_onnx(out, cfg),
    }
    rows = [[key, *(f'{file[key]:.4g}' for file in files.values())] for key in files['PyTorch']]
    print(text_table(['val split', *files], rows))


if __name__ == '__main__':
    run_command(main)
