"""Time one supernet training step against one plain step of the full network.

python tools/benchmarks/train_step.py [--widen-factor 1.5] [--size 224] [--batch 32] [--json FILE]

All modes run interleaved, round by round, in one process; the table gives medians, and ratios to
the plain step of the same memory layout. Only the ratios mean something on a noisy machine.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import mmpse  # noqa: F401
from mmpse.models import SlimmableMobileNetV2, backbone_costs
from mmpse.space import SpreadSampler

LAYOUTS = dict(NCHW=torch.contiguous_format, channels_last=torch.channels_last)


class Classifier(nn.Module):
    """Backbone, global pooling, linear head."""

    def __init__(self, widen_factor: float) -> None:
        super().__init__()
        self.backbone = SlimmableMobileNetV2(widen_factor=widen_factor)
        self.fc = nn.Linear(self.backbone.out_channels[-1], 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--widen-factor', type=float, default=1.5)
    parser.add_argument('--size', type=int, default=224, help='side of an image in pixels')
    parser.add_argument('--batch', type=int, default=32, help='images per step')
    parser.add_argument('--n', type=int, nargs='+', default=[4], help='subnets per step')
    parser.add_argument('--rounds', type=int, default=5, help='rounds, after one warm-up round')
    parser.add_argument('--layouts', nargs='+', choices=list(LAYOUTS), default=list(LAYOUTS))
    parser.add_argument('--json', type=Path, help='write the rows to this file')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    images = torch.randn(args.batch, 3, args.size, args.size, device=device)
    labels = torch.randint(1000, (args.batch,), device=device)

    model = Classifier(args.widen_factor).to(device)
    space = model.backbone.search_space
    sampler = SpreadSampler(space, backbone_costs(model.backbone)['flops'])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    modes = [('plain', 1)] + [(mode, n) for n in args.n for mode in ('masked', 'sliced')]
    times: dict[tuple[str, str, int], list[float]] = {}

    def step(mode: str, n: int, x: torch.Tensor, seed: int) -> float:
        rng = np.random.default_rng([seed, n])  # all modes of one n run the same subnets
        drawn = [space.subnet(row) for row in sampler.sample(rng, max(n - 2, 1))]
        if mode != 'plain':
            model.backbone.activate([space.fullnet, space.tinynet, *drawn][:n], mode)
        synchronize(device)
        start = time.perf_counter()
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        synchronize(device)
        elapsed = time.perf_counter() - start
        model.backbone.deactivate()
        return elapsed

    for layout in args.layouts:
        model.to(memory_format=LAYOUTS[layout])
        x = images.to(memory_format=LAYOUTS[layout])
        for seed in track(range(args.rounds + 1), description=f'{layout}, rounds', transient=True):
            for mode, n in modes:
                elapsed = step(mode, n, x, seed)
                if seed:  # round 0 warms up
                    times.setdefault((layout, mode, n), []).append(elapsed)

    rows = []
    for (layout, mode, n), values in times.items():
        plain = times[layout, 'plain', 1]
        ratios = [value / base for value, base in zip(values, plain, strict=True)]
        rows.append(
            dict(
                network=f'MobileNetV2 {args.widen_factor}x',
                mode=mode,
                n=n,
                device=device,
                layout=layout,
                dtype='float32',
                seconds=statistics.median(values),
                ratio=statistics.median(ratios),
                ratio_min=min(ratios),
                ratio_max=max(ratios),
                subnet_images_per_s=args.batch / statistics.median(values),
            )
        )
    show(rows, args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + '\n')


def show(rows: list[dict], args: argparse.Namespace) -> None:
    title = f'{rows[0]["network"]}, {args.size} px, batch {args.batch}, {rows[0]["device"]}'
    table = Table(title=f'{title}, {torch.get_num_threads()} threads, {args.rounds} rounds')
    for name in ('layout', 'mode', 'n', 'median s', 'ratio to plain', 'min', 'max', 'images/s'):
        table.add_column(name, justify='left' if name in ('layout', 'mode') else 'right')
    for row in rows:
        table.add_row(
            row['layout'],
            row['mode'],
            str(row['n']),
            f'{row["seconds"]:.3f}',
            f'{row["ratio"]:.3f}',
            f'{row["ratio_min"]:.3f}',
            f'{row["ratio_max"]:.3f}',
            f'{row["subnet_images_per_s"]:.1f}',
        )
    Console().print(table)


def synchronize(device: str) -> None:
    if device == 'cuda':
        torch.cuda.synchronize()


if __name__ == '__main__':
    main()
