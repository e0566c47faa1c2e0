"""Predicted latency: a table of layers, measured once on a device."""

from __future__ import annotations

import copy
import json
import logging
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.cnn import ConvModule
from mmengine.device import get_device
from mmengine.logging import print_log
from rich.progress import track
from torch import nn

from mmpse.differences import differences
from mmpse.files import write_json
from mmpse.registry import MODELS
from mmpse.resources.busy import busy_sentence
from mmpse.space import SearchSpace, SpreadSampler, Subnet, TableCost

from .cost import backbone_costs
from .fit import with_subnet
from .latency import device_name, measure_latencies, prepared
from .meta import WeightsOnMeta
from .slimmable import Layer, SlimmableBackbone, find_backbone

SCHEMA = 'mmpse.latency/1'
WHOLE = 8  # whole subnets that the sum over layers is fitted to


class LatencyError(ValueError):
    """A latency table that is damaged, unfinished, or of something else."""


class LatencyTable:
    """Latency of a model's subnets from a table of its layers.

    A convolution with its normalisation and activation is measured at a grid of input and output
    widths, once for all layers of the same geometry; between the grid's points the latency is
    interpolated linearly in both. A whole model takes longer than the sum of its convolutions, so
    that ``latency = constant + scale * sum``, fitted to a few whole subnets. Source: this project.

    Args:
        model: Config of a model with a slimmable backbone.
        input_shape: Shape ``(C, H, W)`` of one image.
        path: The table's file, made by :meth:`build`.
        device: Name of the device that the table is of, if not this one.

    Raises:
        LatencyError: If the file is damaged, or of another device, model or input shape; the
            message names the difference.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        input_shape: Sequence[int],
        path: str | os.PathLike,
        device: str | None = None,
    ) -> None:
        self.model, self.input_shape, self.path = model, tuple(input_shape), Path(path)
        with WeightsOnMeta():
            supernet = MODELS.build(with_subnet(model, None))
        self.backbone = find_backbone(supernet)
        self.space = self.backbone.search_space
        self.geometries = geometries(self.backbone, input_shape)
        self._flops = backbone_costs(self.backbone, input_shape)['flops']
        here = dict(threads=torch.get_num_threads(), torch=torch.__version__)
        self.identity = dict(
            device=device or device_name(get_device()),
            **(here if device is None else {}),  # of another device they cannot be known
            input_shape=list(input_shape),
            model={
                name: type(module).__name__
                for name, module in [('', supernet), *supernet.named_children()]
                if name != 'data_preprocessor'  # it takes no part
            },
            backbone=self.space.backbone,
        )
        self.content: dict[str, Any] = dict(schema=SCHEMA, identity=self.identity, layers={})
        if self.path.exists():
            self.content = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding='utf-8'))
            if content['schema'] != SCHEMA:
                raise ValueError(f'its schema is {content["schema"]!r}, expected {SCHEMA!r}')
            stored, _ = content['identity'], content['layers']
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LatencyError(
                f'the latency table {self.path} cannot be read ({error!r}); restore it, or delete '
                'it and build it anew with tools/latency_table.py'
            ) from error
        here = json.loads(json.dumps(self.identity))
        wrong = differences({key: stored[key] for key in here if key in stored}, here)
        if wrong:
            raise LatencyError(
                f'the latency table {self.path} is of something else ({wrong}); build '
                'another one with tools/latency_table.py CONFIG -o OTHER.json. To search here for '
                'another device, set latency_device to its name in the table'
            )
        return content

    def _save(self) -> None:
        write_json(self.path, self.content)

    def build(
        self, points: int = 6, rounds: int = 20, batch: int = 1, runtime: str = 'eager'
    ) -> None:
        """Measure what the file lacks; it is written after every geometry.

        Args:
            points: Widths of a unit's grid.
            rounds: Times that everything is run, after 5 that warm up; medians count. How busy the
                machine was meanwhile is kept as ``busy``; from 1.3 on, a warning says so.
            batch: Images per forward.
            runtime: See :func:`mmpse.models.latency.prepared`.

        Raises:
            LatencyError: If the file was begun with other arguments.
        """
        how = dict(points=points, rounds=rounds, batch=batch, runtime=runtime)
        if self.content.setdefault('how', how) != how:
            raise LatencyError(
                f'the latency table {self.path} was begun with {self.content["how"]}, got {how}; '
                'go on with those, or choose another file'
            )
        todo = [key for key in self.geometries if key not in self.content['layers']]
        for key in track(todo, description='layers', transient=True):
            self.content['layers'][key] = self._measure_layers(*self.geometries[key])
            self._save()
        if 'whole' not in self.content:
            rng = np.random.default_rng(0)
            ends = self.space.array([self.space.tinynet, self.space.fullnet])
            drawn = SpreadSampler(self.space, self._flops).sample(rng, WHOLE - len(ends))
            widths = np.concatenate([ends, drawn])
            measured = self._measure(widths, 'whole subnets')
            layers = self._sum_of_layers()(widths)
            # the least relative error: constant / measured + scale * layers / measured = 1
            terms = np.stack([np.ones(WHOLE), layers], axis=1) / measured[:, None]
            constant, scale = np.linalg.lstsq(terms, np.ones(WHOLE), rcond=None)[0]
            self.content['whole'] = dict(
                constant=constant,
                scale=scale,
                layers=layers.tolist(),
                measured=measured.round(1).tolist(),
            )
            self._save()
        if sentence := busy_sentence(self.content.get('busy', 1.0)):
            print_log(f'{self.path}: {sentence}', 'current', logging.WARNING)

    def cost(self) -> TableCost:
        """Latency in microseconds as a function of the widths.

        Raises:
            LatencyError: If the table is not finished.
        """
        if 'whole' not in self.content:
            raise LatencyError(
                f'the latency table {self.path} is '
                f'{"not finished" if self.content["layers"] else "missing"}; build it on the '
                f'device that the subnet is for: tools/latency_table.py CONFIG -o {self.path}'
            )
        return self._sum_of_layers(
            self.content['whole']['constant'], self.content['whole']['scale']
        )

    def check(self, count: int) -> dict[str, Any]:
        """Compare predictions with measurements of subnets that the table was not fitted to.

        Args:
            count: Number of subnets, spread evenly over the FLOPs of the space.

        Returns:
            Median and worst relative error, both latencies of every subnet in microseconds, and
            the ``drift``: how much longer tinynet and fullnet take now than when the table was
            built. It is noted in the file as well.
        """
        cost = self.cost()
        ends = self.space.array([self.space.tinynet, self.space.fullnet])
        drawn = SpreadSampler(self.space, self._flops).sample(np.random.default_rng(1), count)
        times = self._measure(np.concatenate([ends, drawn]), 'held-out subnets')
        measured, predicted = times[len(ends) :], cost(drawn)
        error = np.abs(predicted / measured - 1)
        self.content['check'] = dict(
            median_error=float(np.median(error)),
            worst_error=float(error.max()),
            drift=float(np.mean(times[: len(ends)] / self.content['whole']['measured'][:2]) - 1),
            predicted=predicted.tolist(),
            measured=measured.round(1).tolist(),
        )
        self._save()
        return self.content['check']

    def _sum_of_layers(self, constant: float = 0.0, scale: float = 1.0) -> TableCost:
        cost = TableCost(self.space, constant)
        unit = {name: u for u, name in enumerate(self.space.names)}
        for key, (_, layers) in self.geometries.items():
            entry = self.content['layers'][key]
            for layer in layers:
                sides = [  # (unit, measured widths) of what varies
                    (unit[name], entry[side])
                    for name, side in ((layer.outputs, 'outputs'), (layer.inputs, 'inputs'))
                    if entry[side] is not None
                ]
                table = scale * np.array(entry['microseconds'])
                for u, widths in sides:
                    table = along(table, widths, cost.candidates[u]).T
                cost.add(table.T, *(u for u, _ in sides))
        return cost

    def _measure_layers(self, size: Sequence[int], layers: Sequence[Layer]) -> dict[str, Any]:
        """Latency of one geometry at a grid of widths."""
        points, layer = self.content['how']['points'], layers[0]
        conv = self.backbone.get_submodule(layer.conv)
        inputs = outputs = None  # where they vary
        if layer.outputs is not None:
            outputs = grid(self.space, {layer.outputs for layer in layers}, points)
        if layer.inputs is not None and (outputs is None or conv.groups == 1):
            inputs = grid(self.space, {layer.inputs for layer in layers}, points)
        calls = {}
        for o in outputs or [None]:
            for i in inputs or [o if layer.inputs else conv.in_channels]:
                calls[i, o] = self._prepared(layer_alone(self.backbone, layer, i, o), (i, *size))
        median = self._medians(calls)
        if inputs is None or outputs is None:
            microseconds = list(median.values())
        else:
            microseconds = [[median[i, o] for o in outputs] for i in inputs]
        return dict(inputs=inputs, outputs=outputs, microseconds=microseconds)

    def _measure(self, widths: np.ndarray, what: str) -> np.ndarray:
        """Microseconds ``(subnets,)`` that whole subnets take."""
        calls = {}
        for row in map(tuple, widths.tolist()):
            calls[row] = self._prepared(self._static(self.space.subnet(row)), self.input_shape)
        median = self._medians(calls, lambda rounds: track(rounds, what, transient=True))
        return np.array([median[row] for row in map(tuple, widths.tolist())])

    def _medians(self, calls: Mapping, track: Callable = iter) -> dict[Any, float]:
        times = measure_latencies(calls, self.content['how']['rounds'], track=track)
        self.content['busy'] = max(self.content.get('busy', 1.0), round(times.busy, 2))
        return {name: round(1e6 * statistics.median(values), 1) for name, values in times.items()}

    def _prepared(self, model: nn.Module, shape: Sequence[int]) -> Callable[[], Any]:
        x = torch.randn(self.content['how']['batch'], *shape, device=get_device())
        model.eval()
        return prepared(model, x, self.content['how']['runtime'])

    def _static(self, subnet: Subnet) -> nn.Module:
        return MODELS.build(with_subnet(self.model, subnet)).to(get_device())


def geometries(
    backbone: SlimmableBackbone, input_shape: Sequence[int]
) -> dict[str, tuple[tuple[int, ...], list[Layer]]]:
    """Layers that differ in nothing but their widths.

    Fully connected layers of fixed widths are none of them.

    Returns:
        Description of the geometry -> size of its input ``(H, W)``, and its layers.
    """
    twin = copy.deepcopy(backbone).to('meta')
    twin.eval()
    sizes: dict[str, tuple[int, ...]] = {}
    layers = [layer for layer in backbone.layers_of_units if layer.inputs or layer.outputs]
    for layer in layers:
        twin.get_submodule(layer.conv).register_forward_pre_hook(
            lambda _, args, name=layer.conv: sizes.update({name: tuple(args[0].shape[2:])})
        )
    twin(torch.empty(1, *input_shape, device='meta'))
    found: dict[str, tuple[tuple[int, ...], list[Layer]]] = {}
    for layer in layers:
        conv, activation = twin.get_submodule(layer.conv), activation_of(twin, layer)
        if isinstance(conv, nn.Linear):  # it reads a flattened feature
            positions = conv.in_features // backbone.search_space.fullnet[layer.inputs]
            key = f'linear, {positions} inputs a channel, {conv.out_features} outputs'
            found.setdefault(key, ((positions,), []))[1].append(layer)
            continue
        kind = 'depthwise' if conv.groups > 1 else 'image' if layer.inputs is None else 'conv'
        key = (
            f'{kind} {"x".join(map(str, conv.kernel_size))}, stride {conv.stride[0]}, dilation '
            f'{conv.dilation[0]}, input {"x".join(map(str, sizes[layer.conv]))}, '
            f'{"no norm" if layer.norm is None else "norm"}, '
            f'{"no activation" if activation is None else type(activation).__name__}'
        )
        found.setdefault(key, (sizes[layer.conv], []))[1].append(layer)
    return found


def activation_of(backbone: nn.Module, layer: Layer) -> nn.Module | None:
    """The activation, if it belongs to the layer and not to the block around."""
    block = backbone.get_submodule(layer.conv.rpartition('.')[0])
    return block.activate if isinstance(block, ConvModule) and block.with_activation else None


def layer_alone(backbone: nn.Module, layer: Layer, inputs: int, outputs: int | None) -> nn.Module:
    """A layer with its normalisation and activation at any width, with new weights."""
    conv, activation = backbone.get_submodule(layer.conv), activation_of(backbone, layer)
    if isinstance(conv, nn.Linear):
        positions = conv.in_features // backbone.search_space.fullnet[layer.inputs]
        linear = nn.Linear(inputs * positions, conv.out_features, conv.bias is not None)
        return nn.Sequential(nn.Flatten(), linear).to(get_device())
    module = nn.Sequential(
        nn.Conv2d(
            inputs,
            outputs,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            groups=outputs if conv.groups > 1 else 1,
            bias=conv.bias is not None,
        )
    )
    if layer.norm is not None:
        module.append(nn.BatchNorm2d(outputs))
    if activation is not None:
        module.append(copy.deepcopy(activation))
    return module.to(get_device())


def grid(space: SearchSpace, units: set[str], points: int) -> list[int]:
    """At most ``points`` of the units' candidates, from the least to the largest, evenly spaced on
    a logarithmic scale."""
    of_units = (unit.candidates for unit in space.units if unit.name in units)
    widths = np.array(sorted(set().union(*of_units)))
    wanted = np.geomspace(widths[0], widths[-1], points)
    return sorted({int(widths[np.abs(widths - width).argmin()]) for width in wanted})


def along(table: np.ndarray, points: Sequence[int], widths: np.ndarray) -> np.ndarray:
    """``table`` interpolated linearly along its last dimension, from ``points`` to ``widths``."""
    return np.apply_along_axis(lambda row: np.interp(widths, points, row), -1, table)
