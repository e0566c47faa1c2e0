"""What the parts of `mmpse prune` bring: the command with one of them left out or set otherwise.

python tools/evidence/parts.py CONFIG CHECKPOINT --flops 10% --without reconstruction -o OUT

The widths are uniform, or chosen by `--how`. Without `sorting` the channels keep the order in which
they were trained; without `reconstruction` the cut model's BatchNorms are recalibrated, and nothing
else is fitted; without `weights` the small model starts from random ones. `--floor` is the least
share of its channels that a unit keeps, in the place of an eighth. All else is `mmpse prune`, by
its own code, and OUT holds the same files.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

from mmengine.registry import DefaultScope
from torch import nn

from mmpse.openmmlab.checkpoints.files import save_checkpoint
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.models.recalibration import recalibrate
from mmpse.openmmlab.pruning.crew import Crew
from mmpse.openmmlab.pruning.job import Pruning
from mmpse.openmmlab.pruning.order import Order
from mmpse.openmmlab.pruning.steps import Steps
from mmpse.openmmlab.pruning.subject import RATIOS, dataset_meta
from mmpse.openmmlab.seeding import drawn_aside
from mmpse.slim import cut_
from mmpse.space import Subnet

PARTS = 'sorting', 'reconstruction', 'weights'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--flops', required=True, help='budget, e.g. 10%%')
    parser.add_argument('--without', nargs='+', choices=PARTS, default=[])
    parser.add_argument('--sort', default='selection', help='importance of channels')
    parser.add_argument('--how', default='uniform')
    parser.add_argument('--floor', type=float, default=min(RATIOS))
    parser.add_argument('--epochs', type=int)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('-o', '--out', type=Path, required=True)
    parser.add_argument('--resume', action='store_true')
    return parser.parse_args()


class Partial(Pruning):
    """The steps of `mmpse prune`, but for those that are left out."""

    without: tuple[str, ...]

    def sort(self) -> None:
        if 'sorting' not in self.without:
            super().sort()
        elif not self.sorted_weights.exists():
            save_checkpoint(self.sorted_weights, self.subject.model, dataset_meta(self.subject))

    def reconstructed(self, subnet: Subnet) -> nn.Module:
        if 'weights' in self.without:
            with drawn_aside(self.order.seed):
                return build_model(load_config(self.pruned))
        if 'reconstruction' not in self.without:
            return super().reconstructed(subnet)
        model = cut_(copy.deepcopy(self.subject.model), self.subject.layout, subnet)
        recalibrate(model, self.images.batches)
        return model


def main() -> None:
    args = parse_args()
    limits = dict(flops=args.flops)
    ratios = [args.floor, *(ratio for ratio in RATIOS if ratio > args.floor)]
    order = Order(
        limits,
        how=args.how,
        epochs=args.epochs,
        sort=args.sort,
        seed=args.seed,
        grids={'*': dict(ratios=ratios)},
    )
    crew = Crew('none')
    with crew:
        pruning = Partial(args.config, args.checkpoint, order, Steps(args.out, args.resume), crew)
        pruning.without = tuple(args.without)
        with DefaultScope.overwrite_default_scope(pruning.subject.scope):
            pruning.run()


if __name__ == '__main__':
    main()
