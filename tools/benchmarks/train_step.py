"""Cost of one supernet training step, against one plain step of the full network.

python tools/benchmarks/train_step.py [--networks MobileNetV2-1.5x] [--dtypes float32] [--json FILE]

Every mode is an MMEngine Runner with the hook a user would configure. The modes take turns, round
by round, each turn in a new process: one step that is not timed, then two that are, as training
goes on and on with one mode. Modes that share a process, or steps that follow on those of another
mode, pay for each other's memory, and a plain step more than a parallel one. The plain step trains
the full network as a static one, of stock layers. The table gives medians, and ratios to the plain
step of the same memory layout and precision of the same round. Only the ratios mean something on a
noisy machine. Peak memory is that of PyTorch's allocator in one more step (on a CPU as its profiler
records it): weights, momentum and all that the step holds.
images/s are subnet-images: an image that runs through k subnets in a step counts k times.
"""

import argparse
import itertools
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from rich.console import Console
from rich.progress import track
from rich.table import Table

import mmpse  # noqa: F401
from mmpse.command import run_command
from mmpse.files import write_json
from mmpse.openmmlab.supernet.execution import now

NETWORKS = {
    'MobileNetV2-1.5x': dict(type='MobileNetV2', widen_factor=1.5),
    'MobileNetV2-0.5x': dict(type='MobileNetV2', widen_factor=0.5),
    'ResNet-50': dict(type='ResNet', depth=50),
    'VGG16-BN': dict(type='VGG', depth=16, norm_cfg=dict(type='BN')),
}
WIDTHS = {'MobileNetV2-1.5x': 1920, 'MobileNetV2-0.5x': 1280, 'ResNet-50': 2048, 'VGG16-BN': 512}
STAGES = {'VGG16-BN': ['features.2', 'features.5', 'features.9', 'features.13']}  # the poolings
LAYOUTS = dict(NCHW=torch.contiguous_format, channels_last=torch.channels_last)
WRAPPERS = dict(float32='OptimWrapper', bfloat16='mmpse.BFloat16OptimWrapper')
STAGE_WISE = 'stage-wise'  # the modes that train stage by stage
SAMPLERS = dict(uniform='mmpse.UniformSampler', spread='mmpse.SpreadSampler')
MODES = (
    *('plain', 'masked', 'sliced'),
    *(f'{STAGE_WISE} masked', f'{STAGE_WISE} sliced', 'sandwich', 'spos'),
)
TIMED_STEPS = 2  # of a turn
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
NO_HOOKS = dict.fromkeys(
    ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--networks',
        nargs='+',
        choices=list(NETWORKS),
        default=['MobileNetV2-1.5x', 'ResNet-50', 'VGG16-BN'],
    )
    parser.add_argument('--size', type=int, default=224, help='side of an image in pixels')
    parser.add_argument('--batch', type=int, default=32, help='images per step')
    parser.add_argument('--n', type=int, nargs='+', default=[2, 4, 8], help='parallel subnets')
    parser.add_argument(
        '--modes', nargs='+', choices=MODES, default=MODES, help='beside the plain step'
    )
    parser.add_argument(
        '--sampler', choices=list(SAMPLERS), default='spread', help='of the random subnets'
    )
    parser.add_argument('--rounds', type=int, default=5, help='turns of every mode')
    parser.add_argument('--layouts', nargs='+', choices=list(LAYOUTS), default=list(LAYOUTS))
    parser.add_argument('--dtypes', nargs='+', choices=list(WRAPPERS), default=list(WRAPPERS))
    parser.add_argument('--json', type=Path, help='write the rows to this file')
    return parser.parse_args()


