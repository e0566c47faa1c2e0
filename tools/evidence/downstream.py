"""Does a searched backbone serve detectors and segmentors better than a uniform one?

python tools/evidence/downstream.py --cifar10 DATA --bccd BCCD --camvid CAMVID [--scale full]
    [--only 'bccd_*']

A ResNet-18 is trained as a supernet on CIFAR-10 and searched at half the FLOPs. The full network,
the searched subnet and the uniform one of like FLOPs are trained alone by one recipe, put by
mmpse.transfer into RetinaNet (BCCD) and Semantic FPN (CamVid), which are trained by one recipe for
all three, and tested once, at the end. The same with a second supernet that starts from the full
network. RetinaNet is also its own supernet, searched at the FLOPs that it has with the searched
backbone; the found subnet and the uniform one start from it. Each seed does all of that anew.

DATA holds cifar-10-batches-py; BCCD annotations/instances_SPLIT.json and a folder of images for
each split; CAMVID images/SPLIT and annotations/SPLIT. Run again after a kill: nothing is done
twice; later units read the weights that earlier ones left in --work-dir. `make results` writes the
page.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import frame
import torch
from frame import ROOT, Advance, Unit, load_config, read_json, run_units, set_up, train
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpse.models import (
    backbone_costs,
    costs_of,
    find_backbone,
    measure,
    model_costs,
    with_subnet,
)
from mmpse.transfer import transfer

from mmpse.command import run_command
from mmpse.openmmlab.search.resume import resume_latest
from mmpse.openmmlab.supernet.hook import SupernetHook
from mmpse.openmmlab.types import is_type
from mmpse.registry import HOOKS, MODELS
from mmpse.space import Subnet, nearest_uniform

NETWORK = 'resnet18-w0p5_b128'
BACKBONES = ('full', 'uniform', 'searched')
PRETRAINED = 'searched-pretrained'  # in a supernet that starts from the full network
IMAGE = (3, 64, 64)  # of the classifier
SCENE = (3, 192, 256)  # of detector and segmentor


class Task(NamedTuple):
    """What the backbones are transferred to."""

    config: Path
    metrics: tuple[str, ...]  # the first one decides


BASES = ROOT / 'configs/_base_'
TASKS = {
    'bccd': Task(
        BASES / 'detectors/retinanet_resnet18-w0p5_fpn_bccd.py',
        ('coco/bbox_mAP', 'coco/bbox_mAP_50'),
    ),
    'camvid': Task(BASES / 'segmentors/fpn_resnet18-w0p5_camvid.py', ('mIoU', 'mAcc')),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(frame.Scale):
    """How much everything trains, and how many subnets are judged."""

    seconds: float  # of the supernet
    search: dict[str, int]  # settings of the search loop
    epochs: dict[str, int]  # of the classifiers alone, the detector and the segmentor


SCALES = dict(
    small=Scale(
        images=24_000,
        splits=12,
        bfloat16=True,
        seconds=180,
        search=dict(population=12, generations=5, parents=4, mutants=6, calibration=4),
        epochs=dict(alone=4, bccd=15, camvid=8),
    ),
    full=Scale(
        images=None,
        splits=25,
        bfloat16=False,
        seconds=7200,
        search=dict(),
        epochs=dict(alone=100, bccd=100, camvid=200),
    ),
)


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = frame.common_parser(__doc__, SCALES, 'transfer')
    for name in ('cifar10', *TASKS):
        parser.add_argument(f'--{name}', help='folder of this data set; default: the config says')
    return parser.parse_args(arguments)


class Experiment:
    """The units of work at one scale."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.scale = SCALES[args.scale]
        self.roots = {name: getattr(args, name) for name in ('cifar10', *TASKS)}
        self.folder = args.out / f'{NETWORK}-{args.scale}'
        self.work_dir = args.work_dir / f'{self.folder.name}-transfer'

    def units(self, seeds: int) -> list[Unit]:
        """Of one seed after the other; a unit needs those before it."""
        return [unit for seed in range(seeds) for unit in self.units_of(seed)]

    def units_of(self, seed: int) -> Iterator[Unit]:
        def unit(name: str, run, **arguments) -> Unit:
            return Unit(f'{name}_seed{seed}', functools.partial(run, seed=seed, **arguments))

        yield unit('supernet', self.train_supernet)
        yield unit('search', self.search)
        for backbone in BACKBONES:
            yield unit(f'alone_{backbone}', self.train_alone, backbone=backbone)
        yield unit('supernet-pretrained', self.train_supernet, pretrained=True)
        yield unit('search-pretrained', self.search, pretrained=True)
        yield unit(f'alone_{PRETRAINED}', self.train_alone, backbone=PRETRAINED)
        for task in TASKS:
            for backbone in (*BACKBONES, PRETRAINED):
                yield unit(f'{task}_{backbone}', self.train_task, task=task, backbone=backbone)
        yield unit('latency', self.measure_latency)
        yield unit('bccd-supernet', self.train_detector_supernet)
        yield unit('bccd-search', self.search_detector)
        yield unit('bccd_own', self.fine_tune_own)
        # what the supernet's weights bring without a search
        yield unit('bccd_own-uniform', self.fine_tune_own, backbone='uniform')

    # What units leave for others

    def weights(self, name: str) -> Path:
        return self.work_dir / 'weights' / f'{name}.pth'

    def weights_of(self, name: str) -> str:
        """The weights that a unit has left, by its name."""
        if not self.weights(name).exists():
            raise FileNotFoundError(
                f'{self.weights(name)} is missing, which the unit {name} writes: run that first; '
                f'if it has a record ({self.folder / name}.json), remove it'
            )
        return str(self.weights(name))

    def keep_weights(self, runner: Runner, name: str) -> None:
        path = self.weights(name)
        runner.save_checkpoint(str(path.parent), path.name, save_optimizer=False)

    def subnet(self, backbone: str, seed: int) -> Subnet:
        search = 'search-pretrained' if backbone == PRETRAINED else 'search'
        return Subnet.from_dict(self.record(f'{search}_seed{seed}')['subnets'][backbone])

    def record(self, name: str) -> dict[str, Any]:
        path = self.folder / f'{name}.json'
        if not path.exists():
            raise FileNotFoundError(f'{path} is missing: run the unit {name} first')
        return read_json(path)

    # The classifier

    def classifier(self, way: str) -> Config:
        return load_config(f'{way}_{NETWORK}', self.scale, self.roots['cifar10'])

    def train_supernet(
        self, work_dir: Path, advance: Advance, seed: int, pretrained: bool = False
    ) -> dict:
        cfg = self.classifier('psenet')
        if pretrained:
            weights = self.weights_of(f'alone_full_seed{seed}')
            cfg.model.init_cfg = dict(type='mmpse.WarmStart', checkpoint=weights, sort='bn')
        (hook,) = [hook for hook in cfg.custom_hooks if is_type(hook, SupernetHook, HOOKS)]
        hook.execution = 'sliced'
        runner, figures = train(cfg, seed, work_dir, advance, seconds=self.scale.seconds)
        self.keep_weights(runner, f'supernet{"-pretrained" * pretrained}_seed{seed}')
        return dict(kind='supernet', **figures)

    def search(self, work_dir: Path, advance: Advance, seed: int, pretrained: bool = False) -> dict:
        """Searched, uniform and full subnet with their costs in the classifier."""
        cfg = self.classifier('search')
        cfg.train_cfg.update(self.scale.search)
        weights = self.weights_of(f'supernet{"-pretrained" * pretrained}_seed{seed}')
        runner, searched = run_search(cfg, seed, work_dir, weights)
        costs = model_costs(cfg.model.to_dict(), IMAGE)
        space = find_backbone(runner.model).search_space
        flops = searched.resources['flops']
        if pretrained:
            subnets = {PRETRAINED: searched}
        else:
            uniform = space.subnet(nearest_uniform(space, costs['flops'], flops))
            subnets = dict(full=space.fullnet, uniform=uniform, searched=searched)
        contents = {
            name: content(subnet, costs_of(space, costs, subnet))
            for name, subnet in subnets.items()
        }
        figures = dict(judged=runner.train_loop.iter, score=searched.source['score'])
        return dict(kind='search', seed=seed, **figures, subnets=contents)

    def train_alone(self, work_dir: Path, advance: Advance, seed: int, backbone: str) -> dict:
        cfg = self.classifier('static')
        cfg.model = with_subnet(cfg.model.to_dict(), self.subnet(backbone, seed))
        runner, figures = train(cfg, seed, work_dir, advance, epochs=self.scale.epochs['alone'])
        self.keep_weights(runner, f'alone_{backbone}_seed{seed}')
        metric = 'accuracy/top1'
        return dict(
            kind='alone',
            backbone=backbone,
            **figures,
            held_out=runner.val()[metric],
            test=runner.test()[metric],
        )

    # Detector and segmentor

    def transferred(
        self, work_dir: Path, task: str, subnet: Subnet | None, weights: str | None = None
    ) -> Config:
        """The config of a task with a subnet, or as a supernet, and its backbone's weights."""
        path = work_dir / f'{task}.py'
        if weights is not None:
            weights = str(Path(weights).resolve())
        transfer(str(TASKS[task].config), path, subnet, weights)
        cfg = Config.fromfile(path)
        root = self.roots[task]
        for split in ('train', 'val', 'test'):
            if cfg[f'{split}_dataloader'] is None:  # of a supernet
                continue
            dataset = cfg[f'{split}_dataloader'].dataset
            if root is not None:
                dataset.data_root = root
            evaluator = cfg.get(f'{split}_evaluator', {})
            if 'ann_file' in evaluator:
                evaluator.ann_file = str(Path(dataset.data_root) / dataset.ann_file)
        cfg.custom_hooks = [dict(type='mmpse.ChannelsLastHook'), *cfg.get('custom_hooks', [])]
        cfg.visualizer.pop('name', None)  # a process has one of a name: that of the first unit
        if self.scale.bfloat16:
            cfg.optim_wrapper.type = 'mmpse.BFloat16OptimWrapper'
        return cfg

    def train_task(
        self, work_dir: Path, advance: Advance, seed: int, task: str, backbone: str
    ) -> dict:
        subnet = self.subnet(backbone, seed)
        weights = self.weights_of(f'alone_{backbone}_seed{seed}')
        cfg = self.transferred(work_dir, task, subnet, weights)
        record = self.train_and_test(cfg, subnet, work_dir, advance, seed, task)
        return dict(record, backbone=backbone)

    def train_and_test(
        self, cfg: Config, subnet: Subnet, work_dir: Path, advance: Advance, seed: int, task: str
    ) -> dict:
        costs = self.costs(cfg, subnet)
        runner, figures = train(cfg, seed, work_dir, advance, epochs=self.scale.epochs[task])
        metrics, val, test = TASKS[task].metrics, runner.val(), runner.test()
        return dict(
            kind='task',
            task=task,
            **figures,
            **costs,
            val={name: float(val[name]) for name in metrics},
            test={name: float(test[name]) for name in metrics},
        )

    def costs(self, cfg: Config, subnet: Subnet) -> dict[str, int]:
        """Of the whole model, and FLOPs of its backbone."""
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = cfg.model.to_dict()
            whole = measure(model, subnet, SCENE)
            backbone = find_backbone(MODELS.build(with_subnet(model, None)))
            own = costs_of(backbone.search_space, backbone_costs(backbone, SCENE), subnet)
        return dict(whole, backbone_flops=own['flops'])

    def measure_latency(self, work_dir: Path, advance: Advance, seed: int) -> dict[str, Any]:
        """By tools/benchmarks/latency.py: the backbones of a seed, side by side."""
        subnets = {name: self.subnet(name, seed) for name in (*BACKBONES, PRETRAINED)}
        rows, work_dir = [], work_dir.resolve()
        for number, task in enumerate(TASKS):
            self.transferred(work_dir, task, subnets['full'])
            out, config = work_dir / 'latency.json', work_dir / f'{task}.py'
            files = {k: subnet.save(work_dir / f'{k}.json') for k, subnet in subnets.items()}
            named = [f'{name}={path}' for name, path in files.items()]
            command = ['tools/benchmarks/latency.py', config, '--subnets', *named]
            command += ['--input-shape', *SCENE, '--parts', 'backbone', 'model']
            command += ['--runtimes', 'eager', 'onnxruntime', '--json', out]
            threads = dict(os.environ, OMP_NUM_THREADS=str(torch.get_num_threads()))
            call = [sys.executable, *map(str, command)]
            subprocess.run(call, check=True, cwd=ROOT, env=threads)
            rows += [dict(task=task, **row) for row in read_json(out)]
            advance((number + 1) / len(TASKS))
        return dict(kind='latency', seed=seed, rows=rows)

    # The detector as its own supernet

    def detector_supernet(self, work_dir: Path, seed: int) -> Config:
        """It starts from the backbone's supernet; a fifth of its training images is held out."""
        weights = self.weights_of(f'supernet_seed{seed}')
        cfg = self.transferred(work_dir, 'bccd', None, weights)
        cfg.model.backbone.ratios = self.classifier('search').model.backbone.ratios
        part = dict(type='mmpretrain.KFoldDataset', num_splits=5, fold=0, seed=0)
        images, stock = cfg.train_dataloader.dataset, Config.fromfile(TASKS['bccd'].config)
        *judged, pack = stock.val_dataloader.dataset.pipeline
        # the true boxes come with the images: an annotation file has those of the other parts too
        judged = [step for step in judged if step.type != 'LoadAnnotations']
        judged.append(dict(pack, meta_keys=(*pack.meta_keys, 'instances')))
        cfg.train_dataloader.dataset = dict(part, dataset=images)
        cfg.train_dataloader.update(batch_size=16, drop_last=True)  # 4 images for each subnet
        held_out = dict(part, test_mode=True, dataset=dict(images, pipeline=judged))
        cfg.val_cfg = stock.val_cfg
        cfg.val_dataloader = dict(stock.val_dataloader, dataset=held_out)
        cfg.val_evaluator = dict(stock.val_evaluator, ann_file=None)
        return cfg

    def train_detector_supernet(self, work_dir: Path, advance: Advance, seed: int) -> dict:
        cfg = self.detector_supernet(work_dir, seed)
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        (hook,) = [hook for hook in cfg.custom_hooks if is_type(hook, SupernetHook, HOOKS)]
        hook.execution = 'sliced'
        runner, figures = train(cfg, seed, work_dir, advance, epochs=self.scale.epochs['bccd'])
        self.keep_weights(runner, f'bccd-supernet_seed{seed}')
        return dict(kind='detector-supernet', **figures)

    def search_detector(self, work_dir: Path, advance: Advance, seed: int) -> dict:
        """At the FLOPs of the detector with the backbone that was searched on classification."""
        cfg = self.detector_supernet(work_dir, seed)
        flops = self.costs(cfg, self.subnet('searched', seed))['flops']
        cfg.train_cfg = dict(
            type='mmpse.EvolutionSearchLoop',
            budget=dict(flops=flops),
            input_shape=SCENE,
            metric=TASKS['bccd'].metrics[0],
            **self.scale.search,
        )
        runner, searched = run_search(
            cfg, seed, work_dir, self.weights_of(f'bccd-supernet_seed{seed}')
        )
        figures = dict(judged=runner.train_loop.iter, score=searched.source['score'])
        own = content(searched, searched.resources)
        return dict(kind='detector-search', seed=seed, budget=flops, **figures, subnet=own)

    def fine_tune_own(
        self, work_dir: Path, advance: Advance, seed: int, backbone: str | None = None
    ) -> dict:
        """From the detector's supernet: the subnet found in it, or one of the classifier's."""
        if backbone is None:
            subnet = Subnet.from_dict(self.record(f'bccd-search_seed{seed}')['subnet'])
        else:
            subnet = self.subnet(backbone, seed)
        cfg = self.transferred(work_dir, 'bccd', subnet)
        cfg.load_from = self.weights_of(f'bccd-supernet_seed{seed}')  # cut to the subnet on load
        record = self.train_and_test(cfg, subnet, work_dir, advance, seed, 'bccd')
        return dict(record, backbone='own' if backbone is None else f'own-{backbone}')


def content(subnet: Subnet, resources: dict[str, Any]) -> dict[str, Any]:
    """Of a subnet file, without the names of files that the subnet comes from."""
    return dict(subnet.to_dict(), resources=resources, source={})


def run_search(cfg: Config, seed: int, work_dir: Path, weights: str) -> tuple[Runner, Subnet]:
    """Search, from where a killed search stopped; the runner and the best subnet."""
    set_up(cfg, seed, work_dir)
    cfg.load_from = weights
    resume_latest(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner, Subnet.load(work_dir / 'best_subnet.json')


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    torch.set_num_threads(args.threads)
    experiment = Experiment(args)
    units = frame.chosen(experiment.units(args.seeds), args.only)
    command = 'python tools/evidence/downstream.py --cifar10 DATA --bccd BCCD --camvid CAMVID'
    command += f' --scale {args.scale}'
    run_units(units, command, experiment.folder, experiment.work_dir)


if __name__ == '__main__':
    run_command(main, 'the same command goes on')
