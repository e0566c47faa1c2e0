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

from mmpse.openmmlab.checkpoints.files import save_checkpoint
from mmpse.openmmlab.errors import one_line
from mmpse.openmmlab.models.latency import call_of
from mmpse.openmmlab.models.losses import progress
from mmpse.openmmlab.pruning.subject import Subject
from mmpse.resources.busy import busy_sentence
from mmpse.resources.timing import Latencies, measure_latencies

SECONDS, ROUNDS = 15, (3, 50)  # of measuring, about; at least and at most


def measure(
    subject: Subject, models: Mapping[str, nn.Module], log: MMLogger
) -> dict[str, dict[str, float]]:
    """Measure models beside each other, interleaved, so that a slow moment meets them all.

    Args:
        subject: What they come from.
        models: Name -> full or cut model in eval mode.
        log: Is told why a runtime is left out, and that the machine is busy.

    Returns:
        Name -> ``'bytes'`` of a file of the weights; ``'latency_ms'``, the median forward of one
        image up to the raw outputs in PyTorch on this device; ``'onnxruntime_ms'`` on a CPU, if
        that is installed and the models can be exported.
    """
    images = torch.randn(1, *subject.input_shape, device=get_device())
    result = {name: dict(bytes=file_size(model)) for name, model in models.items()}
    runtimes = dict(latency_ms='torch')
    if images.device.type == 'cpu':
        runtimes['onnxruntime_ms'] = 'onnxruntime'
    for key, runtime in runtimes.items():
        try:
            calls = {name: call_of(model, images, runtime) for name, model in models.items()}
        except Exception as error:  # exporters raise whatever they do
            log.info(f'{key} is left out: {one_line(error)}')
            continue
        times = timed(calls)
        if sentence := busy_sentence(times.busy):
            log.warning(f'{key}: {sentence}')
        for name, seconds in times.items():
            result[name][key] = round(1e3 * statistics.median(seconds), 4)
    return result


def file_size(model: nn.Module) -> int:
    """Bytes of the file that holds a model's weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'weights.pth')
        save_checkpoint(path, model)
        return path.stat().st_size


def timed(calls: Mapping[str, Callable[[], Any]]) -> Latencies:
    """Seconds that calls take, in as many rounds as fit into the time."""
    for call in calls.values():
        call()
    start = time.perf_counter()
    for call in calls.values():
        call()
    each = 2 * (time.perf_counter() - start)  # every call runs twice in a round
    least, most = ROUNDS
    rounds = int(min(most, max(least, SECONDS / each)))
    return measure_latencies(calls, rounds, min(5, rounds), progress('measuring latency'))
