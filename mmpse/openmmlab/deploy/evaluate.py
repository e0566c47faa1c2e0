"""The metric of an exported file, by the config's own data, post-processing and evaluator."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from torch import Tensor, nn

from mmpse.errors import UserError, is_bug
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.datasets import build_dataset, nested
from mmpse.openmmlab.configs.evaluation import evaluate
from mmpse.openmmlab.types import in_scope

from .graph import ExportError, between, line
from .network import kind_of
from .onnx import INPUTS, read_metadata
from .runtimes import loaded


def evaluate_onnx(
    path: str | os.PathLike, cfg: Config, split: str = 'val', runtime: str = 'onnxruntime'
) -> dict[str, float]:
    """The metrics of an exported file.

    The file's raw outputs take the place of the backbone's and the head's in a model of the config;
    what the config does before and after is done as ever. Of a file with preprocessing, decoding or
    argmax in it the part between is evaluated, so that int8 files of every kind can be compared.

    Args:
        path: A file of ``export_onnx`` or ``quantize``.
        cfg: The config of the model, with dataloader and evaluator of the split.
        split: ``'val'`` or ``'test'``.
        runtime: What runs the file.

    Raises:
        UserError: If the runtime is not there.
        ExportError: If the file is of another kind of model, or the runtime refuses it, or it does
            not run on the data.
    """
    import onnx  # an optional requirement

    about = read_metadata(path)
    source = INPUTS if about['preprocess'] else 'images'
    part = between(onnx.load(path), source, about['raw'])
    try:
        network = loaded(part, runtime)
    except UserError:
        raise
    except Exception as error:  # the runtime's own kinds
        if is_bug(error):
            raise
        raise ExportError(f'{runtime} cannot load {path}: {line(error)}') from error
    model = build_model(cfg)
    model.eval()
    kind = kind_of(model)
    if kind == 'module' or kind != about['kind']:
        raise ExportError(
            f'{path} is a {about["kind"]}, the config has a {type(model).__name__}; give the '
            'config that it was exported with'
        )

    def forward(inputs: Tensor) -> Any:
        batch = inputs.cpu().numpy()
        try:
            values = network(batch)
        except Exception as error:  # the runtime's own kinds
            if is_bug(error):
                raise
            raise ExportError(
                f'{path} does not run on a batch of {tuple(inputs.shape)}: {line(error)}'
            ) from error
        outputs = [torch.from_numpy(np.array(values[name])) for name in about['raw']]
        if kind != 'detector':
            return outputs[0]
        levels = len(about['strides'])
        return tuple(outputs[k : k + levels] for k in range(0, len(outputs), levels))

    heads = dict(detector='bbox_head', segmentor='decode_head', classifier='head')
    model.extract_feat = lambda inputs, *args, **kwargs: inputs
    getattr(model, heads[kind]).forward = forward
    return evaluate(model, cfg, split)


def calibration_images(
    cfg: Config, model: nn.Module, number: int, preprocess: bool = False
) -> Iterator[np.ndarray]:
    """Training images ``(1, C, H, W)`` as a file of the model takes them.

    They go through the pipeline of the val split: int8 needs the range of what is met in use.

    Args:
        model: The model, for its data preprocessor.
        number: How many images, taken evenly from all.
        preprocess: Give pictures, uint8 RGB, for a file that prepares them itself.

    Raises:
        ExportError: If the config has no training data, or they are not there.
    """
    dataset = _dataset(cfg.get('train_dataloader'))
    like = _dataset(cfg.get('val_dataloader'))
    if dataset is None or like is None:
        raise ExportError(
            'int8 needs calibration images, but the config lacks train_dataloader or '
            'val_dataloader; give one that has both'
        )
    dataset.update(pipeline=like.pipeline, test_mode=True)
    with in_scope(cfg):
        try:
            images = build_dataset(dataset)
        except (OSError, ValueError) as error:
            raise ExportError(f'int8 needs calibration images: {line(error)}') from error
        for k in np.linspace(0, len(images) - 1, min(number, len(images))).astype(int):
            sample = images[int(k)]
            if preprocess:  # pipelines load BGR
                yield np.ascontiguousarray(sample['inputs'].numpy()[None, ::-1])
                continue
            batch = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
            yield model.data_preprocessor(batch, False)['inputs'].cpu().numpy()


def _dataset(dataloader: ConfigDict | None) -> ConfigDict | None:
    """A copy of the innermost dataset of a dataloader, without those that repeat or mix it."""
    found = [] if dataloader is None else [*nested(dataloader.dataset)]
    return ConfigDict(found[-1]).copy() if found else None
