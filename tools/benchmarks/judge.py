"""Time the judging of a candidate against a plain evaluation of the full network on the same split.

python tools/benchmarks/judge.py [--images 512] [--calibration 1] [--json FILE]

A candidate (uniform, half the FLOPs) is sliced in place, recalibrated, folded and evaluated, as a
search does it. Both run interleaved, round by round, in one process; the table gives medians.
`loading` is what a pass over the split would cost on top if its batches were not kept decoded.
"""

import argparse
import statistics
import time
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmpretrain.evaluation import Accuracy
from mmpretrain.structures import DataSample
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from mmpse.command import run_command
from mmpse.files import write_json
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.search.judge import Judge
from mmpse.openmmlab.supernet.building import find_supernet
from mmpse.resources.timing import device_name
from mmpse.slim import as_subnet, folded
from mmpse.space import Budget, uniform_within

NETWORKS = {
    'MobileNetV2': 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py',
    'ResNet-50': 'mmpretrain::resnet/resnet50_8xb32_in1k.py',
}
PARTS = ('slicing', 'recalibration', 'folding', 'evaluation')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--networks', nargs='+', choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument('--size', type=int, default=224, help='side of an image in pixels')
    parser.add_argument('--images', type=int, default=512, help='images of the split')
    parser.add_argument('--batch', type=int, default=32, help='images per batch')
    parser.add_argument('--calibration', type=int, default=1, help='batches of recalibration')
    parser.add_argument('--fp16', action='store_true', help='in mixed precision')
    parser.add_argument('--rounds', type=int, default=3, help='rounds, after one warm-up round')
    parser.add_argument('--json', type=Path, help='write the rows to this file')
    return parser.parse_args()


class Images(Dataset):
    """Smooth random images as JPEG in memory, decoded and cropped when they are asked for."""

    def __init__(self, count: int, size: int) -> None:
        rng = np.random.default_rng(0)
        self.size = size
        blobs = rng.integers(256, size=(count, 16, 16, 3), dtype=np.uint8)
        large = [cv2.resize(blob, (size * 8 // 7,) * 2) for blob in blobs]
        self.files = [cv2.imencode('.jpg', image)[1].tobytes() for image in large]
        self.labels = rng.integers(1000, size=count)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        image = mmcv.imfrombytes(self.files[index])
        start = (image.shape[0] - self.size) // 2
        crop = image[start:, start:][: self.size, : self.size].transpose(2, 0, 1)
        sample = DataSample().set_gt_label(int(self.labels[index]))
        return dict(inputs=torch.from_numpy(np.ascontiguousarray(crop)), data_samples=sample)


def measure(network: str, args: argparse.Namespace) -> dict:
    """One row: medians over the rounds."""
    cfg = load_config(NETWORKS[network])
    model = build_model(cfg).to(get_device(), memory_format=torch.channels_last)
    supernet, costs = find_supernet(model, cfg, {}, (3, args.size, args.size))
    space = supernet.space
    half = space.subnet(uniform_within(space, Budget(space, costs, dict(flops='50%'))))
    loader = DataLoader(Images(args.images, args.size), args.batch, collate_fn=pseudo_collate)
    calibration = list(loader)[: args.calibration]
    evaluator = Evaluator(Accuracy(topk=(1,)))
    judge = Judge(
        model, supernet.layout, calibration, loader, evaluator, 'accuracy/top1', args.fp16
    )
    judge(half)  # finds out what can be folded
    times: dict[str, list[float]] = {name: [] for name in ('plain', 'loading', *PARTS)}
    for k in track(range(args.rounds + 1), description=f'{network}, rounds', transient=True):
        clock = [clock_now()]
        judge.evaluate(model)
        clock.append(clock_now())
        for _ in loader:
            pass
        clock.append(clock_now())
        with torch.no_grad(), as_subnet(model, supernet.layout, half):
            clock.append(clock_now())
            judge.recalibrate()
            clock.append(clock_now())
            with folded(judge.pairs):
                clock.append(clock_now())
                judge.evaluate(model)
            clock.append(clock_now())
        if k:  # round 0 warms up, and fills the cache
            for name, start, end in zip(times, clock, clock[1:]):
                times[name].append(end - start)
    rounds = [dict(zip(times, row)) for row in zip(*times.values())]
    judged = [sum(row[part] for part in PARTS) for row in rounds]
    ratios = [total / row['plain'] for total, row in zip(judged, rounds)]
    return dict(
        network=network,
        device=device_name(get_device()),
        fp16=args.fp16,
        flops_share=float(np.divide(*costs['flops'](space.array([half, space.fullnet])))),
        images=args.images,
        calibration_images=args.calibration * args.batch,
        plain_s=statistics.median(times['plain']),
        candidate_s=statistics.median(judged),
        ratio=statistics.median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        **{
            f'{part}_share': statistics.median(r[part] / t for r, t in zip(rounds, judged))
            for part in PARTS
        },
        loading_share=statistics.median(r['loading'] / t for r, t in zip(rounds, judged)),
    )


def clock_now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    args = parse_args()
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    rows = [measure(network, args) for network in args.networks]
    table = Table(
        title=f'{args.images} images of {args.size} px, recalibration on '
        f'{args.calibration * args.batch}, {rows[0]["device"]}, {torch.get_num_threads()} threads; '
        'shares of a judged candidate'
    )
    columns = ('network', 'FLOPs', 'full (s)', 'judged (s)', 'ratio', *PARTS, 'loading')
    for name in columns:
        table.add_column(name, justify='left' if name == 'network' else 'right')
    for row in rows:
        table.add_row(
            row['network'],
            f'{row["flops_share"]:.0%}',
            f'{row["plain_s"]:.2f}',
            f'{row["candidate_s"]:.2f}',
            f'{row["ratio"]:.2f}',
            *(f'{row[f"{part}_share"]:.0%}' for part in (*PARTS, 'loading')),
        )
    Console().print(table)
    if args.json:
        write_json(args.json, rows)


if __name__ == '__main__':
    run_command(main)
