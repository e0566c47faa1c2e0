"""Supernets of a trained model, and what their searches find for three budgets of FLOPs.

python tools/evidence/supernets.py resnet20_cifar10 --kind psenet

A trained model of whole.py, its channels sorted, is trained on as a supernet, for as many epochs as
a pruned model is fine-tuned. The supernet is searched for every budget; a later search knows what
earlier ones judged. The widths are then cut from the trained model and fine-tuned by `mmpse
prune`'s own code, so that the choice of widths is all that differs from its rows in whole.py; with
`--inherit` they are cut from the supernet, and keep its weights. `--kind none` trains no supernet:
each budget is pruned by sensitivity, for as many epochs as make it as long as its share of the
supernet of parallel subnets, the predictor's search and the fine-tuning. The test split is read
once for every pruned model. The record is a JSON file in docs/results/supernets; a killed run goes
on.
"""

from __future__ import annotations

import argparse
import copy
import time
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from frame import circumstances, read_json
from mmengine.registry import DefaultScope
from records import epoch_seconds, points, record_of
from runs import MODELS, Run
from torch import nn
from whole import run_python, test_metrics, trained

from mmpse.command import run_command
from mmpse.files import write_json
from mmpse.openmmlab.checkpoints.loading import load_weights
from mmpse.openmmlab.configs.files import write_config
from mmpse.openmmlab.models.recalibration import recalibrate
from mmpse.openmmlab.pruning.crew import Crew
from mmpse.openmmlab.pruning.job import Pruning
from mmpse.openmmlab.pruning.order import Order
from mmpse.openmmlab.pruning.steps import Steps
from mmpse.openmmlab.pruning.subject import RATIOS
from mmpse.search.archive import read_archive
from mmpse.slim import cut_
from mmpse.space import Budget, Subnet

RECORDS, WORK = Path('docs/results/supernets'), Path('work_dirs/supernets')
BUDGETS = '50%', '25%', '15%'
CALIBRATION = 4  # batches


class Kind(NamedTuple):
    """A way to train a supernet, and the searches of it."""

    hook: dict[str, Any]  # settings of its SupernetHook
    searches: dict[str, dict[str, Any]]  # name -> its settings
    accumulative_counts: int = 1


