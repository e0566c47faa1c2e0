"""Which of all stock configs can be pruned: the second table of docs/units.md, in some hours::

    python tests/survey_stock.py work_dirs/survey mmdet mmseg --jobs 8

Every config of the packages is read. Configs of one structure share an answer: the comparison
(`survey_structures.py`) leaves out what changes no unit, and what changes only how wide or deep the
model is. One config of each structure is examined, in a process of its own:

1. its model is built with random weights;
2. its units are found on the smallest image that it takes;
3. it is cut uniformly to half of its FLOPs on that image, and the cut model passes the guard; where
   half is out of reach (attention pads so small an image to its windows), on an image as the config
   tests;
4. the cut model has a finite loss on made-up data, with gradients, and predicts;
5. its checkpoint loads into a model that is built from the subnet, which computes the same;
6. the full model's losses in eval mode, which `mmpse prune` judges by, are finite, the same each
   time and those of its training, and leave it as it was; its channels are sorted, some of its
   units are judged, and the cut model is reconstructed.

The folder holds what was found, a line a structure. Run again, the survey goes on where it was
interrupted, and prints the table of what is there; `--again WORD` repeats the structures whose
record has the word.
"""

import argparse
import copy
import importlib
import json
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, partial
from pathlib import Path

import torch
from mmengine.config import Config, utils
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from survey_inputs import loss_of, training_data
from survey_losses import check_judged_losses, check_sensitivity
from survey_structures import DEPTHS, configs_of, groups_of
from survey_table import table_of

from mmpse.openmmlab.checkpoints.files import save_checkpoint
from mmpse.openmmlab.checkpoints.loading import check_whole, load_weights
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.configs.images import default_input_shape
from mmpse.openmmlab.configs.pruned import pruned_changes
from mmpse.openmmlab.errors import ConfigError, one_line
from mmpse.openmmlab.models.losses import last_phase_
from mmpse.openmmlab.models.outputs import raw_outputs
from mmpse.openmmlab.models.pruned import look
from mmpse.openmmlab.pruning.subject import RATIOS
from mmpse.resources.cost import model_cost
from mmpse.slim import check_cut, cut_, sort_
from mmpse.slim.watch import evaluating, tensors_in
from mmpse.space import Budget, uniform_within

SECONDS = 240  # of processor time for a structure
SIDES = (64, 128, 256, 320, 512)  # of the images in training
# Reading


def read_all(packages, file):
    """Name of every config -> its scope and model, or why it cannot be read; kept in a file."""
    found = {line['config']: line for line in records(file)}
    utils._get_cfg_metainfo = cache(utils._get_cfg_metainfo)  # reads a hundred files in every call
    paths = {name: path for package in packages for name, path in configs_of(package).items()}
    clock = Clock(len(paths), 'configs read')
    for name, path in paths.items():
        if name not in found:
            try:
                cfg = load_config(Config.fromfile(path))
                text = json.dumps(cfg.model.to_dict(), default=_name)
                scope = cfg.get('default_scope') or 'mmengine'
                line = dict(config=name, scope=scope, model=json.loads(text))
            except Exception as error:  # configs are programs
                line = dict(config=name, error=reason_of(error))
            append(file, line)
            found[name] = line
        clock.tick()
    return {name: found[name] for name in paths}, paths


def _name(value):
    return value.__name__ if isinstance(value, type) else str(value)


# One structure


def examine(path, tell):
    """Prune the model of a config, and tell what was found and the step that begins."""

    def step(name):
        tell(step=name, seconds=round(time.process_time(), 1))

    torch.manual_seed(0)
    step('build')
    cfg = load_config(Config.fromfile(path))
    scope = cfg.get('default_scope') or 'mmengine'
    model = build_model(cfg)
    last_phase_(model, cfg)
    MessageHub.get_current_instance().update_info('epoch', 0)  # as of a training
    try:
        shape = default_input_shape(cfg, model)
    except ConfigError:
        shape = None
    step('units')
    start = time.process_time()
    layout, images = look(model, shape and shape[1:])
    tell(
        model=type(model).__name__,
        side=images.shape[-1],
        find=round(time.process_time() - start, 2),
        units=len(layout.units),
        fixed=dict(Counter(shortened(why) for why in layout.fixed.values())),
        unseen=len(layout.unseen),
    )
    step('reach')
    space = layout.space(RATIOS, model=type(model).__name__)
    run, ends = partial(raw_outputs, model, deployed=True), [space.tinynet, space.fullnet]
    larger = [] if shape is None else [torch.zeros(1, images.shape[1], *shape[1:])]
    for image in (images, *larger):
        costs = model_cost(model, layout, space, image, run)
        flops = costs['flops']
        tiny, full = flops.exact(space.array(ends))
        tell(lowest=round(float(tiny / full), 4), reach_size=list(image.shape[2:]))
        if tiny / full < 0.5:
            break
    subnet = space.subnet(uniform_within(space, Budget(space, costs, dict(flops='50%'))))
    tell(share=round(float(flops.exact(space.array([subnet]))[0] / full), 4))
    step('sort')
    sort_(model, layout)
    step('its own forward')
    with torch.no_grad(), evaluating(model):
        raw_outputs(model, torch.randn(images.shape))
    step('guard')
    check_cut(model, layout, subnet, images, raw_outputs)
    step('its own loss')
    with DefaultScope.overwrite_default_scope(scope):
        data, side = working_data(model, scope, tuple(images.shape[2:]))
        tell(training_side=list(side))
        step('its own predict')
        with torch.no_grad(), evaluating(model):
            model(**copy.deepcopy(data), mode='predict')
        step('loss')
        cut = cut_(copy.deepcopy(model), layout, subnet)
        cut.train()
        loss = loss_of(cut, copy.deepcopy(data))
        loss.backward()
        without = [n for n, p in cut.named_parameters() if p.requires_grad and p.grad is None]
        assert loss.isfinite(), f'the loss is {loss}'
        tell(loss=round(float(loss), 3), without_gradient=len(without))
        step('predict')
        with torch.no_grad(), evaluating(cut):
            cut(**data, mode='predict')
        step('reload')
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, 'cut.pth')
            save_checkpoint(file, cut)
            changed = copy.deepcopy(cfg)
            changed.merge_from_dict(pruned_changes(cfg, subnet))
            again = build_model(changed)
            check_whole(again, load_weights(again, file), 'the pruned model')
        image = torch.randn(2, *images.shape[1:])
        with torch.no_grad(), evaluating(cut), evaluating(again):
            ours, theirs = (seeded_outputs(m, image) for m in (cut, again))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        step('judged losses')
        check_judged_losses(model, data)
        step('sensitivity')
        check_sensitivity(model, layout, data, subnet)
    step('passes')


