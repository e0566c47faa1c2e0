"""Accuracy at equal FLOPs and equal total time: training a supernet, searching it, retraining.

python tools/evidence/equal_flops.py --data-root DATA [--scale full] [--only '*_seed0']

DATA holds CIFAR-10 in its official form (the folder cifar-10-batches-py). Every method has the same
seconds for a network of at most 50 %, and one of at most 25 %, of the FLOPs: what the supernet and
the search leave of them is the time in which the found subnet is retrained. Uniform pruning
retrains the whole time; Torch-Pruning (`pip install torch-pruning`) trains the full network, prunes
it, and fine-tunes what is left of it. On a CPU the seconds are processor time, so that other jobs
of the machine do not count.

A supernet is trained once for all methods and budgets that search it; its time counts in full for
each. Searches judge on images held out of the training set. The test set is read once, after each
retraining. Found subnets are retrained from scratch, as in the papers; in `result_*_warm_*` from
the supernet's weights; in `result_*_free_*` from scratch for the whole time, as if supernet and
search had cost nothing: that tells how good the subnet is, where the others tell what it cost.

Run again after a kill: nothing is done twice, but for a search that was killed, since its time
counts. Searches and retrainings need the records of what comes before them, and the weights, which
stay in the work dir. `make results` writes the page.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import frame
import torch
from frame import Advance, Unit, load_config, now, read_json, run_units, set_up, train
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpse.models import costs_of, count, model_costs, with_subnet
from ranking import INPUT_SHAPE, METRIC, fullnet_config, space_of, train_supernet
from torch import nn

from mmpse.command import run_command
from mmpse.registry import MODELS
from mmpse.space import Budget, Subnet, nearest_uniform

BUDGETS = ('50%', '25%')  # of the FLOPs
FULLNET = 'fullnet'  # way of training: the full network alone
PRUNING_STEPS = 100


class Method(NamedTuple):
    """A way to come to a subnet."""

    way: str | None  # of training what it starts from, as in ranking.WAYS
    search: dict[str, Any] | None  # a loop of mmpse with its settings


METHODS = {
    'uniform': Method(None, None),
    'evolution': Method('parallel-sliced', dict(type='mmpse.EvolutionSearchLoop')),
    'evolution-pretrained': Method(
        'parallel-sliced-pretrained', dict(type='mmpse.EvolutionSearchLoop')
    ),
    'stage-wise': Method('stage-wise', dict(type='mmpse.StageWiseSearchLoop')),
    'torch-pruning': Method(FULLNET, None),
    'random': Method('parallel-sliced', dict(type='mmpse.RandomSearchLoop', sampler='uniform')),
    'greedy': Method('sandwich', dict(type='mmpse.GreedySearchLoop')),
}
SAMPLERS = {  # of the candidates of random searches; 'uniform' is the method above
    f'random-{name}': Method('parallel-sliced', dict(type='mmpse.RandomSearchLoop', sampler=name))
    for name in ('cost', 'loss', 'prior')
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(frame.Scale):
    """How much time there is."""

    total: float  # seconds for a result
    supernet: float  # seconds of them for training what is searched or pruned
    searches: Mapping[str, Mapping[str, Any]]  # loop -> settings of the search's config


FEW = dict(calibration=4, population=16, generations=4)
SMALL = Scale(
    images=12_000,
    splits=12,
    bfloat16=True,
    total=300,
    supernet=120,
    searches={
        'mmpse.RandomSearchLoop': {'train_cfg': FEW},
        'mmpse.EvolutionSearchLoop': {'train_cfg': dict(FEW, parents=5, mutants=8)},
        'mmpse.StageWiseSearchLoop': {
            'train_cfg': dict(calibration=4, candidates=40, batches=1, joined=10)
        },
        # greedy slimming has to judge several times as many subnets: coarser cuts, fewer images
        'mmpse.GreedySearchLoop': {
            'train_cfg': dict(calibration=1),
            'model.backbone.ratios': [0.4, 0.7, 1.0],
            'val_dataloader.dataset.num_splits': 48,
        },
    },
)
SCALES = dict(
    small=SMALL,
    medium=dataclasses.replace(SMALL, total=900, supernet=300),  # as much to judge
    full=Scale(
        images=None,
        splits=25,
        bfloat16=False,
        total=14_400,
        supernet=5400,
        searches={},
    ),
)


class Experiment:
    """The units of work of one network at one scale."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.scale, self.network, self.data_root = SCALES[args.scale], args.network, args.data_root
        self.folder = args.out / f'{args.network}-{args.scale}'
        self.work_dir = args.work_dir / 'equal_flops' / self.folder.name

    def config(self, name: str) -> Config:
        return load_config(f'{name}_{self.network}', self.scale, self.data_root)

    def units(self, seeds: int) -> list[Unit]:
        """In the order of their worth, if there is not the time for all."""
        units = []
        for seed in range(seeds):
            for budget in BUDGETS:
                for name, method in METHODS.items():
                    if method.way is not None:
                        units.append(self.supernet(method.way, seed))
                        units.append(self.search(name, budget, seed))
                    units.append(self.result(name, budget, seed))
            searched = [name for name, method in METHODS.items() if method.search is not None]
            for variant in ('warm', 'free'):
                units += [self.result(n, b, seed, variant) for b in BUDGETS for n in searched]
            units += [self.search(name, b, seed) for name in SAMPLERS for b in BUDGETS]
        return list({unit.name: unit for unit in units}.values())

    def unit(self, name: str, run, **arguments) -> Unit:
        return Unit(f'{name}_seed{arguments["seed"]}', functools.partial(run, **arguments))

    def supernet(self, way: str, seed: int) -> Unit:
        """What is searched, or the full network that is pruned."""
        return self.unit(f'supernet_{way}', self.train_supernet, way=way, seed=seed)

    def search(self, method: str, budget: str, seed: int) -> Unit:
        """A subnet of a supernet; or a full network pruned."""
        name = f'search_{method}_{budget.rstrip("%")}'
        run = self.run_pruning if method == 'torch-pruning' else self.run_search
        return self.unit(name, run, method=method, budget=budget, seed=seed)

    def result(self, method: str, budget: str, seed: int, variant: str = '') -> Unit:
        """The accuracy, after retraining."""
        name = f'result_{method}_{budget.rstrip("%")}' + (variant and f'_{variant}')
        arguments = dict(method=method, budget=budget, seed=seed)
        flags = dict(warm=variant == 'warm', free=variant == 'free')
        return self.unit(name, self.retrain, **arguments, **flags)

    def record(self, unit: Unit) -> dict:
        """Of a unit that comes before."""
        path = self.folder / f'{unit.name}.json'
        if not path.exists():
            raise SystemExit(f'{path} is missing: run this unit first, with --only {unit.name}')
        return read_json(path)

    def weights(self, unit: Unit) -> Path:
        """Where a unit leaves weights for those that come after it."""
        return self.work_dir / f'{unit.name}.pth'

    def found(self, unit: Unit) -> str:
        """The weights of a unit that comes before."""
        self.record(unit)
        path = self.weights(unit)
        if not path.exists():
            raise SystemExit(
                f'{path} is missing, the weights that {unit.name} left: give the same --work-dir '
                f'as then, or remove {self.folder / unit.name}.json to make them again'
            )
        return str(path)

    def train_supernet(self, work_dir: Path, advance: Advance, way: str, seed: int) -> dict:
        seconds = self.scale.supernet
        if way == FULLNET:
            cfg = fullnet_config(self.config)
            runner, figures = train(cfg, seed, work_dir, advance, seconds=seconds)
        else:
            runner, figures = train_supernet(self.config, way, seed, work_dir, advance, seconds)
        options = dict(save_optimizer=False, save_param_scheduler=False, by_epoch=False)
        runner.save_checkpoint(str(work_dir), 'weights.pth', **options)
        leave(work_dir / 'weights.pth', self.weights(self.supernet(way, seed)))
        return dict(kind='supernet', way=way, **figures)

    def run_search(
        self, work_dir: Path, advance: Advance, method: str, budget: str, seed: int
    ) -> dict:
        shutil.rmtree(work_dir, ignore_errors=True)  # of a killed search, whose time is not known
        way, search = {**METHODS, **SAMPLERS}[method]
        cfg = self.config('static')
        cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
        cfg.load_from = self.found(self.supernet(way, seed))
        cfg.val_cfg.fp16 = self.scale.bfloat16  # as it was trained
        cfg.train_cfg = dict(
            search, budget=dict(flops=budget), input_shape=INPUT_SHAPE, metric=METRIC
        )
        settings = self.scale.searches.get(search['type'], {})
        cfg.merge_from_dict(dict(settings))
        set_up(cfg, seed, work_dir)
        started = now()
        runner = Runner.from_cfg(cfg)
        best = runner.train()
        seconds, loop = now() - started, runner.train_loop
        scores = [row.score for row in loop.history.values()]
        record = dict(
            kind='search',
            method=method,
            budget=budget,
            seed=seed,
            search_seconds=round(seconds, 1),
            score=best.source['score'],
            judged=len(scores),
            images=len(runner.val_dataloader.dataset),
            scores=scores,
            subnet=dict(best.to_dict(), source={}),
        )
        if hasattr(loop, 'prior'):
            record.update(trials=loop.prior.trials, accepted=loop.prior.accepted)
        return record

    def run_pruning(
        self, work_dir: Path, advance: Advance, method: str, budget: str, seed: int
    ) -> dict:
        weights = self.found(self.supernet(FULLNET, seed))
        cfg = self.config('static')
        started = now()
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            config = cfg.model.to_dict()
            config.setdefault('data_preprocessor', cfg.data_preprocessor.to_dict())
            config = with_subnet(config, space_of(config).fullnet)
            config.init_cfg = dict(type='mmpse.WarmStart', checkpoint=weights)
            model = MODELS.build(config)
            model.init_weights()
        limit = count(model, INPUT_SHAPE)['flops'] * float(budget.rstrip('%')) / 100
        prune(model, limit, advance)
        seconds = now() - started
        work_dir.mkdir(parents=True, exist_ok=True)
        torch.save(model, work_dir / 'model.pth')
        leave(work_dir / 'model.pth', self.weights(self.search(method, budget, seed)))
        return dict(
            kind='search',
            method=method,
            budget=budget,
            seed=seed,
            search_seconds=round(seconds, 1),
            subnet=dict(
                widths={
                    name: layer.out_channels
                    for name, layer in model.named_modules()
                    if isinstance(layer, nn.Conv2d)
                },
                resources=count(model, INPUT_SHAPE),
            ),
        )

    def retrain(
        self,
        work_dir: Path,
        advance: Advance,
        method: str,
        budget: str,
        seed: int,
        warm: bool,
        free: bool,
    ) -> dict:
        cfg, way = self.config('static'), METHODS[method].way
        before = dict(supernet_seconds=0.0, search_seconds=0.0)
        if way is None:
            subnet = uniform(cfg.model.to_dict(), budget)
            resources = subnet.resources
            cfg.model = with_subnet(cfg.model.to_dict(), subnet)
        else:
            source, search = self.supernet(way, seed), self.search(method, budget, seed)
            found = self.record(search)
            before = dict(
                supernet_seconds=self.record(source)['train_seconds'],
                search_seconds=found['search_seconds'],
            )
            resources = found['subnet']['resources']
            if method == 'torch-pruning':
                cfg.model = dict(type='mmpse.PrunedModel', path=self.found(search))
            else:
                subnet = Subnet.from_dict(found['subnet'], search.name)
                cfg.model = with_subnet(cfg.model.to_dict(), subnet)
        if warm:
            weights = self.found(source)
            cfg.model.init_cfg = dict(type='mmpse.WarmStart', checkpoint=weights)
        seconds = self.scale.total - (0 if free else sum(before.values()))
        if seconds <= 0:
            raise SystemExit(
                f'{method} at {budget}: supernet and search took {sum(before.values()):.0f} of '
                f'{self.scale.total:g} s, and nothing is left for the retraining; judge fewer '
                'subnets or images (searches of the scale), or train the supernet for less'
            )
        runner, figures = train(cfg, seed, work_dir, advance, seconds=seconds)
        return dict(
            kind='result',
            method=method,
            warm=warm,
            free=free,
            budget=budget,
            flops=resources['flops'],
            params=resources['params'],
            seconds_allowed=self.scale.total,
            **before,
            **figures,
            held_out=runner.val()[METRIC],
            test=runner.test()[METRIC],
        )


