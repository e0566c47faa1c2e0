"""Does a supernet rank its subnets? Each of 24 trained alone, and judged in supernets.

python tools/evidence/ranking.py --data-root DATA [--scale full] [--only 'alone_*']

DATA holds CIFAR-10 in its official form (the folder cifar-10-batches-py). The subnets are spread
over the FLOPs and kept in subnets.json. Each is trained alone, every third with three seeds, and
tested once, at its end, on the test set. Supernets are trained for equal time (on a CPU: processor
time, so that other jobs of the machine do not count), and judge the same subnets on images held out
of the training set. Run again after a kill: nothing is done twice. `make results` writes the page.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import frame
import numpy as np
import torch
from frame import Advance, Unit, load_config, read_json, run_units, train, write_json
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmpse.command import run_command
from mmpse.files import written
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.models.pruned import layout_of
from mmpse.openmmlab.search.judge import Judge, Verdict, calibration_batches
from mmpse.openmmlab.stagewise.classifier import StageWiseClassifier
from mmpse.openmmlab.stagewise.stages import StageJudge
from mmpse.openmmlab.supernet.building import find_supernet
from mmpse.openmmlab.supernet.hook import SupernetHook
from mmpse.openmmlab.types import is_type
from mmpse.registry import HOOKS
from mmpse.slim import as_subnet
from mmpse.space import SpreadSampler, Subnet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(frame.Scale):
    """How much the experiment trains."""

    epochs: int  # of a network trained alone
    seconds: tuple[float, ...]  # of a supernet


SCALES = dict(
    small=Scale(images=12_000, splits=6, epochs=4, seconds=(120, 480), bfloat16=True),
    full=Scale(images=None, splits=25, epochs=100, seconds=(7200, 1800), bfloat16=False),
)


class Way(NamedTuple):
    """A way to train a supernet."""

    config: str
    hook: dict[str, Any] = dict(execution='sliced')  # settings of its SupernetHook
    pretrained: bool = False


WAYS = {
    'parallel-masked': Way('psenet', dict(execution='masked')),
    'parallel-sliced': Way('psenet'),
    'sandwich': Way('autoslim'),
    'spos': Way('spos'),
    'stage-wise': Way('swp'),
}
PRETRAINING = 0.5  # of the time: the full network, from which the supernet then starts
WAYS.update(
    {
        f'{name}-pretrained': WAYS[name]._replace(pretrained=True)
        for name in ('parallel-sliced', 'stage-wise', 'sandwich', 'spos')
    }
)
PARTS = {  # the parallel way with other settings than its n=4, fullnet, tinynet, SpreadSampler
    'n=1': dict(n=1, fullnet=False, tinynet=False),
    'n=2': dict(n=2),
    'n=8': dict(n=8),
    'n=16': dict(n=16),
    'no-fullnet': dict(fullnet=False),
    'no-tinynet': dict(tinynet=False),
    'neither': dict(fullnet=False, tinynet=False),
    'uniform-sampler': dict(sampler=dict(type='mmpse.UniformSampler')),
    'ratio-sampler': dict(sampler=dict(type='mmpse.RatioSampler')),
    'distillation': dict(distillation=dict()),
}
WAYS.update({name: Way('psenet', dict(part, execution='sliced')) for name, part in PARTS.items()})
SUBNETS = 24
INPUT_SHAPE = (3, 32, 32)
GRID = ('ratios', 'divisor', 'grids')  # settings of a SupernetHook that make the space
METRIC = 'accuracy/top1'
CALIBRATION = 8  # batches
RECALIBRATIONS = (0, 1, 2, 4, 8, 16)  # batches, compared


def fixed_subnets(path: Path, cfg: Config, count: int) -> list[Subnet]:
    """The subnets of ``path``, from the fewest FLOPs to the fullnet; drawn where it is missing.

    Args:
        cfg: The config of the supernet.
    """
    if not path.exists():
        grid = {key: hook_of(cfg)[key] for key in GRID if key in hook_of(cfg)}
        supernet, costs = find_supernet(build_model(cfg), cfg, grid, INPUT_SHAPE)
        space, flops = supernet.space, costs['flops']
        rng, drawn = np.random.default_rng(0), [space.fullnet]
        for level in range(count - 1):
            share = level / (count - 1), (level + 1) / (count - 1)
            sampler = SpreadSampler(space, flops, *share, levels=1)
            while (subnet := space.subnet(sampler.sample(rng, 1)[0])) in drawn:
                pass
            drawn.append(subnet)
        rows = space.array(drawn)
        found = {name: cost(rows).tolist() for name, cost in costs.items()}
        resources = [dict(zip(found, values)) for values in zip(*found.values())]
        ranked = sorted(zip(drawn, resources), key=lambda pair: pair[1]['flops'])
        write_json(path, [dict(s.to_dict(), resources=cost) for s, cost in ranked])
    return [Subnet.from_dict(content, str(path)) for content in read_json(path)]


def hook_of(cfg: Config) -> dict[str, Any]:
    """The SupernetHook of a config."""
    (hook,) = [hook for hook in cfg.custom_hooks if is_type(hook, SupernetHook, HOOKS)]
    return hook


def supernet_config(config: Callable[[str], Config], way: str) -> Config:
    """The config of a supernet that is trained this way."""
    cfg = config(WAYS[way].config)
    hook_of(cfg).update(WAYS[way].hook)
    return cfg


def fullnet_config(config: Callable[[str], Config]) -> Config:
    """The config of the full network alone."""
    cfg = config('static')
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    return cfg


def train_supernet(
    config: Callable[[str], Config],
    way: str,
    seed: int,
    work_dir: Path,
    advance: Advance,
    seconds: float,
) -> tuple[Runner, dict[str, Any]]:
    """Train a supernet, or first the full network and then the supernet from its weights.

    Args:
        config: Gives the config of a name.
        seconds: In all.

    Returns:
        The runner of the supernet, and the figures of its training.
    """
    cfg = supernet_config(config, way)
    if not WAYS[way].pretrained:
        return train(cfg, seed, work_dir, advance, seconds=seconds)
    weights = work_dir / 'fullnet.pth'
    if not weights.exists():
        runner, figures = train(
            fullnet_config(config),
            seed,
            work_dir / 'fullnet',
            lambda share: advance(PRETRAINING * share),
            seconds=PRETRAINING * seconds,
        )
        content = dict(state_dict=runner.model.state_dict(), figures=figures)
        with written(weights) as (temporary,):
            torch.save(content, temporary)
    before = torch.load(weights)['figures']
    cfg.model.init_cfg = dict(type='mmpse.WarmStart', checkpoint=str(weights), sort='bn')
    runner, figures = train(
        cfg,
        seed,
        work_dir / 'supernet',
        lambda share: advance(PRETRAINING + (1 - PRETRAINING) * share),
        seconds=seconds - before['train_seconds'],
    )
    both = before['train_seconds'] + figures['train_seconds']
    return runner, dict(figures, train_seconds=round(both, 1), pretraining_steps=before['steps'])


class Experiment:
    """The units of work of one network at one scale."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.scale, self.network, self.data_root = SCALES[args.scale], args.network, args.data_root
        self.folder = args.out / f'{args.network}-{args.scale}'
        self.subnets = fixed_subnets(self.folder / 'subnets.json', self.config('psenet'), SUBNETS)

    def config(self, way: str) -> Config:
        return load_config(f'{way}_{self.network}', self.scale, self.data_root)

    def units(self, seeds: int) -> list[Unit]:
        """In the order of their worth, if there is not the time for all."""
        count = len(self.subnets)
        # both ends first: that a recipe does not tell subnets apart shows early
        first = sorted(range(count), key=lambda k: -abs(2 * k - count + 1))
        units = [self.alone(k, 0) for k in first]
        ways = [way for way in WAYS if way not in PARTS]
        units += [self.supernet(way, self.scale.seconds[0], 0) for way in ways]
        units += [self.alone(k, seed) for seed in range(1, seeds) for k in range(1, count, 3)]
        units += [
            self.supernet(way, seconds, seed)
            for of_ways, times in ((ways, self.scale.seconds), (PARTS, self.scale.seconds[:1]))
            for seed in range(seeds)
            for seconds in times
            for way in of_ways
        ]
        units += [self.recalibration(self.scale.seconds[0], seed) for seed in range(seeds)]
        return list({unit.name: unit for unit in units}.values())

    def alone(self, index: int, seed: int) -> Unit:
        """A subnet trained alone."""
        return Unit(
            f'alone_{index:02}_seed{seed}',
            functools.partial(self.train_alone, index=index, seed=seed),
        )

    def train_alone(self, work_dir: Path, advance: Advance, index: int, seed: int) -> dict:
        cfg = self.config('static')
        pruned = dict(type='mmpse.Pruned', architecture=cfg.model.type)
        cfg.model.update(pruned, subnet=self.subnets[index].to_dict())
        runner, figures = train(cfg, seed, work_dir, advance, epochs=self.scale.epochs)
        return dict(
            kind='alone',
            subnet=index,
            **figures,
            held_out=runner.val()[METRIC],
            test=runner.test()[METRIC],
        )

    def supernet(self, way: str, seconds: float, seed: int) -> Unit:
        """A supernet trained for some seconds, and the subnets judged in it."""
        return Unit(
            f'supernet_{way}_{seconds:g}s_seed{seed}',
            functools.partial(self.judge_supernet, way=way, seconds=seconds, seed=seed),
        )

    def judge_supernet(
        self, work_dir: Path, advance: Advance, way: str, seconds: float, seed: int
    ) -> dict:
        runner, figures, judge, held_out = self.trained(
            work_dir, advance, way, seconds, seed, CALIBRATION
        )
        verdicts = [judge(subnet) for subnet in self.subnets]
        scores, losses = [v.score for v in verdicts], [v.loss for v in verdicts]
        record = dict(kind='supernet', way=way, seconds_allowed=seconds, **figures)
        record.update(scores=scores, losses=losses)
        if isinstance(runner.model, StageWiseClassifier):
            record['distances'] = self.distances(runner.model, held_out)
        return record

    def recalibration(self, seconds: float, seed: int) -> Unit:
        """A supernet in which the subnets are judged after more and more recalibration."""
        return Unit(
            f'recalibration_{seconds:g}s_seed{seed}',
            functools.partial(self.judge_recalibrated, seconds=seconds, seed=seed),
        )

    def judge_recalibrated(
        self, work_dir: Path, advance: Advance, seconds: float, seed: int
    ) -> dict:
        runner, figures, judge, _ = self.trained(
            work_dir, advance, 'parallel-sliced', seconds, seed, max(RECALIBRATIONS)
        )
        batches, scores = judge.calibration, {}
        for count in RECALIBRATIONS:
            judge.calibration = list(itertools.islice(batches, count))
            scores[count] = [
                (judge(subnet) if count else unrecalibrated(judge, subnet)).score
                for subnet in self.subnets
            ]
        size = runner.train_dataloader.batch_sampler.batch_size
        return dict(
            kind='recalibration',
            seconds_allowed=seconds,
            batch_size=size,
            **figures,
            scores_of_batches=scores,
        )

    def trained(
        self,
        work_dir: Path,
        advance: Advance,
        way: str,
        seconds: float,
        seed: int,
        calibration: int,
    ) -> tuple[Runner, dict, Judge, DataLoader]:
        """A trained supernet: its runner and figures, its judge, and the data held out."""
        runner, figures = train_supernet(self.config, way, seed, work_dir, advance, seconds)
        judged_by = self.config('static')
        # the runner's own tracks no statistics
        model = build_model(judged_by)
        model.load_state_dict(runner.model.state_dict())
        model.to(get_device(), memory_format=torch.channels_last)
        held_out = Runner.build_dataloader(judged_by.val_dataloader)
        judge = Judge(
            model,
            layout_of(self.subnets[0]),
            calibration_batches(runner.train_dataloader, calibration),
            held_out,
            runner.build_evaluator(judged_by.val_evaluator),
            METRIC,
        )
        return runner, figures, judge, held_out

    def distances(self, model: StageWiseClassifier, held_out: DataLoader) -> list[float]:
        """What the stage-wise search ranks by: distances to the fullnet, summed over the stages."""
        batches = [model.data_preprocessor(batch, False)['inputs'] for batch in held_out]
        judge = StageJudge(model.stages, model.supernet, batches)
        return [sum(judge(subnet)) for subnet in self.subnets]


def unrecalibrated(judge: Judge, subnet: Subnet) -> Verdict:
    """Judge a subnet by the statistics of the supernet, which tracked none."""
    with as_subnet(judge.model, judge.layout, subnet):
        return judge.evaluate(judge.model)


def main(arguments: Sequence[str] | None = None) -> None:
    args = frame.parser(__doc__, SCALES, 'ranking').parse_args(arguments)
    torch.set_num_threads(args.threads)
    experiment = Experiment(args)
    units = frame.chosen(experiment.units(args.seeds), args.only)
    command = 'python tools/evidence/ranking.py --data-root DATA'
    command += f' --network {args.network} --scale {args.scale}'
    run_units(units, command, experiment.folder, args.work_dir / experiment.folder.name)


if __name__ == '__main__':
    run_command(main, 'the same command goes on')
