"""The runtimes that run what is exported, all of them from the one exporter."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmpse.errors import UserError, is_bug
from mmpse.openmmlab import compat
from mmpse.openmmlab.models.outputs import deployed_outputs

from .graph import to_onnx
from .network import Raw, no_raw_outputs

RUNTIMES = ('torch', 'compiled', 'onnxruntime', 'openvino', 'tensorrt')
FILES = RUNTIMES[2:]  # those that run ONNX files


@torch.no_grad()
def prepared(model: nn.Module, x: Tensor, runtime: str = 'torch') -> Callable[[], Any]:
    """A call that runs ``model`` up to its raw outputs on ``x``, and returns when they are there.

    Args:
        model: A static model in eval mode, on the device of ``x``.
        x: A batch of images ``(B, C, H, W)``.
        runtime: ``'torch'``, ``'compiled'`` (``torch.compile``), ``'onnxruntime'`` and
            ``'openvino'`` on the CPU, ``'tensorrt'``. The file for the last three is exported for
            the shape of ``x`` alone. All use as many threads as PyTorch, and float32.

    Raises:
        UserError: If the runtime is unknown, is not installed, or cannot run on the device.
        ExportError: If the model cannot be exported.
    """
    check_runtime(runtime)
    if runtime in FILES:
        if x.device.type != 'cpu':
            raise UserError(
                f'runtime {runtime!r} takes images in memory, got a model on {x.device}; move the '
                "model to the CPU, or use 'torch'"
            )
        raw = Raw(model)
        try:
            raw(x)  # names its outputs
        except Exception as error:  # a forward of another kind raises whatever it does
            if is_bug(error):
                raise
            raise no_raw_outputs(model, x, error) from error
        network = loaded(to_onnx(raw, dict(images=x), raw.names, model=model), runtime)
        images = x.numpy()
        return lambda: list(network(images).values())
    forward = partial(deployed_outputs, model)
    if runtime == 'compiled':
        with compat.compiling_many():
            forward = torch.compile(model, dynamic=False)
            forward(x)

    def run() -> Any:
        with torch.no_grad():
            y = forward(x)
        if x.device.type == 'cuda':
            torch.cuda.synchronize(x.device)
        return y

    return run


def loaded(file: Any, runtime: str) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A call that gives the outputs of an ONNX model for a batch of images, by name.

    Args:
        file: An ``onnx.ModelProto``, its bytes, or the path of a file.
        runtime: ``'onnxruntime'``, ``'openvino'`` or ``'tensorrt'``, with as many threads as
            PyTorch. TensorRT is run by onnxruntime, which copies images to the GPU and back.

    Raises:
        UserError: If the runtime runs no ONNX files, or is not installed.
    """
    check_runtime(runtime, FILES)
    if hasattr(file, 'SerializeToString'):
        file = file.SerializeToString()
    if runtime == 'openvino':
        return _openvino(file)
    import onnxruntime  # an optional requirement

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    provider = TENSORRT if runtime == 'tensorrt' else 'CPUExecutionProvider'
    session = onnxruntime.InferenceSession(file, options, providers=[provider])
    names = [output.name for output in session.get_outputs()]
    image = session.get_inputs()[0].name
    return lambda images: dict(zip(names, session.run(names, {image: images}), strict=True))


def _openvino(file: Any) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    import openvino  # an optional requirement

    core = openvino.Core()
    settings = {
        'INFERENCE_NUM_THREADS': torch.get_num_threads(),
        'INFERENCE_PRECISION_HINT': 'f32',  # else bfloat16 where the CPU has it
        'PERFORMANCE_HINT': 'LATENCY',
    }
    network = core.compile_model(core.read_model(file), 'CPU', settings)
    names = [output.get_any_name() for output in network.outputs]
    return lambda images: dict(zip(names, network([images]).values(), strict=True))


TENSORRT = 'TensorrtExecutionProvider'
INSTALL = dict(
    onnxruntime='onnx onnxscript onnxruntime',
    openvino='onnx onnxscript openvino',
    tensorrt='onnx onnxscript onnxruntime-gpu tensorrt',
)


def check_runtime(runtime: str, among: tuple[str, ...] = RUNTIMES) -> None:
    """Make sure that a runtime is there.

    Raises:
        UserError: If it is unknown, or not installed; the error says what to install.
    """
    if runtime not in among:
        raise UserError(f'runtime must be one of {among}, got {runtime!r}')
    if runtime not in INSTALL:
        return
    packages = INSTALL[runtime].replace('-gpu', '').split()
    there = all(importlib.util.find_spec(package) for package in packages)
    if there and runtime == 'tensorrt':
        import onnxruntime

        there = TENSORRT in onnxruntime.get_available_providers()
    if not there:
        raise UserError(
            f'runtime {runtime!r} is not installed: pip install {INSTALL[runtime]}, or choose '
            f'another of {among}'
        )
