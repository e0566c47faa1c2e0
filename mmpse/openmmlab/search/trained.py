"""The trained supernet that a search is for: its checkpoint, its space, what its subnets cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.runner import CheckpointLoader, Runner

from mmpse.errors import UserError
from mmpse.files import write_json
from mmpse.openmmlab import compat
from mmpse.openmmlab.configs.images import default_input_shape
from mmpse.openmmlab.deploy.latency import (
    error_sentence,
    latency_cost,
    measure_latency,
    read_latency,
)
from mmpse.openmmlab.errors import one_line
from mmpse.openmmlab.jobs import model_of
from mmpse.openmmlab.progress import progress
from mmpse.openmmlab.supernet.building import supernet_of
from mmpse.resources.busy import busy_sentence
from mmpse.slim import Supernet
from mmpse.space import Cost

AGAIN = 'measure again when nothing else runs: mmpse latency'


class Trained(NamedTuple):
    """A trained supernet."""

    checkpoint: Mapping[str, Any]  # its content
    supernet: Supernet  # the runner's model
    costs: dict[str, Cost]  # by resource
    input_shape: tuple[int, ...]  # (C, H, W) of the image that they are of


def load_trained(runner: Runner, input_shape: Sequence[int] | None) -> Trained:
    """The supernet of a runner's ``load_from``.

    Args:
        input_shape: By default that of the config's tests.

    Raises:
        ValueError: If ``load_from`` is missing, or is no checkpoint of the runner's model.
        FileNotFoundError: If there is no such checkpoint.
    """
    path = compat.load_path(runner)
    if path is None:
        raise UserError(
            'a search needs the checkpoint of a trained supernet: set load_from, e.g. '
            '--cfg-options load_from=work_dirs/supernet/epoch_50.pth'
        )
    if '://' not in path and not Path(path).is_file():
        raise FileNotFoundError(
            f'there is no supernet checkpoint {path} (load_from): train the supernet first, with '
            'tools/train.py and its config, or give the path of another checkpoint with '
            '--cfg-options load_from=...'
        )
    checkpoint = CheckpointLoader.load_checkpoint(path, 'cpu', 'silent')
    model = model_of(runner)
    try:
        model.load_state_dict(checkpoint['state_dict'])
    except RuntimeError as error:
        raise UserError(
            f'the checkpoint {path} is not one of this supernet: {one_line(error)}; give the '
            'checkpoint that the supernet config of the same model trained'
        ) from error
    shape = tuple(input_shape or default_input_shape(runner.cfg, model))
    return Trained(checkpoint, *supernet_of(model, checkpoint, runner.cfg, shape), shape)


def latency_of(trained: Trained, runner: Runner, path: str | None, runtime: str) -> Cost:
    """Latency of its subnets: from a file; without one measured, once for a work dir.

    Raises:
        UserError: If the file cannot be read, or is of something else.
    """
    model, layout, space = (getattr(trained.supernet, k) for k in ('model', 'layout', 'space'))
    own = Path(runner.work_dir) / 'latency.json'
    if path is None and not own.exists():
        follow = progress(f'latency in {runtime}')
        content = measure_latency(model, layout, space, trained.input_shape, runtime, follow)
        write_json(own, content)
    content = read_latency(path or own, space, trained.input_shape, None if path else runtime)
    runner.logger.info(
        f'latency: {path or own}, of {content["on"]}, predicted with a mean error of '
        f'{content["error"]:.1%}.'
    )
    for sentence in (error_sentence(content['error'], AGAIN), busy_sentence(content['busy'])):
        if sentence:
            runner.logger.warning(sentence)
    return latency_cost(space, content)