def seeded_outputs(model, image):
    """The tensors of a model's raw outputs; what it draws is the same in each call."""
    torch.manual_seed(0)
    return list(tensors_in(raw_outputs(model, image)))


def working_data(model, scope, smallest):
    """Data of the smallest images on which the full model has a loss."""
    sides = [smallest, *((side, side) for side in SIDES if side > max(smallest))]
    for side in sides:
        data = training_data(model, scope, side)
        try:
            model.train()
            with torch.no_grad():
                loss_of(copy.deepcopy(model), copy.deepcopy(data))
                return data, side
        except Exception:
            if side == sides[-1]:
                raise
        finally:
            model.eval()


def shortened(why):
    """A reason without the names of layers."""
    while why.startswith('joined with '):
        why = why.partition(': ')[2]
    return ' '.join('X' if '.' in word.strip(',:') else word for word in why.split())


def reason_of(error):
    return f'{type(error).__name__}: {one_line(error)}'


def worker(path, pipe):
    """The process that examines a structure."""
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + SECONDS,) * 2)

    def tell(**news):
        pipe.send(news)

    start = time.process_time()
    try:
        examine(path, tell)
    except Exception as error:
        tell(reason=reason_of(error), traceback=traceback.format_exc()[-3000:])
    tell(seconds=round(time.process_time() - start, 1))


def examined(path):
    """What a process of its own finds of a config's model."""
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=worker, args=(path, theirs), daemon=True)
    process.start()
    theirs.close()
    record = {}
    limit = time.monotonic() + 15 * SECONDS
    try:
        while ours.poll(max(0, limit - time.monotonic())):
            record |= ours.recv()
        process.kill()
        record['reason'] = f'more than {15 * SECONDS} s'
    except EOFError:
        process.join()
        if process.exitcode:
            record['reason'] = f'killed by signal {-process.exitcode} (24, 9: over {SECONDS} s)'
    return record


# Records


def records(file):
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def append(file, line):
    with file.open('a') as stream:
        stream.write(json.dumps(line) + '\n')


class Clock:
    """Progress, with the time that is left."""

    def __init__(self, total, what):
        self.total, self.what, self.done, self.start = total, what, 0, time.monotonic()

    def tick(self, text=''):
        self.done += 1
        left = (time.monotonic() - self.start) / self.done * (self.total - self.done)
        if text or self.done % 50 == 0:
            print(
                f'{self.done} of {self.total} {self.what}, {left / 60:.0f} min left {text}',
                file=sys.stderr,
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('packages', nargs='+', choices=['mmdet', 'mmseg', 'mmpretrain'])
    parser.add_argument('--again', metavar='WORD')
    parser.add_argument('--jobs', type=int, default=1, help='structures at the same time')
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    lines, paths = read_all(args.packages, args.folder / 'configs.jsonl')
    file = args.folder / 'structures.jsonl'
    found = {record['config']: record for record in records(file)}
    done = {n for n, r in found.items() if not (args.again and args.again in json.dumps(r))}
    todo = [names for names in groups_of(lines).values() if done.isdisjoint(names)]
    todo.sort(key=lambda names: (-len(names), names))
    for package in args.packages:  # once, for all processes
        importlib.import_module(f'{package}.models')
    clock = Clock(len(todo), 'structures')
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context('fork')) as pool:
        jobs = {}
        for names in todo:
            name = min(names, key=lambda n: (any(str(d) in n for d in DEPTHS), n))  # a shallow one
            jobs[pool.submit(examined, paths[name])] = name
        for job in as_completed(jobs):
            record = dict(config=jobs[job], **job.result())
            append(file, record)
            found[record['config']] = record
            clock.tick(f'{record["config"]} {record["step"]} {record.get("reason", "")}'[:200])
    print(table_of(lines, found))


if __name__ == '__main__':
    main()
