"""Time and memory of building a static subnet, against the stock constructor; costs per second.

python tools/benchmarks/build_subnet.py [--flops 1G] [--rounds 10] [--json FILE]

The subnet is ResNet-50, uniformly pruned to a FLOPs budget at 224x224. Every memory figure is that
of a process of its own: its peak beyond what it had before the first construction.
"""

import argparse
import gc
import multiprocessing
import resource
import statistics
import time
from pathlib import Path

import numpy as np
from mmpretrain.models import ResNet
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmpse.command import run_command
from mmpse.files import write_json
from mmpse.models import SlimmableMobileNetV2, SlimmableResNet, backbone_costs
from mmpse.space import Budget, Subnet, UniformSampler, nearest_uniform

MiB = 1 << 20


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--flops', default='1G', help='of the subnet, at most')
    parser.add_argument('--rounds', type=int, default=10, help='constructions, after one warm-up')
    parser.add_argument('--json', type=Path, help='write the figures to this file')
    return parser.parse_args()


def build(subnet: Subnet | None):
    return ResNet(depth=50) if subnet is None else SlimmableResNet(depth=50, subnet=subnet)


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()


def memory(subnet: Subnet | None, results: multiprocessing.Queue) -> None:
    """MiB of a process's peak, and of what stays, beyond what it had before."""
    gc.collect()
    before = resident()
    network = build(subnet)
    gc.collect()
    after = resident()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    parameters = sum(p.numel() for p in network.parameters())
    results.put(((peak - before) / MiB, (after - before) / MiB, parameters))


def in_its_own_process(subnet: Subnet | None) -> tuple[float, float, int]:
    context = multiprocessing.get_context('spawn')
    results = context.Queue()
    process = context.Process(target=memory, args=(subnet, results))
    process.start()
    figures = results.get()
    process.join()
    return figures


def costs_per_second(count: int = 100_000, rounds: int = 7) -> float:
    """MobileNetV2 1.5x subnets whose FLOPs are computed in a second, the median round."""
    backbone = SlimmableMobileNetV2(widen_factor=1.5)
    cost = backbone_costs(backbone)['flops']
    sampler = UniformSampler(backbone.search_space, cost)
    widths = sampler.sample(np.random.default_rng(0), count)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        cost(widths)
        seconds.append(time.perf_counter() - start)
    return count / statistics.median(seconds)


def main() -> None:
    args = parse_args()
    supernet = SlimmableResNet(depth=50)
    space, costs = supernet.search_space, backbone_costs(supernet)
    budget = Budget(space, costs, dict(flops=args.flops))
    subnet = space.subnet(nearest_uniform(space, budget.cost, budget.high, at_most=True))
    flops = int(costs['flops'](space.array([subnet]))[0])
    del supernet

    variants = {'stock ResNet-50': None, f'static subnet, {flops / 1e9:.2f} G FLOPs': subnet}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for k in track(range(args.rounds + 1), description='rounds', transient=True):
        for name, variant in variants.items():
            start = time.perf_counter()
            build(variant)
            if k:  # round 0 warms up
                seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, variant in variants.items():
        peak, kept, parameters = in_its_own_process(variant)
        rows.append(
            dict(
                name=name,
                seconds=statistics.median(seconds[name]),
                peak_MiB=peak,
                kept_MiB=kept,
                parameters=parameters,
            )
        )
    figures = dict(build=rows, costs_per_second=costs_per_second())
    table = Table(title='building a backbone')
    for column in ('network', 'median s', 'peak MiB', 'kept MiB', 'params (M)'):
        table.add_column(column, justify='left' if column == 'network' else 'right')
    for row in rows:
        cells = (
            f'{row["peak_MiB"]:.0f}',
            f'{row["kept_MiB"]:.0f}',
            f'{row["parameters"] / 1e6:.2f}',
        )
        table.add_row(row['name'], f'{row["seconds"]:.3f}', *cells)
    Console().print(table)
    print(f'costs of MobileNetV2 1.5x subnets: {figures["costs_per_second"]:,.0f} a second')
    if args.json:
        write_json(args.json, figures)


if __name__ == '__main__':
    run_command(main)
