"""The Python door: ``mmpse.prune`` and its parts."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.progress import track
from torch import nn

from mmpse.evaluation import recalibrate
from mmpse.files import write_json
from mmpse.openmmlab.checkpoints import load_weights, read_checkpoint, save_checkpoint
from mmpse.openmmlab.choosing import by_sensitivity, judge, winner
from mmpse.openmmlab.configs import load_config, write_config
from mmpse.openmmlab.finetuning import finetune, finetune_changes, pruned_changes
from mmpse.openmmlab.latency import (
    cost_from_dict,
    cost_to_dict,
    latency_cost,
    measure_subnets,
)
from mmpse.openmmlab.losses import batch_size_of, images_of, preprocessed, training_batches
from mmpse.openmmlab.measure import measure
from mmpse.openmmlab.reach import NAMES, reachable
from mmpse.openmmlab.recipe import finetune as finetune_recipe
from mmpse.openmmlab.report import summary, write_report
from mmpse.openmmlab.searching import (
    choose_by_record,
    supernet_changes,
    supernet_end,
    unseen_batches,
)
from mmpse.openmmlab.sensitivity import measure_sensitivity
from mmpse.openmmlab.splits import all_training, held_out
from mmpse.openmmlab.subject import (
    Subject,
    dataset_meta,
    evaluate,
    examine,
    fingerprint,
    validates,
)
from mmpse.slim import cut_, sort_
from mmpse.space import Budget, Subnet, uniform_within
from mmpse.space.budget import parse_amount

HOWS = ('uniform', 'sensitivity', 'search')
# eight images give the widths that 48 give (RetinaNet R-18 on BCCD, 50, 20 and 10 %)
MAP_IMAGES, CALIBRATION_IMAGES = 8, 128
LATENCY_TOLERANCE, TRIES = 0.03, 4  # of the measured latency; choices, until it is met


class PruneError(ValueError):
    """A pruning that cannot begin."""


@dataclass(frozen=True)
class Result:
    """What :func:`prune` gives.

    Attributes:
        model: The pruned model, in eval mode.
        subnet: Its widths.
        table: ``'before'``, ``'cut'`` and ``'after'`` -> metrics and resources.
        out: The folder that holds everything.
    """

    model: nn.Module
    subnet: Subnet
    table: dict[str, dict[str, float]]
    out: Path


def prune(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    *,
    flops: str | float | None = None,
    params: str | float | None = None,
    latency: str | None = None,
    runtime: str = 'torch',
    how: str = 'sensitivity',
    epochs: int | None = None,
    teach: bool = True,
    tune: bool = True,
    sort: str = 'l1',
    divisor: int = 8,
    grids: Mapping[str, Mapping[str, Any]] | None = None,
    input_shape: Sequence[int] | None = None,
    seed: int = 0,
    out: str | os.PathLike = 'pruned',
    resume: bool = False,
    dry_run: bool = False,
    launcher: str = 'none',
) -> Result:
    """Prune a trained model as a whole, and fine-tune it.

    Its units are found, sorted by importance, given widths, cut, recalibrated and fine-tuned with
    the config's own recipe, taught by the model as it was. Widths are chosen on training images;
    the validation split measures what came of it, and the test split is never touched.

    Args:
        config: Any config of a classifier, detector or segmentor.
        checkpoint: The trained weights of its model.
        flops, params: The budget: a share of the model (``'50%'``) or an amount (``'5M'``).
            Several hold at once.
        latency: The same of one image's latency, measured here: ``'50%'`` or ``'12ms'``.
        runtime: What latency is measured in, see :func:`mmpse.deploy.runtimes.prepared`.
        how: ``'uniform'``: one ratio for all units. ``'sensitivity'``: by what the model loses
            where a unit is cut, unless that is no better than uniform on other training images.
            ``'search'``: by what subnets lose while the model is trained as a supernet, taught by
            itself, in the first quarter of the fine-tuning's schedule; the winner goes on from
            there. The two others are judged beside them.
        epochs: Length of the fine-tuning; by default a quarter of the config's own training.
        teach: Whether the model as it was teaches the fine-tuning.
        tune: Whether it is fine-tuned at all; otherwise the cut is recalibrated only.
        sort: Importance of channels, see :func:`mmpse.slim.sorting.importances`.
        divisor: Widths are multiples of it.
        grids: Units that need other widths, see :class:`mmpse.space.SearchSpace`.
        input_shape: ``(C, H, W)`` of the image that FLOPs are counted for; by default that of the
            config's tests.
        seed: Seed of everything.
        out: Folder for the results: ``pruned.py``, ``pruned.pth``, ``subnet.json``,
            ``report.json``, ``report.html``.
        resume: Go on in ``out`` where an earlier call with the same arguments stopped.
        dry_run: Print what is reachable and what is fixed, and write nothing. The result holds the
            full model, the uniform subnet, and the table of what is reachable.
        launcher: MMEngine's launcher, for the fine-tuning in many processes.

    Raises:
        PruneError: If the arguments make no sense, or ``out`` is not empty.
        BudgetError: If no subnet meets the budget.

    Examples:
        >>> result = mmpse.prune('my_retinanet.py', 'epoch_16.pth', flops='50%', epochs=8)
        >>> result.table['after']
    """
    limits = dict(latency=latency, flops=flops, params=params)
    limits = {k: v for k, v in limits.items() if v is not None}
    if not limits:
        raise PruneError("give a budget: flops='50%', params='5M' or latency='12ms'")
    if how not in HOWS:
        raise PruneError(f'how must be one of {HOWS}, got {how!r}')
    if dry_run:
        shared = how == 'search'
        subject = examine(config, checkpoint, input_shape, divisor, grids, shared, show=True)
        if latency is not None:
            fit_latency(subject, runtime)
        reach = reachable(subject, limits)
        print(reach)
        return Result(subject.model, reach.uniform, reach.rows, Path(out))
    steps = Steps(Path(out), resume)
    cfg = load_config(config)
    steps.claim(
        dict(
            config=cfg.pretty_text,
            checkpoint=fingerprint(checkpoint),
            limits={k: str(v) for k, v in limits.items()},
            runtime=runtime,
            how=how,
            epochs=epochs,
            teach=teach,
            tune=tune,
            sort=sort,
            divisor=divisor,
            grids=None if grids is None else {k: dict(v) for k, v in grids.items()},
            input_shape=None if input_shape is None else list(input_shape),
            seed=seed,
        )
    )
    # of one name there is one logger, which would go on writing into the folder of an earlier call
    log = MMLogger.get_instance(str(steps.out.resolve()), log_file=str(steps.out / 'prune.log'))
    shared = how == 'search'
    subject = examine(config, checkpoint, input_shape, divisor, grids, shared, show=True)
    log.info(f'weights: {subject.weights}')
    if latency is not None:
        found = steps.once('latency', lambda: fit_latency(subject, runtime))
        subject.costs['latency'] = cost_from_dict(subject.space.names, found)
        log.info(
            f'latency of the full model in {runtime}, {torch.get_num_threads()} threads: '
            f'{found["full"] / 1000:.2f} ms; predicted with a mean error of {found["error"]:.1%}'
        )
    log.info(f'{len(subject.space)} units\n{reachable(subject, limits)}')
    budget = Budget(subject.space, subject.costs, limits)  # an unreachable one fails here
    if not validates(cfg):
        log.warning('the config has no val_dataloader and val_evaluator: no metric can be shown')
    split = held_out(cfg, seed=seed) if validates(cfg) else None
    if split is None and how == 'search':
        raise PruneError(
            "how='search' holds training images out as the config validates, and it has no "
            "val_dataloader or val_evaluator; add them, or use how='sensitivity'"
        )
    images = all_training(cfg, seed) if split is None else split.calibration
    total = images_of(images, subject.scope) if split is None else split.total
    schedule = partial(
        finetune_recipe,
        cfg,
        epochs,
        steps_per_epoch=-(-total // batch_size_of(cfg.train_dataloader)),
    )
    begin = supernet_end(schedule().total) if how == 'search' else 0
    table = {}
    table['before'] = steps.once('before', lambda: evaluate(subject, subject.model, show=True))
    sort_(subject.model, subject.layout, sort)
    batches = training_batches(images, CALIBRATION_IMAGES, subject.scope, seed)
    meta = dataset_meta(subject)
    whole = steps.folder / 'sorted.pth'  # its channels are in the order of the pruned model's
    if not whole.exists():
        save_checkpoint(whole, subject.model, meta)
    name = config if not isinstance(config, Config) else cfg.filename
    teacher = dict(
        teacher=os.path.abspath(name) if os.path.exists(name) else str(name),
        checkpoint=str(whole.resolve()),
    )
    supernet, unseen = None, None
    if how == 'search':
        recipe = schedule(end=begin)
        log.info(f'supernet: {recipe.text}')
        path = steps.folder / 'supernet.py'
        changes = supernet_changes(subject, split, recipe, budget, teacher, divisor, grids, seed)
        write_config(path, config, changes, 'The training of the model as a supernet.')
        supernet = steps.once(
            'supernet', lambda: finetune(path, steps.folder / 'supernet', launcher)
        )
        load_weights(subject.model, supernet)
        unseen = unseen_batches(subject, split, seed)
    subnet = Subnet.load(
        steps.once(
            'choice',
            lambda: within_latency(
                subject,
                limits,
                runtime,
                lambda b: choose(subject, b, how, batches, steps, log, supernet, unseen),
                log,
            ).to_dict(),
        )
    )
    subnet.save(steps.out / 'subnet.json')
    log.info(f'{how}: {subnet.resources}')

    pruned = write_config(
        steps.out / 'pruned.py',
        config,
        pruned_changes(cfg, subnet),
        f'{cfg.model.type} pruned to {", ".join(f"{v} {k}" for k, v in limits.items())} by mmpse.',
    )
    model = cut_(copy.deepcopy(subject.model), subject.layout, subnet)
    cut = steps.folder / 'cut.pth'
    if not cut.exists():
        recalibrate(model, batches)
        save_checkpoint(cut, model, meta)
    load_weights(model, cut)
    table['cut'] = steps.once('cut', lambda: evaluate(subject, model, show=True))
    last = str(cut)
    if tune:
        recipe = schedule(begin=begin)
        log.info(f'fine-tuning: {recipe.text}')
        path = steps.folder / 'finetune.py'
        write_config(
            path,
            steps.out / 'pruned.py',
            finetune_changes(pruned, recipe, str(cut.resolve()), teacher if teach else None, seed),
            'The fine-tuning of ../pruned.py.',
        )
        last = steps.once('finetuned', lambda: finetune(path, steps.folder / 'finetune', launcher))
    load_weights(model, read_checkpoint(last))
    check_finite(model, steps)
    model.eval()
    table['after'] = steps.once('after', lambda: evaluate(subject, model, show=True))
    save_checkpoint(steps.out / 'pruned.pth', model, meta)
    load_weights(subject.model, whole)  # a search left the supernet's
    models = dict(before=subject.model, after=model)
    measured = steps.once('measured', lambda: measure(subject, models, log))
    for name, widths in dict(before=subject.space.fullnet, cut=subnet, after=subnet).items():
        cost = subject.cost_of(widths)
        resources = measured['before' if name == 'before' else 'after']
        table[name] = {**table[name], **{k: cost[k] for k in ('flops', 'params')}, **resources}
    amounts = ' and '.join(f'{limit} of its {NAMES[name]}' for name, limit in limits.items())
    title = f'{type(model).__name__} pruned to {amounts}'
    write_report(steps.out, subject, model, subnet, table, title, steps.folder)
    log.info('\n' + summary(table))
    return Result(model, subnet, table, steps.out)


def choose(
    subject: Subject,
    budget: Budget,
    how: str,
    batches: Sequence[Any],
    steps: Steps,
    log: MMLogger,
    supernet: str | None = None,
    unseen: Sequence[Any] | None = None,
) -> Subnet:
    """The widths, by uniform pruning, by sensitivity, or by the losses of a supernet too.

    Args:
        supernet: The supernet's checkpoint, whose weights the model has.
        unseen: Batches that it was not trained on.
    """
    uniform = uniform_within(subject.space, budget)
    if how == 'uniform':
        return subject.subnet(uniform, how='uniform')
    ready = preprocessed(subject.model, batches)
    few = max(1, -(-MAP_IMAGES * len(batches) // CALIBRATION_IMAGES))
    sensitivity = steps.once(
        'sensitivity',
        lambda: measure_sensitivity(
            subject.model,
            subject.layout,
            subject.space,
            ready[:few],
            track=partial(track, description='sensitivity', transient=True),
        ),
    )
    sensitivity = {u: {int(w): v for w, v in row.items()} for u, row in sensitivity.items()}
    rows = by_sensitivity(subject, budget, sensitivity)
    candidates = [('uniform', uniform), *((f'sensitivity {k + 1}', r) for k, r in enumerate(rows))]
    if supernet is not None:
        chosen = choose_by_record(subject, budget, supernet)
        log.info(f'from {chosen.losses} losses of subnets:\n{chosen.notches}')
        candidates += [(f'search {k + 1}', r) for k, r in enumerate(chosen.widths)]
    follow = partial(track, description='judging', transient=True)
    judged = judge(subject, candidates, ready[few:] if unseen is None else unseen, follow)
    for row in judged:
        log.info(
            f'{row.name}: loss {row.loss:.4f}, {row.gain:+.4f} +- {row.error:.4f} better than '
            f'uniform; {subject.subnet(row.widths).resources}'
        )
    best = winner(judged)
    write_json(steps.folder / 'judged.json', [row._asdict() for row in judged])
    return subject.subnet(best.widths, how=best.name, judged=[row._asdict() for row in judged])


def fit_latency(subject: Subject, runtime: str) -> dict[str, Any]:
    """Add latency to what subnets cost; what was found, for JSON."""
    follow = partial(track, description=f'latency in {runtime}', transient=True)
    found = latency_cost(subject, runtime, track=follow)
    subject.costs['latency'] = found.cost
    return dict(cost_to_dict(found.cost), error=found.error, full=found.measured[0][1])


def within_latency(
    subject: Subject,
    limits: Mapping[str, str | float],
    runtime: str,
    choose: Callable[[Budget], Subnet],
    log: MMLogger,
) -> Subnet:
    """Choose widths whose measured latency meets its limit, not only the predicted one."""
    subnet = choose(Budget(subject.space, subject.costs, limits))
    if 'latency' not in limits:
        return subnet
    full = subject.space.fullnet
    asked = str(limits['latency']).strip()
    correction = 1.0
    for _ in range(TRIES):
        whole, own = measure_subnets(subject, [full, subnet], runtime)
        target = whole * float(asked[:-1]) / 100 if asked.endswith('%') else None
        if target is None:
            target = parse_amount(asked, 1e6 * whole, 'latency') / 1e6
        log.info(
            f'measured: {1000 * own:.2f} ms of {1000 * whole:.2f} ms ({own / whole:.0%}), asked '
            f'for {1000 * target:.2f} ms'
        )
        if abs(own / target - 1) < LATENCY_TOLERANCE:
            break
        correction *= target / own
        predicted = subject.cost_of(full)['latency']
        wanted = min(correction * target / whole, 1.0) * predicted
        subnet = choose(
            Budget(subject.space, subject.costs, {**limits, 'latency': f'{wanted:.0f}us'})
        )
    return subnet


def check_finite(model: nn.Module, steps: Steps) -> None:
    """
    Raises:
        PruneError: If the fine-tuning has left a model that computes nothing.
    """
    bad = [name for name, x in model.state_dict().items() if not torch.isfinite(x).all()]
    if bad:
        raise PruneError(
            f'the fine-tuning diverged: {len(bad)} weights are not finite ({bad[0]}, ...); the cut '
            f'model is {steps.folder / "cut.pth"}; give the config a lower '
            'optim_wrapper.optimizer.lr, or clip_grad, and start in another folder'
        )


class Steps:
    """The folder of a pruning: what is done in it is not done again.

    Args:
        out: The folder.
        resume: Whether it may hold something already.

    Raises:
        PruneError: If it holds something and is not to be resumed.
    """

    def __init__(self, out: Path, resume: bool) -> None:
        self.out = out
        self.folder = out / 'steps'
        if out.is_dir() and any(out.iterdir()) and not resume:
            raise PruneError(
                f'{out} is not empty; give --resume to go on with what it holds, or another folder '
                'with -o'
            )
        if dist.is_main_process():
            self.folder.mkdir(parents=True, exist_ok=True)

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Note what the pruning was asked for.

        Raises:
            PruneError: If the folder is one of another pruning.
        """
        path = self.folder / 'settings.json'
        settings = json.loads(json.dumps(settings))
        if path.exists():
            old = json.loads(path.read_text())
            for key in settings:
                if old.get(key) != settings[key]:
                    was, now = (str(s.get(key))[:80] for s in (old, settings))
                    raise PruneError(
                        f'{self.out} holds a pruning with {key}={was}, not {now}; give another '
                        'folder with -o, or the same arguments'
                    )
        else:
            write_json(path, settings)

    def once(self, name: str, call: Callable[[], Any]) -> Any:
        """What ``call`` returned when it was first done, as JSON has it."""
        path = self.folder / f'{name}.json'
        if not path.exists():
            write_json(path, call())
        return json.loads(path.read_text())
