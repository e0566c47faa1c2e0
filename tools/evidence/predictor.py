"""Does the predictor of `mmpse prune --how search` rank subnets, better than their FLOPs do?

python tools/evidence/predictor.py retinanet-r18_bccd --flops 50%

The search explores subnets of a trained model of whole.py around the budget, by its own code, and a
predictor is fitted to their losses. Then 24 other subnets around the budget are cut, reconstructed
and validated; with `--finetune` they are also fine-tuned as `mmpse prune` does, and validated
again. The record is a JSON file in docs/results/predictor; a killed run goes on with the subnets
that are not done.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from frame import circumstances
from mmengine.registry import DefaultScope
from rich.progress import track
from runs import MODELS
from scipy.stats import kendalltau
from whole import trained

from mmpse.command import run_command
from mmpse.files import write_json
from mmpse.openmmlab.models.losses import batch_losses
from mmpse.openmmlab.pruning.choosing import explore
from mmpse.openmmlab.pruning.crew import Crew
from mmpse.openmmlab.pruning.job import Pruning
from mmpse.openmmlab.pruning.order import Order
from mmpse.openmmlab.pruning.steps import Steps
from mmpse.search import Predictor, around
from mmpse.space import Budget, Subnet

RECORDS, WORK = Path('docs/results/predictor'), Path('work_dirs/predictor')
SUBNETS = 24


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', choices=list(MODELS))
    parser.add_argument('--flops', default='50%', help='budget that is searched around')
    parser.add_argument('--finetune', action='store_true', help='the other subnets, too')
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


def measure(pruning: Pruning, metric: str) -> dict:
    """The figures of a record."""
    pruning.assess()
    pruning.sort()
    subject, images, order = pruning.subject, pruning.images, pruning.order
    space, budget = subject.space, Budget(subject.space, subject.costs, order.limits)
    start = list(Subnet.load(pruning._by_sensitivity(budget).to_dict()).values())
    before = time.process_time()
    explored = explore(
        subject, pruning.reconstruction, budget, start, images.fit, order.seed, track
    )
    seconds = (time.process_time() - before) / len(explored)
    widths, losses = (np.array([row[key] for row in explored]) for key in ('widths', 'loss'))
    predictor = Predictor(space, budget.cost, np.array(start), widths, losses)
    others = around(space, budget, start, SUBNETS, np.random.default_rng(order.seed + 1000))
    found = dict(losses=[], scores=[], finetuned=[])
    out = pruning.steps.out
    for k, row in enumerate(track(others, 'validating')):
        pruning.steps = Steps(out / f'subnet_{k:02}', resume=True)
        pruning.steps.folder.mkdir(parents=True, exist_ok=True)
        subnet = subject.subnet(row, how='around')
        subnet.save(pruning.steps.out / 'subnet.json')
        model = pruning.cut(subnet)
        found['losses'].append(float(batch_losses(model, images.judging).mean()))
        found['scores'].append(pruning.table['cut'].get(metric, 0.0))
        if order.finetune:
            pruning.tune(model)
            pruning.evaluate('after', model)
            found['finetuned'].append(pruning.table['after'].get(metric, 0.0))
    return dict(
        explored=len(explored),
        widths=others.tolist(),
        flops=subject.costs['flops'](others).tolist(),
        predicted=predictor.predict(others).tolist(),
        **found,
        seconds_of_a_candidate=round(seconds, 2),
    )


def main() -> None:
    args = parse_args()
    model = MODELS[args.model]
    name = f'{args.model}_{args.flops.rstrip("%")}_{args.seed}'
    budget, how = dict(flops=args.flops), dict(how='search', finetune=args.finetune)
    order = Order(budget, **how, epochs=model.epochs, seed=args.seed)
    wall, cpu = time.monotonic(), time.process_time()
    crew = Crew('none')
    with crew:
        steps = Steps(WORK / name, resume=True)
        pruning = Pruning(model.config, trained(args.model), order, steps, crew)
        with DefaultScope.overwrite_default_scope(pruning.subject.scope):
            figures = measure(pruning, model.metric)
    about = dict(name=args.model, budget=args.flops, seed=args.seed)
    command = f'python tools/evidence/predictor.py {args.model} --flops {args.flops}'
    command += ' --finetune' if args.finetune else ''
    took = time.monotonic() - wall, time.process_time() - cpu
    record = dict(about, **figures, command=f'{command} --seed {args.seed}', **circumstances(*took))
    write_json(RECORDS / f'{name}.json', record)
    for truth in ('scores', 'finetuned') if args.finetune else ('scores',):
        tau = kendalltau(figures['predicted'], [-score for score in figures[truth]]).statistic
        flops = kendalltau(figures['flops'], figures[truth]).statistic
        print(f"{truth}: Kendall's tau of the predictor {tau:.2f}, of the FLOPs alone {flops:.2f}")


if __name__ == '__main__':
    run_command(main)