KINDS = {
    'none': Kind({}, dict(sensitivity={})),
    'psenet': Kind(
        dict(n=4, execution='sliced'),
        dict(
            predictor=dict(type='mmpse.PredictorSearchLoop'),
            evolution=dict(type='mmpse.EvolutionSearchLoop', population=20, generations=8),
        ),
    ),
    'autoslim': Kind(
        dict(
            n=4,
            serial=True,
            distillation=dict(),
            sampler=dict(type='mmpse.UniformSampler'),
            execution='sliced',
        ),
        dict(greedy=dict(type='mmpse.GreedySearchLoop')),
        accumulative_counts=4,
    ),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', choices=list(MODELS))
    parser.add_argument('--kind', choices=list(KINDS), required=True)
    parser.add_argument('--budgets', nargs='+', default=BUDGETS)
    parser.add_argument('--searches', nargs='+', help='of those of the kind; by default all')
    parser.add_argument('--inherit', action='store_true', help='the weights of the supernet')
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


class Chosen(Pruning):
    """The steps of `mmpse prune` with widths that a search of a supernet chose."""

    widths: Subnet | None = None
    supernet: Path | None = None  # whose weights are inherited

    def _choose(self, budget: Budget) -> Subnet:
        if self.widths is None:
            return super()._choose(budget)
        return self.subject.subnet(list(self.widths.values()), how='supernet')

    def reconstructed(self, subnet: Subnet) -> nn.Module:
        if self.supernet is None:
            return super().reconstructed(subnet)
        model = copy.deepcopy(self.subject.model)
        load_weights(model, self.supernet)
        model = cut_(model, self.subject.layout, subnet)
        recalibrate(model, self.images.batches)
        return model


class Experiment:
    """One supernet of one model."""

    def __init__(self, name: str, kind: str, seed: int) -> None:
        self.name, self.kind, self.seed = name, KINDS[kind], seed
        self.model, self.checkpoint = MODELS[name], trained(name)
        self.folder = WORK / f'{name}_{kind}_{seed}'

    def pruning(self, out: Path, crew: Crew, **order: Any) -> Chosen:
        """A pruning with the trained model, in a folder of its own."""
        settings = dict(how='uniform', epochs=self.model.epochs, seed=self.seed) | order
        steps = Steps(out, resume=True)
        return Chosen(self.model.config, self.checkpoint, Order(**settings), steps, crew)

    def train(self, crew: Crew) -> dict[str, float]:
        """Train the supernet; its seconds."""
        pruning = self.pruning(self.folder / 'sorted', crew, limits=dict(flops='50%'))
        with DefaultScope.overwrite_default_scope(pruning.subject.scope):
            pruning.assess()
            pruning.sort()
        hook = dict(type='mmpse.SupernetHook', ratios=list(RATIOS), divisor=8, **self.kind.hook)
        start = str(pruning.sorted_weights.resolve())
        changes = pruning.schedule().run(pruning.cfg, start, self.seed, [hook])
        wrapper = dict(changes['optim_wrapper'], accumulative_counts=self.kind.accumulative_counts)
        loader = dict(changes.get('train_dataloader', {}), drop_last=True)  # n divides every batch
        none = {
            f'{x}_{y}': None for x in ('val', 'test') for y in ('cfg', 'dataloader', 'evaluator')
        }
        config = self.folder / 'supernet.py'
        write_config(
            config,
            self.model.config,
            dict(changes, optim_wrapper=wrapper, train_dataloader=loader, **none),
            'A supernet.',
        )
        seconds = run_python(
            'tools/train.py', config, '--work-dir', config.with_suffix(''), '--resume'
        )
        return dict(zip(('seconds', 'cpu_seconds'), seconds))

    @property
    def supernet(self) -> Path:
        folder = self.folder / 'supernet'
        return Path((folder / 'last_checkpoint').read_text().strip())

    def search(self, search: str, budget: str) -> tuple[Subnet, dict[str, Any]]:
        """The widths that a search finds, and what it took."""
        archive = self.folder / f'{search}.db'
        before = len(read_archive(archive)) if archive.exists() else 0
        loop = dict(
            self.kind.searches[search],
            _delete_=True,
            budget=dict(flops=budget),
            metric=self.model.metric,
            calibration=CALIBRATION,
            archive=str(archive.resolve()),
        )
        out = self.folder / f'{search}_{budget.rstrip("%")}'
        changes = dict(
            train_cfg=loop,
            load_from=str(self.supernet),
            randomness=dict(seed=self.seed),
            custom_hooks=[],
        )
        config = out.with_suffix('.py')
        write_config(config, self.model.config, changes, 'A search.')
        _, seconds = run_python('tools/train.py', config, '--work-dir', out, '--resume')
        judged = len(read_archive(archive)) - before
        subnet = Subnet.load(out / 'best_subnet.json')
        return subnet, dict(judged=judged, search_seconds=seconds)

    def epochs_without(self, budget: str) -> int:
        """Epochs that take as long as a share of a supernet, its search and the fine-tuning."""
        record = read_json(RECORDS / f'{self.name}_psenet_{self.seed}.json')
        budgets = {row['budget'] for row in record['rows']}
        wanted = dict(budget=budget, search='predictor', inherit=True)
        (row,) = (row for row in record['rows'] if wanted.items() <= row.items())
        seconds = record['training']['cpu_seconds'] / len(budgets)
        seconds += row['search_seconds'] + row['cpu_seconds']
        own = record_of(Run(self.name, budget, 'sensitivity', 0))
        return self.model.epochs + round((seconds - own['cpu_seconds']) / epoch_seconds(own))

    def prune(
        self, budget: str, folder: str, crew: Crew, subnet: Subnet | None, inherit: bool
    ) -> dict[str, Any]:
        """The figures of the pruned model with these widths; ``None``: by sensitivity, longer."""
        out = self.folder / folder
        begun, order = time.process_time(), {}
        if subnet is None:
            order = dict(how='sensitivity', epochs=self.epochs_without(budget))
        pruning = self.pruning(out, crew, limits=dict(flops=budget), **order)
        pruning.widths, pruning.supernet = subnet, self.supernet if inherit else None
        with DefaultScope.overwrite_default_scope(pruning.subject.scope):
            _, subnet, _ = pruning.run()
        seconds, report = time.process_time() - begun, read_json(out / 'report.json')
        tested = test_metrics(out / 'pruned.py', out / 'pruned.pth', out / 'test')
        metric = self.model.metric
        return dict(
            flops=report['after']['flops'] / report['before']['flops'],
            cut=report['cut'][metric],
            val=report['after'][metric],
            test=tested[metric],
            epochs=pruning.order.epochs,
            cpu_seconds=seconds,
            widths=list(subnet.values()),
        )


def main() -> None:
    args = parse_args()
    experiment = Experiment(args.model, args.kind, args.seed)
    path = RECORDS / f'{experiment.folder.name}.json'
    again = f'python tools/evidence/supernets.py {args.model} --kind {args.kind} --seed {args.seed}'
    about = dict(name=args.model, kind=args.kind, seed=args.seed, metric=experiment.model.metric)
    # rows of one record, not units of `frame.run_units`: they share the supernet, and each search
    # goes on in the archive of the one before; a unit's folder goes away with its record
    record = read_json(path) if path.exists() else dict(about, rows=[], command=again)
    crew = Crew('none')
    with crew:
        if 'training' not in record:
            record['training'] = dict(cpu_seconds=0)
            if experiment.kind.hook:
                record['training'] = experiment.train(crew)
            write_json(path, record)
        for budget, search in product(args.budgets, args.searches or experiment.kind.searches):
            key = dict(budget=budget, search=search, inherit=args.inherit)
            if any(key.items() <= row.items() for row in record['rows']):
                continue
            subnet, found = None, dict(judged=0, search_seconds=0)
            if experiment.kind.hook:
                subnet, found = experiment.search(search, budget)
            for row in record['rows']:  # what is searched twice was known the second time
                if (row['budget'], row['search']) == (budget, search):
                    found = {name: row[name] for name in found}
            out = f'{search}_{budget.rstrip("%")}_pruned' + ('_inherit' if args.inherit else '')
            figures = experiment.prune(budget, out, crew, subnet, args.inherit)
            made = f'{again} --budgets {budget} --searches {search}'
            made += ' --inherit' if args.inherit else ''
            record['rows'].append({**key, **found, **figures, 'command': made})
            spent = sum(row['cpu_seconds'] for row in [record['training'], *record['rows']])
            record.update(circumstances(spent, spent))
            write_json(path, record)
            (score,) = points([figures], 'test')
            print(f'{budget}, {search}: {score:.1f} on the test split')


if __name__ == '__main__':
    run_command(main)
