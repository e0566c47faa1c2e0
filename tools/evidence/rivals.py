"""Rivals of `mmpse prune` on a whole model: the same in all but the choice of channels.

python tools/evidence/rivals.py CONFIG CHECKPOINT --flops 10% --importance norm -o OUT

Torch-Pruning takes groups of channels away by their norm, or by their first-order Taylor term on
training images, over all layers at once, until the FLOPs are within the budget. Channels stay
multiples of eight, no layer loses more than `--most` of them, and layers that put out predictions
are kept. `--importance fastnas` is FastNAS of NVIDIA's ModelOpt: it measures how much the loss on
training images rises where one layer is cut, with recalibrated BatchNorms, and lets no layer's cut
raise it by more than another's. Its widths are eighths, in multiples of eight, as ours. It needs
`pip install nvidia-modelopt torchprofile==0.0.4`. `--importance none` prunes nothing: the full
model is trained as much longer.

Evaluation, recalibration, recipe and report are those of `mmpse prune`, by its own code.
OUT holds the same files, so that tools/test.py takes `pruned.py` and `pruned.pth` where this folder
is on the PYTHONPATH.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import DefaultScope
from mmpretrain.models import BaseClassifier
from torch import nn

from mmpse.files import write_json
from mmpse.openmmlab import compat
from mmpse.openmmlab.checkpoints.files import save_checkpoint
from mmpse.openmmlab.checkpoints.loading import load_weights
from mmpse.openmmlab.configs.files import write_config
from mmpse.openmmlab.models.losses import batch_losses, preprocessed
from mmpse.openmmlab.models.outputs import deployed_outputs, raw_outputs
from mmpse.openmmlab.models.recalibration import recalibrate
from mmpse.openmmlab.pruning.crew import Crew
from mmpse.openmmlab.pruning.job import Pruning
from mmpse.openmmlab.pruning.measure import measure
from mmpse.openmmlab.pruning.order import Order
from mmpse.openmmlab.pruning.steps import Steps
from mmpse.openmmlab.pruning.subject import dataset_meta
from mmpse.registry import MODELS
from mmpse.resources.cost import layer_costs

STEPS = 400  # as Torch-Pruning's own benchmarks
TAYLOR_BATCHES = 8


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--flops', required=True, help='budget, e.g. 10%%')
    parser.add_argument(
        '--importance', choices=['norm', 'taylor', 'fastnas', 'none'], required=True
    )
    parser.add_argument('--most', type=float, default=0.875, help='max_pruning_ratio')
    parser.add_argument('--teacher', action='store_true')
    parser.add_argument('--epochs', type=int)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('-o', '--out', type=Path, required=True)
    parser.add_argument('--resume', action='store_true')
    return parser.parse_args()


@MODELS.register_module(force=True)  # the config imports this file again
def Whole(path: str, data_preprocessor=None) -> nn.Module:  # noqa: N802 (a name in configs)
    """The model that :class:`Rival` left in a file; it holds its own data preprocessor."""
    return torch.load(path, map_location='cpu', weights_only=False)


class Rival(Pruning):
    """The steps of `mmpse prune` around Torch-Pruning's choice of channels."""

    importance: str
    most: float

    def check(self) -> None:
        """Any budget will do: that of the full model, too."""

    def run(self) -> None:
        self.evaluate('before', self.subject.model)
        if not self.sorted_weights.exists():
            save_checkpoint(self.sorted_weights, self.subject.model, dataset_meta(self.subject))
        model = self.prune()
        self.tune(model)
        self.compare(model)

    def prune(self) -> nn.Module:
        """Write the pruned model's config; the pruned and recalibrated model."""
        subject, folder = self.subject, self.steps.folder
        whole, cut = folder / 'pruned_model.pth', folder / 'cut.pth'
        if not cut.exists():
            model = copy.deepcopy(subject.model)
            if self.importance == 'fastnas':
                model = fastnas(self, model)
            elif self.importance != 'none':
                share = float(self.order.limits['flops'].rstrip('%')) / 100
                prune(self, model, share * self.flops(model))
            if self.importance != 'none':
                recalibrate(model, self.images.batches)
            torch.save(model, whole)
            save_checkpoint(cut, model, dataset_meta(subject))
        self.pruned = write_config(
            self.steps.out / 'pruned.py',
            self.config,
            dict(
                model=dict(_delete_=True, type='mmpse.Whole', path=str(whole.resolve())),
                custom_imports=dict(imports=['rivals'], allow_failed_imports=False),
                load_from=None,
            ),
            f'{type(subject.model).__name__}, a rival of what mmpse prunes.',
        )
        model = torch.load(whole, weights_only=False)
        load_weights(model, cut)
        self.evaluate('cut', model)
        return model

    def flops(self, model: nn.Module) -> int:
        """FLOPs of a model as it is, counted as everywhere."""
        images = torch.zeros(1, *self.subject.input_shape)
        costs = layer_costs(model, images, lambda x: deployed_outputs(model, x))
        return sum(costs['flops'].values())

    def compare(self, model: nn.Module) -> None:
        """Write the pruned model, its widths, and what came of it, as `mmpse prune` does."""
        subject, out = self.subject, self.steps.out
        self.evaluate('after', model)
        save_checkpoint(out / 'pruned.pth', model, dataset_meta(subject))
        models = dict(before=subject.model, after=model)
        measured = self.steps.once('measured', lambda: measure(subject, models, self.log))
        for stage, metrics in self.table.items():
            name = 'before' if stage == 'before' else 'after'
            flops, params = self.flops(models[name]), models[name].parameters()
            cost = dict(flops=flops, params=sum(p.numel() for p in params))
            self.table[stage] = {**metrics, **cost, **measured[name]}
        units = subject.layout.units
        widths = {n: model.get_submodule(u.writers[0]).out_channels for n, u in units.items()}
        full = {name: unit.width for name, unit in units.items()}
        write_json(out / 'subnet.json', dict(backbone=dict(units=full), widths=widths))
        write_json(out / 'report.json', dict(self.table, busy=measured['busy']))


