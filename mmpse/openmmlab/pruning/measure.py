"""What a model takes on this machine: bytes of its file, milliseconds of its forward."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.logging import MMLogger
from torch import nn

from mmpse.errors import is_bug
from mmpse.openmmlab.checkpoints.files import save_checkpoint
from mmpse.openmmlab.deploy.runtimes import prepared
from mmpse.openmmlab.errors import one_line
from mmpse.openmmlab.progress import progress
from mmpse.resources.timing import Latencies, measure_latencies

from .subject import Subject

SECONDS, ROUNDS = 15, (3, 50)  # of measuring, about; at least and at most
LIMIT = 30  # seconds of each model in a runtime, after which one round is enough


def measure(
    subject: Subject, models: Mapping[str, nn.Module], log: MMLogger
) -> dict[str, dict[str, float]]:
    """Measure models beside each other, interleaved, so that a slow moment meets them all.

    Args:
        models: Name -> full or cut model in eval mode.
        log: Is told why a runtime is left out.

    Returns:
        Name -> ``'bytes'`` of a file of the weights; ``'latency_ms'``, the median forward of one
        image up to the raw outputs in PyTorch on this device; ``'onnxruntime_ms'`` on a CPU, if
        that is installed and the models can be exported. ``'busy'`` -> of each of the two by what
        factor it was slowed down, see :func:`mmpse.resources.busy.busy`.
    """
    images = torch.randn(1, *subject.input_shape, device=get_device())
    result = {name: dict(bytes=file_size(model)) for name, model in models.items()}
    factors: dict[str, float] = {}
    runtimes = dict(latency_ms='torch')
    if images.device.type == 'cpu':
        runtimes['onnxruntime_ms'] = 'onnxruntime'
    for key, runtime in runtimes.items():
        try:
            calls = {name: prepared(model, images, runtime) for name, model in models.items()}
        except Exception as error:  # exporters raise whatever they do
            log.info(f'{key} is left out: {one_line(error)}', exc_info=is_bug(error))
            continue
        times = timed(calls)
        factors[key] = round(times.busy, 2)
        for name, seconds in times.items():
            result[name][key] = round(1e3 * statistics.median(seconds), 4)
    return dict(result, busy=factors)


def file_size(model: nn.Module) -> int:
    """Bytes of the file that holds a model's weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'weights.pth')
        save_checkpoint(path, model)
        return path.stat().st_size


def timed(calls: Mapping[str, Callable[[], Any]]) -> Latencies:
    """Seconds that calls take, in as many rounds as fit into the time."""
    begin = time.perf_counter()
    for call in calls.values():
        call()
    start = time.perf_counter()
    for call in calls.values():
        call()
    each = 2 * (time.perf_counter() - start)  # every call runs twice in a round
    least, most = ROUNDS
    rounds = int(min(most, max(least, SECONDS / each)))
    warmup = min(5, int(SECONDS / each))  # a round this slow has warmed up by now
    left = LIMIT * len(calls) - (time.perf_counter() - begin) - each
    follow = progress('measuring latency')
    return measure_latencies(calls, rounds, warmup, follow, few=1, enough=left)