def hooks(parallel: list[int], sampler: str, size: int) -> dict[tuple[str, int], list[dict]]:
    """The hooks of every mode ``(name, n)``; the random subnets of one n are the same."""
    hook = dict(
        type='mmpse.SupernetHook',
        sampler=dict(type=SAMPLERS[sampler]),
        input_shape=(3, size, size),
    )
    modes: dict[tuple[str, int], list[dict]] = {('plain', 1): []}
    for n, execution in itertools.product(parallel, ('masked', 'sliced')):
        modes[execution, n] = [hook | dict(n=n, execution=execution)]
    for execution in ('masked', 'sliced'):
        stage_wise = dict(n=4, fullnet=False, execution=execution)
        modes[f'{STAGE_WISE} {execution}', 4] = [hook | stage_wise]
    modes['sandwich', 4] = [hook | dict(n=4, serial=True, distillation=dict(), execution='sliced')]
    modes['spos', 1] = [hook | dict(n=1, fullnet=False, tinynet=False, execution='sliced')]
    return modes


class Trainer:
    """One mode, ready to take single steps."""

    def __init__(
        self, model, hooks: list[dict], wrapper: str, batch: dict, seed: int, work_dir: str
    ) -> None:
        self.model = model
        serial = any(hook.get('serial', False) for hook in hooks)
        self.batch = batch
        self.runner = Runner(
            model=model,
            work_dir=work_dir,
            train_dataloader=torch.utils.data.DataLoader(
                batch['inputs'], batch_size=len(batch['inputs'])
            ),
            train_cfg=dict(by_epoch=False, max_iters=1_000_000),
            optim_wrapper=dict(
                type=wrapper,
                optimizer=dict(type='SGD', lr=1e-3, momentum=0.9),
                accumulative_counts=hooks[0]['n'] if serial else 1,
            ),
            default_hooks=NO_HOOKS,
            custom_hooks=hooks,
            randomness=dict(seed=seed),
            env_cfg=dict(mp_cfg=dict(mp_start_method='forkserver')),  # as it is
            default_scope='mmpretrain',
            experiment_name=f'{time.time_ns()}',
            log_level='ERROR',
        )
        # what Runner.train does before it runs the loop
        loop = self.runner.train_loop
        self.runner.optim_wrapper = self.runner.build_optim_wrapper(self.runner.optim_wrapper)
        self.runner.optim_wrapper.initialize_count_status(model, 0, loop.max_iters)
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')

    def step(self) -> None:
        self.runner.model.train()
        self.runner.train_loop.run_iter(self.batch)


def turn(network, layout, dtype, mode, hooks, images, size, seed) -> tuple[float, int | None]:
    """Seconds of a step with the subnets of a seed, and, of seed 0, bytes of peak memory."""
    model = build(network, STAGE_WISE in mode)
    model.to(DEVICE, memory_format=LAYOUTS[layout])
    batch = dict(
        inputs=torch.randint(256, (images, 3, size, size), dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(k % 1000) for k in range(images)],
    )
    with tempfile.TemporaryDirectory() as work_dir:
        trainer = Trainer(model, hooks, WRAPPERS[dtype], batch, seed, work_dir)
        trainer.step()
        start = now()
        for _ in range(TIMED_STEPS):
            trainer.step()
        seconds = (now() - start) / TIMED_STEPS
        return seconds, peak_bytes(trainer) if seed == 0 else None


def peak_bytes(trainer: Trainer) -> int:
    """Largest amount of memory that is allocated at one moment of a step."""
    if DEVICE == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trainer.step()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        cpu = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(
            activities=cpu, profile_memory=True, acc_events=True
        ) as profile:
            trainer.step()
        events = profile.profiler.kineto_results.events()
        sizes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == '[memory]']
        sizes.sort(key=lambda event: event[0])
        peak = max(itertools.accumulate(size for _, size in sizes))
    weights = sum(p.nbytes for p in trainer.model.parameters())
    buffers = sum(b.nbytes for b in trainer.model.buffers())
    return 2 * weights + buffers + peak  # the momentum of this mode is as large as the weights


