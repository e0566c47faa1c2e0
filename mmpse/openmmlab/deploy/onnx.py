"""The one exporter: a model as an ONNX file that onnxruntime was seen to agree on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmpse.errors import is_bug
from mmpse.files import check_writable, written

from .agreement import Agreement
from .graph import ExportError, joined, line, to_onnx, where
from .network import Network, Raw, no_raw_outputs, padded_to, preprocessing
from .runtimes import FILES, check_runtime

TRACED = 512  # pixels that the sides are traced with at least: a feature of one pixel is a special
# case that would be written into the file
METADATA = 'mmpse'  # the entry of a file's metadata that lists those of this export
INPUTS = 'inputs'  # what the model gets, between its parts
DIVISORS = 32, 64, 128  # that are tried where a model does not take the sizes it is padded to
BAD = (torch.nn.modules.batchnorm._BatchNorm, nn.Dropout)  # that compute otherwise in training


class Exported(dict):
    """Name of every output -> its shape for one image of the given size."""

    dynamic: tuple[str, ...] = ()  # which of 'batch', 'height' and 'width' are free in the file
    fixed: str | None = None  # why height and width are not
    agreement: Mapping[str, Any] = {}  # what was compared, and how it differs


@torch.no_grad()
def export_onnx(
    model: nn.Module,
    out: str | os.PathLike,
    input_shape: Sequence[int],
    *,
    preprocess: bool = False,
    decode: bool = False,
    nms: bool = False,
    argmax: bool = False,
    metadata: Mapping[str, Any] | None = None,
    runtimes: Sequence[str] = ('onnxruntime',),
) -> Exported:
    """Write a model as ONNX, if runtimes predict from it what the model predicts.

    The input is ``images``, ``(B, C, H, W)``: float32 as the model's data preprocessor puts them
    out, or with ``preprocess`` uint8 RGB pictures. For the outputs see :class:`Raw`. The
    batch is free, and so are height and width unless ``fixed`` of the result says what stops it.

    Compared are one and two images, and one of another size where sizes are free, as
    docs/deployment.md says.

    Args:
        model: A classifier, single-stage detector, segmentor or any module, in eval mode.
        out: The ONNX file to write.
        input_shape: ``(C, H, W)``.
        preprocess: Put mean, std, channel order and padding into the file.
        decode: Boxes, scores and labels instead of a dense head's outputs.
        nms: With ``decode``, suppress boxes that overlap.
        argmax: The class of every pixel instead of a segmentor's logits.
        metadata: More to write beside ``classes``, ``mean``, ``std``, ``channel_order``,
            ``size_divisor`` and ``strides``, e.g. ``metric``; values are JSON in the file. It wins
            over what the model says.
        runtimes: Those that must agree: ``'onnxruntime'``, ``'openvino'``, ``'tensorrt'``.

    Raises:
        UserError: If a runtime is not installed.
        OSError: If the file cannot be written.
        ExportError: If the model cannot be exported so; the head or operator that stops it is
            named. Nothing is written then.
    """
    _check(model, input_shape)
    check_writable(out)
    for runtime in runtimes:
        check_runtime(runtime, FILES)
    divisor, reason = _sizes(model, input_shape)
    network = Network(
        model, preprocess=preprocess, decode=decode, nms=nms, argmax=argmax, divisor=divisor
    )
    images = _random(network, 2, input_shape)
    single = _forward(network, images[:1])
    agreement = Agreement(network, runtimes)
    try:
        if reason:
            raise ExportError(reason)
        proto = _whole(network, images, ('batch', 'height', 'width'))
        other = _other(input_shape, 1 if preprocess else divisor)
        agreement.check(proto, _random(network, 1, other))
    except ExportError as error:
        reason = str(error)
        proto = _whole(network, images, ('batch',))
    agreement.check(proto, images)
    agreement.check(proto, images[:1])
    about = {**describe(network), **(metadata or {})}
    for name, value in {**about, METADATA: list(about)}.items():
        proto.metadata_props.add(key=name, value=json.dumps(value))
    content = proto.SerializeToString()
    with written(out) as (temporary,):
        Path(temporary).write_bytes(content)
    result = Exported((name, tuple(value.shape)) for name, value in single.items())
    result.dynamic = ('batch',) if reason else ('batch', 'height', 'width')
    result.fixed, result.agreement = reason, agreement.found
    return result


def describe(network: Network) -> dict[str, Any]:
    """What a file says of itself: how images are prepared, classes, strides, the subnet."""
    model = network.model
    about = dict(
        kind=network.kind,
        preprocess=network.before is not None,
        outputs=list((network.after or network.raw).names),
        raw=network.raw.names,
        **{**(preprocessing(model) or {}), 'size_divisor': network.divisor},
    )
    meta = getattr(model, 'dataset_meta', None) or {}
    if meta.get('classes') is not None:
        about['classes'] = list(meta['classes'])
    if network.kind == 'detector':
        about['strides'] = [list(s) for s in model.bbox_head.prior_generator.strides]
        about['score_threshold'] = float((model.bbox_head.test_cfg or {}).get('score_thr', 0))
    return about


def fingerprint(widths: Mapping[str, int]) -> str:
    """Sixteen digits that tell subnets apart: of the SHA-256 of their widths as sorted JSON."""
    return hashlib.sha256(json.dumps(dict(widths), sort_keys=True).encode()).hexdigest()[:16]


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """What :func:`export_onnx` wrote into a file beside the network.

    Raises:
        ExportError: If the file is none of its.
    """
    import onnx  # an optional requirement

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise ExportError(f'cannot read {path} as ONNX: {line(error)}') from error
    found = next((e.value for e in model.metadata_props if e.key == METADATA), None)
    if found is None:
        raise ExportError(f'{path} is no file of this export: its metadata have no {METADATA!r}')
    return {
        entry.key: json.loads(entry.value)
        for entry in model.metadata_props
        if entry.key in json.loads(found)
    }


def _check(model: nn.Module, input_shape: Sequence[int]) -> None:
    if len(input_shape) != 3 or not all(isinstance(n, int) and n > 0 for n in input_shape):
        raise ExportError(
            f'input_shape is {tuple(input_shape)}, expected (channels, height, width) of one image'
        )
    training = [name for name, m in model.named_modules() if m.training and isinstance(m, BAD)]
    if training:
        raise ExportError(
            f'{type(model).__name__} is in training mode ({training[0]}); call model.eval() first'
        )


def _forward(network: Network, images: Tensor) -> dict[str, Tensor]:
    """The outputs of the network by name, computed by PyTorch."""
    inputs = images if network.before is None else network.before(images)
    try:
        outputs = network.raw(inputs)
    except Exception as error:  # a forward of another kind raises whatever it does
        if is_bug(error):
            raise
        if any(n % network.divisor for n in inputs.shape[-2:]):
            raise ExportError(
                f'{type(network.model).__name__} takes multiples of {network.divisor}, got '
                f'{tuple(inputs.shape)}; give such a size, or let the file pad (preprocess)'
            ) from error
        raise no_raw_outputs(network.model, inputs, error) from error
    if network.after is None:
        return dict(zip(network.raw.names, outputs, strict=True))
    return dict(zip(network.after.names, network.after(images, inputs, *outputs), strict=True))


def _whole(network: Network, images: Tensor, free: Sequence[str]) -> Any:
    """The ``onnx.ModelProto`` of all parts.

    Each is traced alone: sizes that follow from sizes that follow from others make PyTorch slow.
    """
    sized = 'height' in free
    inputs = images if network.before is None else network.before(images)
    outputs = dict(zip(network.raw.names, network.raw(inputs), strict=True))
    if sized:
        images, inputs = (_example(x, TRACED) for x in (images, inputs))
        outputs = {
            name: _example(x, TRACED // 8) if x.ndim == 4 else x for name, x in outputs.items()
        }
    parts = {}
    name = 'images'
    if network.before is not None:
        parts['before'] = to_onnx(network.before, dict(images=images), [INPUTS], free=free)
        name = INPUTS
    parts['model'] = to_onnx(
        network.raw, {name: inputs}, network.raw.names, free=free, model=network.model
    )
    if network.after is not None:
        if sized:  # smaller than what was padded: else cutting the padding off is no operation
            images = _example(images, TRACED, less=1)
        both = dict(images=images, inputs=inputs, **outputs)
        parts['after'] = to_onnx(
            network.after, both, network.after.names, free=free, model=network.model
        )
    whole = joined(parts)
    if network.before is None:  # then the images are what the model gets
        for node in whole.graph.node:
            node.input[:] = ['images' if name == INPUTS else name for name in node.input]
    return whole


def _bins(model: nn.Module) -> str | None:
    """The pooling to several bins in a model, if it has one: ONNX has it for one size only.

    Found before it is traced, which with sizes that are free takes PyTorch many minutes.
    """
    for name, module in model.named_modules():
        if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
            size = module.output_size
            if any(n not in (1, None) for n in (size if isinstance(size, tuple) else (size,))):
                return (
                    f'{name} ({type(module).__name__}): ONNX has no pooling of a feature of any '
                    f'size to {size} bins'
                )
    return None


def _random(network: Network, batch: int, shape: Sequence[int]) -> Tensor:
    """Images to compare on: noise, of the type that the network takes."""
    generator = torch.Generator().manual_seed(0)
    if network.before is not None:
        images = torch.randint(0, 256, (batch, *shape), dtype=torch.uint8, generator=generator)
    else:
        images = torch.randn(batch, *shape, generator=generator)
    return images.to(network.device)


def _sizes(model: nn.Module, input_shape: Sequence[int]) -> tuple[int, str | None]:
    """What height and width must be multiples of, and why the model takes one size alone, if so.

    Models may need more than their data preprocessor pads to, where the config's pipeline makes all
    images of one size.
    """
    declared, reason = padded_to(model), _bins(model)
    if reason:
        return declared, reason
    raw, like = Raw(model), next(model.parameters(), torch.empty(0))
    for divisor in (declared, *(n for n in DIVISORS if n > declared)):
        try:
            raw(like.new_zeros(1, *_other(input_shape, divisor)))
            return divisor, None
        except Exception as error:  # a forward raises whatever it does
            if is_bug(error):
                raise
            reason = reason or f'{where(error, model)}{line(error)}'
    return declared, reason


def _other(input_shape: Sequence[int], divisor: int) -> tuple[int, ...]:
    """A larger image size: odd multiples of the divisor, which are multiples of nothing else."""
    channels, *size = input_shape
    return channels, *(((n // divisor + k) | 1) * divisor for n, k in zip(size, (1, 3)))


def _example(x: Tensor, least: int, less: int = 0) -> Tensor:
    """Zeros of a larger size, a multiple of that of ``x``: only their shape is looked at."""
    height, width = (n * -(-least // n) for n in x.shape[-2:])
    width *= 1 + (width == height)  # so that nothing is taken for equal
    return x.new_zeros(2, x.shape[1], height - less, width - less)