def leave(path: Path, place: Path) -> None:
    """Move a file to where later units look for it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, place)


def uniform(model: dict, budget: str) -> Subnet:
    """The largest uniform subnet within the budget, as tools/make_subnet.py writes it."""
    space = space_of(model)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        costs = model_costs(model, INPUT_SHAPE)
    limit = Budget(space, costs, dict(flops=budget))
    subnet = space.subnet(nearest_uniform(space, limit.cost, limit.high, at_most=True))
    return space.subnet(list(subnet.values()), resources=costs_of(space, costs, subnet))


def prune(model: nn.Module, limit: float, advance: Advance) -> None:
    """Torch-Pruning as its authors use it on CIFAR-10, until the FLOPs are within the limit.

    Groups of channels by their norm, over all layers at once, in small steps:
    https://github.com/VainF/Torch-Pruning, benchmarks/main.py, ``--method group_norm
    --global-pruning``, without the training for sparsity.
    """
    import torch_pruning

    pruner = torch_pruning.pruner.BasePruner(
        model,
        torch.zeros(1, *INPUT_SHAPE),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=PRUNING_STEPS,
        ignored_layers=[layer for layer in model.modules() if isinstance(layer, nn.Linear)],
    )
    for step in range(PRUNING_STEPS):
        if count(model, INPUT_SHAPE)['flops'] <= limit:
            return
        pruner.step()
        advance(step / PRUNING_STEPS)
    raise RuntimeError(f'Torch-Pruning cannot come to {limit:,.0f} FLOPs')


@MODELS.register_module(force=True)
def PrunedModel(path: str, data_preprocessor=None) -> nn.Module:  # noqa: N802 (a name in configs)
    """A model that :func:`prune` left; it holds its own data preprocessor."""
    return torch.load(path, map_location='cpu', weights_only=False)


def main(arguments: Sequence[str] | None = None) -> None:
    args = frame.parser(__doc__, SCALES, 'equal_flops').parse_args(arguments)
    torch.set_num_threads(args.threads)
    experiment = Experiment(args)
    units = frame.chosen(experiment.units(args.seeds), args.only)
    pruning = [unit.name for unit in units if unit.name.startswith('search_torch-pruning')]
    if pruning and importlib.util.find_spec('torch_pruning') is None:
        raise SystemExit(
            f'{pruning[0]} needs Torch-Pruning, which is not installed: `pip install torch-pruning`'
            ', or name other units with --only'
        )
    command = 'python tools/evidence/equal_flops.py --data-root DATA'
    command += f' --network {args.network} --scale {args.scale}'
    run_units(units, command, experiment.folder, experiment.work_dir)


if __name__ == '__main__':
    run_command(main, 'the same command goes on')
