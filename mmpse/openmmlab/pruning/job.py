"""Pruning a trained model, step by step; each is done once in the folder of the pruning."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import nn

from mmpse.files import write_json
from mmpse.openmmlab.checkpoints.files import read_checkpoint, save_checkpoint
from mmpse.openmmlab.checkpoints.loading import load_weights
from mmpse.openmmlab.configs.datasets import batch_size_of
from mmpse.openmmlab.configs.files import load_config, write_config
from mmpse.openmmlab.configs.pruned import pruned_changes
from mmpse.openmmlab.deploy.latency import error_sentence, latency_cost
from mmpse.openmmlab.errors import listed
from mmpse.openmmlab.models.losses import batch_losses, images_in
from mmpse.openmmlab.models.outputs import raw_outputs
from mmpse.openmmlab.models.recalibration import recalibrate
from mmpse.openmmlab.models.sorting import sort_by
from mmpse.openmmlab.progress import progress
from mmpse.openmmlab.teaching.hook import teacher_of
from mmpse.slim import Reconstruction, check_cut, cut_
from mmpse.space import Budget, Subnet, uniform_within

from .choosing import (
    by_search,
    by_sensitivity,
    explore,
    finite,
    judge,
    measure_sensitivity,
    verdict,
    winner,
)
from .crew import Crew
from .images import TrainingImages, first_images, together
from .latency import AGAIN, add_latency, latency_notes, within_latency
from .measure import measure
from .order import Order
from .reach import NAMES, in_words, reachable
from .recipe import Recipe, finetune
from .report import summary, write_report
from .steps import LOG, Steps
from .subject import check_training_set, dataset_meta, is_hopeless, metrics_of, validates
from .trainable import check_losses_in_training, check_trainable
from .unseen import check_losses


class Pruning:
    """One pruning; :meth:`run` does its steps in order."""

    def __init__(
        self,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike,
        order: Order,
        steps: Steps,
        crew: Crew,
    ) -> None:
        self.config = config
        self.cfg = load_config(config)
        self.order = order
        self.steps = steps
        self.crew = crew
        settings = order.settings(self.cfg, checkpoint)
        steps.check(settings)
        # what is wrong with the fine-tuning is told now, not after hours
        recipe = finetune(self.cfg, order.epochs) if order.finetune else None
        self.subject = order.examine(self.cfg, checkpoint)
        if recipe is not None:
            check_trainable(self.cfg, recipe, self.subject.model)
        self.images = TrainingImages(self.subject, order.seed)
        self.check()
        steps.claim(settings)  # from here on there is a folder
        # of one name there is one logger, which would go on writing into an earlier call's folder
        self.log = MMLogger.get_instance(
            str(steps.out.resolve()), log_file=str(steps.out / LOG), file_mode='a'
        )
        self.log.info(f'weights: {self.subject.weights}')
        self.table: dict[str, dict[str, float | None]] = {}

    def check(self) -> None:
        """Raise a BudgetError if the budget cannot be met."""
        limits = {name: limit for name, limit in self.order.limits.items() if name != 'latency'}
        self.reach = reachable(self.subject, limits)

    def run(self) -> tuple[nn.Module, Subnet, dict[str, dict[str, float | None]]]:
        """The pruned model, its widths, and the table of what came of it."""
        self.assess()
        self.sort()
        subnet = self.choose()
        model = self.cut(subnet)
        if self.order.finetune:
            self.tune(model)
        self.report(model, subnet)
        return model, subnet, self.table

    def assess(self) -> None:
        """Say what is reachable, and how good the model is."""
        subject, order = self.subject, self.order
        if 'latency' in order.limits:
            found = self.latency
            subject.costs['latency'] = latency_cost(subject.space, found)
            self.log.info(
                f'latency of the full model in {order.runtime}, {torch.get_num_threads()} threads: '
                f'{found["measured"][0][1] / 1000:.2f} ms; predicted with a mean error of '
                f'{found["error"]:.1%}'
            )
            if sentence := error_sentence(found['error'], AGAIN):
                self.log.warning(sentence)
            self.reach = reachable(subject, order.limits)
        self.log.info(f'{len(subject.space)} units\n{self.reach}')
        if not validates(self.cfg):
            self.log.warning(
                'the config has no val_dataloader and val_evaluator: no metric can be shown'
            )
        if order.finetune:  # a training set that cannot be used is told before hours of choosing
            self.schedule()
        self.evaluate('before', subject.model)
        if validates(self.cfg) and (metric := is_hopeless(self.table['before'], subject.model)):
            self.log.warning(
                f'before pruning, the validation gives {metric}: that is no better than guessing. '
                'The config, or the classes and their order in it, may not fit the checkpoint'
            )

    @property
    def latency(self) -> dict[str, Any]:
        """How latency was measured and fitted."""
        return self.steps.once('latency', lambda: add_latency(self.subject, self.order.runtime))

    def schedule(self) -> Recipe:
        """The recipe of the fine-tuning."""
        total, size = self.images.total, batch_size_of(self.cfg.train_dataloader)
        if total < size:
            check_training_set(self.cfg)
        steps = -(-total // (size * self.crew.processes))
        return finetune(self.cfg, self.order.epochs, steps_per_epoch=steps)

    @property
    def sorted_weights(self) -> Path:
        """The sorted model: its channels are in the order of the pruned model's."""
        return self.steps.folder / 'sorted.pth'

    def evaluate(self, stage: str, model: nn.Module) -> None:
        """Note the metrics of the validation split."""
        model.eval()
        found = self.steps.once(stage, lambda: metrics_of(self.subject, model))
        # of a model that detects nothing there are no metrics; -1 is COCO's for no such objects
        before = self.table.get('before', {})
        none = {k: v and min(v, 0.0) for k, v in before.items() if k not in found}
        if none:
            names = listed(key for key, value in none.items() if value == 0)
            self.log.warning(f'{stage}: nothing is detected: {names} are taken as 0')
        self.table[stage] = {**none, **found}

    def sort(self) -> None:
        """Sort the channels of every unit, by what they do on training images."""
        subject = self.subject
        if self.sorted_weights.exists():  # rounding could order them otherwise
            load_weights(subject.model, self.sorted_weights)
            return
        check_losses(subject, first_images(1, self.images.judging)[0])
        if self.order.finetune:
            check_losses_in_training(subject.model, self.images.batches[0])
        sort_by(subject.model, subject.layout, self.order.sort, self.images.fit)
        save_checkpoint(self.sorted_weights, subject.model, dataset_meta(subject))

    def choose(self) -> Subnet:
        """Choose the widths; under a latency budget, again until it is met as measured."""
        order = self.order
        chosen = self.steps.once(
            'choice',
            lambda: within_latency(
                self.subject, order.limits, order.runtime, self._choose, self.log
            ).to_dict(),
        )
        subnet = Subnet.load(chosen)
        subnet.save(self.steps.out / 'subnet.json')
        self.log.info(f'{order.how}: {in_words(subnet.resources)}')
        return subnet

    def _choose(self, budget: Budget) -> Subnet:
        subject, how = self.subject, self.order.how
        if how == 'uniform':
            return subject.subnet(uniform_within(subject.space, budget), how=how)
        return self._by_search(budget) if how == 'search' else self._by_sensitivity(budget)

    @cached_property
    def reconstruction(self) -> Reconstruction:
        """Fits cut models to the sorted one."""
        subject = self.subject
        images = together([batch['inputs'] for batch in self.images.fit])
        return Reconstruction(subject.model, subject.layout, images, raw_outputs)

    def _candidates(self, budget: Budget) -> list[tuple[str, Sequence[int]]]:
        """Uniform pruning, and the best few by sensitivity."""
        subject = self.subject
        sensitivity = self.steps.once(
            'sensitivity',
            lambda: measure_sensitivity(
                self.reconstruction, subject.space, self.images.few, progress('sensitivity')
            ),
        )
        sensitivity = {u: {int(w): v for w, v in row.items()} for u, row in sensitivity.items()}
        rows = by_sensitivity(subject, budget, sensitivity)
        uniform = uniform_within(subject.space, budget)
        return [('uniform', uniform), *((f'sensitivity {k}', r) for k, r in enumerate(rows, 1))]

    def _by_sensitivity(self, budget: Budget) -> Subnet:
        return self._best(self._candidates(budget))

    def _by_search(self, budget: Budget) -> Subnet:
        """What a predictor takes for better than sensitivity's widths; they stay unless beaten."""
        subject, start = self.subject, self._by_sensitivity(budget)
        name, widths = start.source['how'], list(start.values())
        batches, bar = self.images.fit, progress('exploring')
        explored = self.steps.once(
            'explored',
            lambda: explore(
                subject, self.reconstruction, budget, widths, batches, self.order.seed, bar
            ),
        )
        found, notches = by_search(subject, budget, widths, explored)
        self.log.info(f'from {len(explored)} judged subnets, what a unit costs:\n{notches}')
        candidates = [(name, widths), *((f'search {k}', row) for k, row in enumerate(found, 1))]
        return self._best(candidates)

    def _best(self, candidates: Sequence[tuple[str, Sequence[int]]]) -> Subnet:
        """The best of the candidates; the first one, unless it is surely beaten."""
        subject, batches = self.subject, self.images.judging
        judged = judge(subject, self.reconstruction, candidates, batches, progress('judging'))
        for row in judged:
            cost = in_words(subject.subnet(row.widths).resources)
            self.log.info(f'{row.name}: loss {row.loss:.4f}; {cost}')
        best = winner(judged)
        self.log.info(verdict(judged, best, images_in(batches)))
        content = [dict(row._asdict(), error=finite(row.error)) for row in judged]
        write_json(self.steps.folder / 'judged.json', content)
        return subject.subnet(best.widths, how=best.name, judged=content)

    def cut(self, subnet: Subnet) -> nn.Module:
        """Write the pruned model's config; the cut and reconstructed model."""
        limits = ', '.join(f'{limit} {name}' for name, limit in self.order.limits.items())
        self.pruned = write_config(
            self.steps.out / 'pruned.py',
            self.config,
            pruned_changes(self.cfg, subnet, thaw=True),
            f'{type(self.subject.model).__name__} pruned to {limits} by mmpse.',
        )
        subject = self.subject
        check_cut(subject.model, subject.layout, subnet, subject.images, raw_outputs)
        path = self.steps.folder / 'cut.pth'
        if not path.exists():
            save_checkpoint(path, self.reconstructed(subnet), dataset_meta(subject))
        model = cut_(copy.deepcopy(subject.model), subject.layout, subnet)
        load_weights(model, path)
        vars(self).pop('reconstruction', None)  # its samples take memory
        self.evaluate('cut', model)
        return model

    def reconstructed(self, subnet: Subnet) -> nn.Module:
        """The cut model with its layers fitted, unless recalibrated BatchNorms alone do better."""
        subject = self.subject
        model = cut_(copy.deepcopy(subject.model), subject.layout, subnet)
        fitted = self.reconstruction.fit_(copy.deepcopy(model), subnet)
        recalibrate(model, self.images.batches)
        losses = [float(batch_losses(m, self.images.judging).mean()) for m in (fitted, model)]
        self.log.info(
            f'cut and reconstructed: loss {losses[0]:.4f} on other training images; only '
            f'recalibrated: {losses[1]:.4f}'
        )
        return fitted if losses[0] < losses[1] else model

    def tune(self, model: nn.Module) -> None:
        """Fine-tune the cut model."""
        recipe = self.schedule()
        self.log.info(f'fine-tuning: {recipe.text}')
        folder, path = self.steps.folder, self.steps.folder / 'finetune.py'
        start = str((folder / 'cut.pth').resolve())
        hooks: list[dict[str, Any]] = [dict(type='mmpse.SeedHook')]
        if self.order.teacher:  # the model as it was
            teacher, weights = teacher_of(self.config), str(self.sorted_weights.resolve())
            hooks.append(dict(type='mmpse.DistillationHook', teacher=teacher, checkpoint=weights))
        write_config(
            path,
            self.steps.out / 'pruned.py',
            recipe.run(self.pruned, start, self.order.seed, hooks),
            'The fine-tuning of ../pruned.py.',
        )
        run = path.with_suffix('')
        last = self.steps.once('finetuned', lambda: self.crew.train(path, run))
        load_weights(model, read_checkpoint(str(run / Path(last).name)))  # it may have been moved

    def report(self, model: nn.Module, subnet: Subnet) -> None:
        """Write the pruned model, and what came of it."""
        subject, out = self.subject, self.steps.out
        if self.order.finetune:
            self.evaluate('after', model)
        else:
            self.table['after'] = dict(self.table['cut'])
        save_checkpoint(out / 'pruned.pth', model, dataset_meta(subject))
        models = dict(before=subject.model, after=model)
        measured = self.steps.once('measured', lambda: measure(subject, models, self.log))
        for stage, metrics in self.table.items():
            cost = subject.cost_of(subject.space.fullnet if stage == 'before' else subnet)
            resources = measured['before' if stage == 'before' else 'after']
            cost = {name: cost[name] for name in ('flops', 'params')}
            self.table[stage] = {**metrics, **cost, **resources}
        limits = self.order.limits
        amounts = ' and '.join(f'{limit} of its {NAMES[name]}' for name, limit in limits.items())
        title = f'{type(model).__name__} pruned to {amounts}'
        busy = measured.get('busy', {})  # older folders have none
        found = latency_notes(subnet, self.latency['error']) if 'latency' in limits else []
        notes = [f'Attention: {note}.' for note in found]
        write_report(out, self.steps.folder, subject, model, subnet, self.table, busy, title, notes)
        self.log.info('\n'.join(['', summary(self.table, busy, self.steps.folder), *notes]))
