"""Backbones for plain PyTorch, checked; models are exported by :mod:`mmpse.deploy`."""

from __future__ import annotations

import inspect
import json
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmpse.deploy import ExportError
from mmpse.deploy.agreement import compare
from mmpse.deploy.network import Raw
from mmpse.files import written
from mmpse.models import SliceError
from mmpse.openmmlab.checkpoints.loading import read_checkpoint, weights_in
from mmpse.openmmlab.configs.files import build_model, load_config
from mmpse.openmmlab.supernet.checkpoint import check_statistics

from .plain import PlainBackbone

SCHEMA = 'mmpse.backbone/1'


def load_model(config: str, checkpoint: str) -> nn.Module:
    """The model of a config with all its weights from a checkpoint, in eval mode.

    Raises:
        ConfigError: If the config cannot be read.
        CheckpointError: If the checkpoint cannot be read.
        ExportError: If the checkpoint is not one of this model, or a supernet's.
    """
    model = build_model(load_config(config))
    content = read_checkpoint(checkpoint)
    try:
        check_statistics(model, content, checkpoint)
    except ValueError as error:
        raise ExportError(str(error)) from error
    try:
        found = model.load_state_dict(weights_in(content, checkpoint)[0], strict=False)
    except (SliceError, RuntimeError) as error:
        raise ExportError(f'{checkpoint} is not a checkpoint of {config}: {error}') from error
    missing, left = found.missing_keys, found.unexpected_keys
    if missing or left:
        raise ExportError(
            f'{checkpoint} is not a checkpoint of {config}: {len(missing)} weights are missing '
            f'({", ".join(missing[:3])}), {len(left)} have no place in it ({", ".join(left[:3])}); '
            'give the checkpoint that was trained with this config'
        )
    meta = content.get('meta') or {}
    model.dataset_meta = meta.get('dataset_meta')  # the names of the classes
    return model.eval()


def backbone_of(model: nn.Module) -> nn.Module:
    """The backbone of a model.

    Raises:
        ExportError: If it has none.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, nn.Module):
        raise ExportError(
            f'{type(model).__name__} has no backbone; give the config of a classifier, detector or '
            'segmentor'
        )
    return backbone


def export_plain(
    backbone: nn.Module, out: str | os.PathLike, input_shape: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Write a backbone as a JSON file of its layers and, beside it, a ``.pth`` of its weights.

    :class:`PlainBackbone` reads them; it needs PyTorch only. The names of the weights stay.

    Args:
        backbone: The backbone, in eval mode.
        out: The JSON file to write.
        input_shape: ``(C, H, W)`` of the image that both are compared on; others work as well.

    Returns:
        Name of every feature -> its shape for one image.

    Raises:
        ExportError: If the backbone has other layers than those of ``torch.nn``, operations that
            are not sums, or comes out differently.
    """
    out = Path(out)
    x = _images(1, input_shape)
    expected = _outputs(backbone, x)
    network = describe(backbone)
    with written(out, out.with_suffix('.pth')) as (network_file, weights_file):
        network_file.write_text(_lines(network), encoding='utf-8')
        plain = PlainBackbone(network_file).eval()
        state = backbone.state_dict()
        torch.save({key: state[key] for key in plain.state_dict()}, weights_file)
        plain.load_state_dict(torch.load(weights_file, weights_only=True))
        compare(expected, _outputs(plain, x))
    return {name: tuple(value.shape) for name, value in expected.items()}


def describe(backbone: nn.Module) -> dict[str, Any]:
    """A backbone as data: its layers in the order of the forward.

    A layer has ``name``, ``type`` (a class of ``torch.nn``), ``arguments`` and ``inputs``, numbers
    of values: 0 are the images, k is what the k-th layer puts out. Several inputs are added.

    Raises:
        ExportError: If it has other layers or operations.
    """

    class Tracer(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return not any(True for _ in module.children())

    try:
        graph = Tracer().trace(backbone)
    except Exception as error:  # a forward may do whatever it likes with what is traced
        raise ExportError(
            f'cannot follow the forward of {type(backbone).__name__}: {error}'
        ) from error
    layers: list[dict[str, Any]] = []
    number: dict[fx.Node, int] = {}
    features: list[int] = []
    for node in graph.nodes:
        inputs = [number[n] for n in node.all_input_nodes]
        if node.op == 'placeholder':
            number[node] = 0
            continue
        if node.op == 'output':
            outputs = node.args[0]
            outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
            features = [number[n] for n in outputs]
            continue
        if node.op == 'call_module':
            layer = _layer(node.target, backbone.get_submodule(node.target))
        elif node.op == 'call_function' and node.target in (operator.add, operator.iadd, torch.add):
            layer = dict(name=f'sum{len(layers) + 1}', type='Identity', arguments={})
        else:
            raise ExportError(
                f'{type(backbone).__name__} does {node.format_node()}; only layers and sums can be '
                'written as plain layers: export it as ONNX'
            )
        layers.append(dict(layer, inputs=inputs))
        number[node] = len(layers)
    subnet = getattr(backbone, 'subnet', None)
    return dict(
        schema=SCHEMA,
        subnet=None if subnet is None else subnet.to_dict(),
        features=features,
        layers=layers,
    )


def _layer(name: str, module: nn.Module) -> dict[str, Any]:
    """A layer as data."""
    kinds = [kind for kind in type(module).__mro__ if getattr(nn, kind.__name__, None) is kind]
    if isinstance(module, _BatchNorm):  # a synchronised one, for instance
        kinds = [nn.BatchNorm2d]
    if kinds[0] is nn.Module:
        raise ExportError(
            f'{name} is a {type(module).__name__}, which torch.nn does not have: export the '
            'backbone as ONNX'
        )
    arguments = {
        key: getattr(module, key)
        for key in inspect.signature(kinds[0]).parameters
        if hasattr(module, key) and key != 'inplace'  # values may be read again
    }
    if 'bias' in arguments:
        arguments['bias'] = arguments['bias'] is not None
    return dict(name=name, type=kinds[0].__name__, arguments=arguments)


def _lines(network: Mapping[str, Any]) -> str:
    """JSON with one layer a line."""
    layers = ',\n'.join(f'  {json.dumps(layer)}' for layer in network['layers'])
    rest = json.dumps({k: v for k, v in network.items() if k != 'layers'})
    return f'{rest[:-1]}, "layers": [\n{layers}\n]}}\n'


def _images(batch: int, shape: Sequence[int]) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Name -> feature of a backbone."""
    raw = Raw(model)
    features = raw(x)
    return dict(zip(raw.names, features, strict=True))