def main() -> None:
    args = parse_args()
    rows = []
    for network, layout, dtype in itertools.product(args.networks, args.layouts, args.dtypes):
        rows += measure(network, layout, dtype, args)
        if args.json:
            write_json(args.json, rows)
    show(rows, args)


def build(network: str, stage_wise: bool):
    """A classifier of 1000 classes."""
    kind = dict(type='ImageClassifier')
    if stage_wise:
        kind = dict(type='mmpse.StageWiseClassifier', stages=STAGES.get(network))
    head = dict(type='LinearClsHead', num_classes=1000, in_channels=WIDTHS[network])
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(
            dict(
                **kind,
                data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
                backbone=NETWORKS[network],
                neck=dict(type='GlobalAveragePooling'),
                head=head,
            )
        )


def measure(network: str, layout: str, dtype: str, args) -> list[dict]:
    """The rows of one network in one layout and precision."""
    modes = {
        (mode, n): (network, layout, dtype, mode, hooks_of_mode, args.batch, args.size)
        for (mode, n), hooks_of_mode in hooks(args.n, args.sampler, args.size).items()
        if mode in ('plain', *args.modes)
    }
    times: dict[tuple[str, int], list[float]] = {mode: [] for mode in modes}
    peaks: dict[tuple[str, int], int] = {}
    # forked from a process that has imported all this, and run nothing yet
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['mmpretrain.models', 'mmpse.openmmlab.supernet.hook'])
    turns = list(itertools.product(range(args.rounds), modes))
    for seed, mode in track(turns, description=f'{network}, {layout}, {dtype}', transient=True):
        with ProcessPoolExecutor(1, context) as process:
            seconds, peak = process.submit(turn, *modes[mode], seed).result()
        times[mode].append(seconds)
        peaks.setdefault(mode, peak)  # of the first round
    plain = times['plain', 1]
    rows = []
    for (mode, n), seconds in times.items():
        ratios = [value / base for value, base in zip(seconds, plain, strict=True)]
        subnet_images = args.batch * images_of(mode, n)
        rows.append(
            dict(
                network=network,
                mode=mode,
                n=n,
                device=DEVICE,
                layout=layout,
                dtype=dtype,
                seconds=statistics.median(seconds),
                ratio=statistics.median(ratios),
                ratio_min=min(ratios),
                ratio_max=max(ratios),
                peak_bytes=peaks[mode, n],
                memory_ratio=peaks[mode, n] / peaks['plain', 1],
                subnet_images_per_s=subnet_images / statistics.median(seconds),
            )
        )
    return rows


def images_of(mode: str, n: int) -> int:
    """Subnets that an image runs through in a step; a stage-wise step runs the fullnet too."""
    return n if mode == 'sandwich' else 2 if mode.startswith(STAGE_WISE) else 1


def show(rows: list[dict], args: argparse.Namespace) -> None:
    title = (
        f'{args.size} px, batch {args.batch}, {args.sampler} sampler, {rows[0]["device"]}, '
        f'{torch.get_num_threads()} threads, {args.rounds} rounds'
    )
    table = Table(title=title)
    table.add_column('step', no_wrap=True)
    for name in ('n', 'median s', 'ratio', 'min - max', 'peak MiB', 'ratio', 'images/s'):
        table.add_column(name, justify='right')
    groups = itertools.groupby(rows, key=lambda r: (r['network'], r['layout'], r['dtype']))
    for group, members in groups:
        table.add_section()
        table.add_row(' '.join(group))
        for row in members:
            table.add_row(
                f'  {row["mode"]}',
                str(row['n']),
                f'{row["seconds"]:.3f}',
                f'{row["ratio"]:.3f}',
                f'{row["ratio_min"]:.2f} - {row["ratio_max"]:.2f}',
                f'{row["peak_bytes"] / 2**20:.0f}',
                f'{row["memory_ratio"]:.2f}',
                f'{row["subnet_images_per_s"]:.1f}',
            )
    Console(width=110).print(table)


if __name__ == '__main__':
    run_command(main)