def prune(rival: Rival, model: nn.Module, limit: float) -> None:
    """Prune a model by Torch-Pruning until its FLOPs are within the limit.

    Raises:
        RuntimeError: If they cannot be.
    """
    import torch_pruning

    kept = [model.get_submodule(name) for name in rival.subject.layout.fixed]
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    if rival.importance == 'taylor':
        importance = torch_pruning.importance.GroupTaylorImportance()
        take_gradients(rival, model)
    pruner = torch_pruning.pruner.BasePruner(
        model,
        rival.subject.images,
        importance=importance,
        global_pruning=True,
        pruning_ratio=1.0,
        max_pruning_ratio=rival.most,
        iterative_steps=STEPS,
        round_to=rival.order.divisor,
        ignored_layers=kept,
        forward_fn=raw_outputs,
    )
    for _ in range(STEPS):
        for group in pruner.step(interactive=True):
            group.prune()
            if rival.flops(model) <= limit:
                model.zero_grad()
                return
    raise RuntimeError(f'Torch-Pruning stops at {rival.flops(model):,} FLOPs, above {limit:,.0f}')


def fastnas(rival: Rival, model: nn.Module) -> nn.Module:
    """Prune a model by FastNAS to the budget of FLOPs; a model of plain layers."""
    import modelopt.torch.prune as mtp
    from modelopt.torch.prune.fastnas import FastNASConfig

    ratios, divisor = tuple(k / 8 for k in range(1, 9)), rival.order.divisor
    rules = {}
    for layer in FastNASConfig().model_dump():
        kind = 'channel' if 'Conv' in layer or 'GroupNorm' in layer else 'feature'
        rules[layer] = {f'{kind}s_ratio': ratios, f'{kind}_divisor': divisor}
        if 'Conv' in layer:
            rules[layer]['kernel_size'] = ()
    images = rival.images
    found, _ = mtp.prune(
        Forward(model),
        mode=[('fastnas', rules)],
        constraints=dict(flops=rival.order.limits['flops']),
        dummy_input=rival.subject.images,
        config=dict(
            score_func=lambda whole: -float(batch_losses(whole.model, images.judging).mean()),
            data_loader=[batch['inputs'] for batch in images.fit],  # that BatchNorms are set by
            max_iter_data_loader=len(images.fit),
            collect_func=lambda batch: (batch,),
        ),
    )
    return found.model


class Forward(nn.Module):
    """A model of OpenMMLab as one of images alone, with its raw outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> Any:
        if isinstance(self.model, BaseClassifier):
            return self.model.head(self.model.extract_feat(images))
        return self.model._forward(images)


def take_gradients(rival: Rival, model: nn.Module) -> None:
    """Leave the gradients of the training loss in a model in eval mode."""
    for batch in preprocessed(model, rival.images.batches[:TAYLOR_BATCHES]):
        loss, _ = model.parse_losses(compat.forward_by_mode(model, batch, mode='loss'))
        loss.backward()


def main() -> None:
    args = parse_args()
    limits = dict(flops=args.flops)
    order = Order(
        limits, how='uniform', epochs=args.epochs, teacher=args.teacher, sort='l1', seed=args.seed
    )
    crew = Crew('none')
    with crew:
        rival = Rival(args.config, args.checkpoint, order, Steps(args.out, args.resume), crew)
        rival.importance, rival.most = args.importance, args.most
        with DefaultScope.overwrite_default_scope(rival.subject.scope):
            rival.run()


if __name__ == '__main__':
    main()
