"""int8 files: static quantisation by onnxruntime, ranges from images."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpse.errors import is_bug
from mmpse.files import check_writable, written

from .graph import ExportError, line
from .onnx import INPUTS, read_metadata

LAYERS = ('Conv', 'Gemm', 'MatMul')
# what is quantised beside layers, so that values stay int8 between them
BETWEEN = ('Add', 'Concat', 'GlobalAveragePool', 'MaxPool', 'ReduceMean', 'Relu', 'Resize')


def quantize(
    path: str | os.PathLike, out: str | os.PathLike, images: Iterable[np.ndarray]
) -> dict[str, int]:
    """Write an int8 file of an exported one.

    Weights are quantised per channel, activations by the smallest and the largest value on the
    images; the file keeps float inputs and outputs (QDQ). :func:`float_nodes` stay float32: eight
    bits are too few for scores and box deltas. Nothing is compared: evaluate the file
    (``evaluate_onnx``).

    Args:
        path: A file of ``export_onnx``.
        images: Calibration images ``(B, C, H, W)``, as the file takes them.

    Returns:
        How many ``images`` were used, and how many ``layers`` are ``int8`` and ``float32``.

    Raises:
        ExportError: If there are no images, or the file does not run on them.
    """
    import onnx  # these are optional requirements
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    about = read_metadata(path)
    check_writable(out)
    reader = _Reader(images)
    with tempfile.TemporaryDirectory() as folder, written(out) as (temporary,):
        folded = Path(folder, 'folded.onnx')  # normalisations in their convolutions
        quant_pre_process(str(path), str(folded), skip_symbolic_shape=True)
        graph = onnx.load(folded).graph
        kept = float_nodes(graph, about['raw'], INPUTS if about['preprocess'] else 'images')
        try:
            quantize_static(
                str(folded),
                str(temporary),
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=[*LAYERS, *BETWEEN],
                nodes_to_exclude=sorted(kept),
            )
        except ExportError:
            raise
        except Exception as error:  # onnxruntime's own kinds
            if is_bug(error):  # of what reads the images
                raise
            raise ExportError(f'{path} cannot be quantised: {line(error)}') from error
        result = onnx.load(temporary)
        layers = [node for node in graph.node if node.op_type in LAYERS]
        left = sum(node.name in kept for node in layers)
        counts = dict(images=reader.number, int8=len(layers) - left, float32=left)
        result.ClearField('metadata_props')
        result.metadata_props.extend(onnx.load(path).metadata_props)
        Path(temporary).write_bytes(result.SerializeToString())
    return counts


def float_nodes(graph: Any, raw: Iterable[str], source: str) -> set[str]:
    """Names of the nodes that stay float32.

    Args:
        raw: Names of the model's raw outputs: what follows from them stays, and so do the last
            layers before them and what is between.
        source: Name of the model's input: what comes before stays.
    """
    makers = {name: node for node in graph.node for name in node.output}

    def above(ends: Iterable[str], last: Sequence[str]) -> set[str]:
        """What makes the values, up to these kinds of nodes."""
        found, ends = set(), list(ends)
        while ends:
            node = makers.get(ends.pop())
            if node is not None and node.name not in found:
                found.add(node.name)
                ends.extend(node.input if node.op_type not in last else ())
        return found

    after, values = set(), set(raw)
    for node in graph.node:  # they are in order
        if values & set(node.input):
            after.add(node.name)
            values |= set(node.output)
    return above(raw, LAYERS) | above([source], ()) | after


class _Reader:
    """Images one by one, as onnxruntime reads them.

    Raises:
        ExportError: If there is none.
    """

    def __init__(self, images: Iterable[np.ndarray]) -> None:
        self.images: Iterator[np.ndarray] = iter(images)
        self.number = 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        if image is None:
            if self.number == 0:
                raise ExportError('int8 needs calibration images, got none; give some tens')
            return None
        self.number += 1
        return dict(images=image)
