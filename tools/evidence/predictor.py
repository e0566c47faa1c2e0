"""Does the predictor of `mmpse prune --how search` rank subnets, better than their FLOPs do?

python tools/evidence/predictor.py retinanet-r18_bccd --flops 50% --epochs 8

A trained model of whole.py becomes the supernet of a search, by the search's own code: it trains
around the budget for the first quarter of a schedule, and a predictor is fitted to the losses of
its subnets. Then 24 random subnets, spread over a tenth to all of the FLOPs, are judged in the
supernet with its shared weights: each is recalibrated, and its metric is that on training images
which were held out. The record is a JSON file in docs/results/predictor.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from frame import circumstances
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from scipy.stats import kendalltau
from whole import MODELS, trained

from mmpse.command import run_command
from mmpse.files import write_json
from mmpse.openmmlab.checkpoints.loading import load_weights
from mmpse.openmmlab.pruning.crew import Crew
from mmpse.openmmlab.pruning.job import Pruning
from mmpse.openmmlab.pruning.order import Order
from mmpse.openmmlab.pruning.steps import Steps
from mmpse.openmmlab.search.judge import Judge
from mmpse.openmmlab.supernet.record import recorded_losses
from mmpse.search import predictor_of
from mmpse.space import Budget, SpreadSampler, Subnet

RECORDS, WORK = Path('docs/results/predictor'), Path('work_dirs/predictor')
SUBNETS, LOWEST = 24, 0.1  # share of the FLOPs


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', choices=list(MODELS))
    parser.add_argument('--flops', default='50%', help='budget that the supernet trains around')
    parser.add_argument('--epochs', type=int, required=True, help='of the schedule')
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


def spread_widths(pruning: Pruning, seed: int) -> np.ndarray:
    """Random subnets ``(subnets, units)``, one in each equal part of the range of FLOPs."""
    space, flops = pruning.subject.space, pruning.subject.costs['flops']
    tiny, full = flops(space.array([space.tinynet, space.fullnet]))
    edges = np.linspace(LOWEST * full, full, SUBNETS + 1)
    shares = np.clip((edges - tiny) / (full - tiny), 0, 1)
    rng = np.random.default_rng(seed)
    rows = [
        SpreadSampler(space, flops, low, high, levels=1).sample(rng, 1)[0]
        for low, high in zip(shares, shares[1:])
    ]
    return np.array(rows)


def judge_of(pruning: Pruning, metric: str) -> Judge:
    """What judges subnets on the images held out."""
    split, subject = pruning.images.split, pruning.subject
    data = Runner.build_dataloader(split.held_out)
    evaluator = Runner.build_evaluator(None, split.evaluator)
    evaluator.dataset_meta = data.dataset.metainfo
    return Judge(subject.model, subject.layout, pruning.images.batches, data, evaluator, metric)


def measure(pruning: Pruning, metric: str) -> dict:
    """The figures of a record."""
    pruning.look()
    pruning.sort()
    start = time.process_time()
    pruning.train_supernet()
    trained_in = time.process_time() - start
    subject, limits = pruning.subject, pruning.order.limits
    load_weights(subject.model, pruning.supernet)
    content = torch.load(pruning.supernet, map_location='cpu', weights_only=False)
    record = recorded_losses(content)
    budget = Budget(subject.space, subject.costs, limits)
    reference = subject.space.array([Subnet.load(pruning.steps.read('start'))])[0]
    predictor = predictor_of(subject.space, budget, reference, *record)
    widths, judge = spread_widths(pruning, pruning.order.seed), judge_of(pruning, metric)
    start = time.process_time()
    verdicts = [judge(subject.space.subnet(row)) for row in widths]
    seconds = (time.process_time() - start) / len(widths)
    return dict(
        losses_recorded=len(record[0]),
        images=pruning.images.split.images,
        widths=widths.tolist(),
        flops=subject.costs['flops'](widths).tolist(),
        predicted=predictor.predict(widths).tolist(),
        scores=[max(verdict.score, 0.0) for verdict in verdicts],  # -inf: nothing was found
        losses=[verdict.loss for verdict in verdicts],
        supernet_seconds=round(trained_in, 1),
        seconds_of_a_candidate=round(seconds, 2),
    )


def main() -> None:
    args = parse_args()
    model = MODELS[args.model]
    name = f'{args.model}_{args.flops.rstrip("%")}_{args.epochs}_{args.seed}'
    path = RECORDS / f'{name}.json'
    order = Order(dict(flops=args.flops), how='search', epochs=args.epochs, seed=args.seed)
    wall, cpu = time.monotonic(), time.process_time()
    crew = Crew('none')
    with crew:
        steps = Steps(WORK / name, resume=True)
        pruning = Pruning(model.config, trained(args.model), order, steps, crew)
        with DefaultScope.overwrite_default_scope(pruning.subject.scope):
            figures = measure(pruning, model.metric)
    about = dict(name=args.model, budget=args.flops, epochs=args.epochs, seed=args.seed)
    command = f'python tools/evidence/predictor.py {args.model} --flops {args.flops}'
    command += f' --epochs {args.epochs} --seed {args.seed}'
    took = time.monotonic() - wall, time.process_time() - cpu
    write_json(path, dict(about, **figures, command=command, **circumstances(*took)))
    tau = kendalltau(figures['predicted'], [-score for score in figures['scores']]).statistic
    flops = kendalltau(figures['flops'], figures['scores']).statistic
    print(f"Kendall's tau of the predictor {tau:.2f}, of the FLOPs alone {flops:.2f}")


if __name__ == '__main__':
    run_command(main)
