"""A model, what comes before it and what comes after it, with a name for every tensor."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .graph import ExportError, line, where

CHANNELS = 3  # of a picture


class Network:
    """What is exported, in up to three parts: ``before``, ``raw`` (the model itself), ``after``.

    Args:
        model: A model in eval mode.
        preprocess: Take pictures, ``(B, 3, H, W)`` uint8 RGB, and do what the model's data
            preprocessor does: channel order, mean, std, padding.
        decode: A single-stage detector gives ``boxes`` ``(B, K, 4)`` as x1, y1, x2, y2 in pixels of
            the input, ``scores`` ``(B, K)`` and ``labels`` ``(B, K)``: the candidates above its
            score threshold. The other places have score 0 and label -1.
        nms: With ``decode``, only those that non-maximum suppression leaves, best first.
        argmax: A segmentor gives ``labels`` ``(B, H, W)``, a class for every pixel of the input.
        divisor: What height and width of the model's input must be multiples of; ``None``: what its
            data preprocessor pads to.

    Raises:
        ExportError: If the model has no such head, or one that computes something of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        preprocess: bool = False,
        decode: bool = False,
        nms: bool = False,
        argmax: bool = False,
        divisor: int | None = None,
    ) -> None:
        self.model, self.kind = model, kind_of(model)
        self.device = next((p.device for p in model.parameters()), torch.device('cpu'))
        self.divisor = divisor or padded_to(model)
        self.before = Preprocess(model, self.divisor).to(self.device) if preprocess else None
        self.raw = Raw(model)
        self.after = None
        if nms and not decode:
            raise ExportError('nms needs decoded boxes: ask for decode too')
        if decode:
            if self.kind != 'detector':
                raise ExportError(
                    f'decode is for detectors with a dense head (bbox_head), got '
                    f'{type(model).__name__}; export it without'
                )
            from .detection import Decode  # needs mmdet

            self.after = Decode(model, nms).to(self.device)
        if argmax:
            if self.kind != 'segmentor':
                raise ExportError(
                    f'argmax is for segmentors (decode_head), got {type(model).__name__}; export '
                    'it without'
                )
            from .segmentation import Argmax  # needs mmseg

            self.after = Argmax(model).to(self.device)


class Raw(nn.Module):
    """A model's raw outputs as a tuple; :attr:`names` are their names, after the first forward.

    They are named by what they are: ``scores`` ``(B, classes)`` of a classifier, before the
    softmax; of a detector's dense head what its losses call them, by level: ``cls_scores_0``,
    ``bbox_preds_0``, ...; ``logits`` ``(B, classes, h, w)`` of a segmentor; ``output`` or
    ``feature_0``, ... of any other module.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.names = model, []
        self.train(model.training)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        named = self.named(self.model(images))
        self.names = list(named)
        return tuple(named.values())

    def named(self, outputs: Any) -> dict[str, Tensor]:
        """Name -> tensor of what the model gives."""
        kind = kind_of(self.model)
        if kind == 'detector' and isinstance(outputs, (tuple, list)):
            parameters = inspect.signature(type(self.model.bbox_head).loss_by_feat).parameters
            outputs = dict(zip(list(parameters)[1:], outputs))
        elif not isinstance(outputs, Mapping):
            name = 'output' if isinstance(outputs, Tensor) else 'feature'
            name = dict(classifier='scores', segmentor='logits').get(kind, name)
            outputs = {name: outputs}
        return dict(pair for name, value in outputs.items() for pair in flat(value, name))


def no_raw_outputs(model: nn.Module, images: Tensor, error: Exception) -> ExportError:
    """What to say of a model whose forward fails on images alone."""
    return ExportError(
        f'{type(model).__name__} gives no raw outputs for images of {tuple(images.shape)} alone '
        f'({where(error, model)}{line(error)}); classifiers, single-stage detectors and segmentors '
        'do; of others export the backbone (--backbone)'
    )


def kind_of(model: nn.Module) -> str:
    """``'classifier'``, ``'detector'``, ``'segmentor'``, or ``'module'`` for any other."""
    if _is(model, 'mmpretrain.models', 'BaseClassifier') and getattr(model, 'head', None):
        return 'classifier'
    if _is(
        getattr(model, 'bbox_head', None),
        'mmdet.models.dense_heads.base_dense_head',
        'BaseDenseHead',
    ):
        return 'detector'
    if _is(model, 'mmseg.models', 'BaseSegmentor') and getattr(model, 'decode_head', None):
        return 'segmentor'
    return 'module'


def _is(value: Any, module: str, name: str) -> bool:
    """Whether a value is of a class that lives in a module; not loaded, there is no such value."""
    loaded = getattr(sys.modules.get(module), name, None)
    return loaded is not None and isinstance(value, loaded)


def flat(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested tuples, with names.

    Raises:
        TypeError: If there is anything else in them.
    """
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (tuple, list)):
        for k, item in enumerate(value):
            yield from flat(item, f'{name}_{k}')
    else:
        raise TypeError(f'an output is a {type(value).__name__}')


class Preprocess(nn.Module):
    """From pictures ``(B, 3, H, W)``, uint8 RGB, to what the model takes, as its data preprocessor.

    OpenMMLab's pipelines load pictures as BGR: a data preprocessor that does not turn the channels
    round belongs to a model that wants BGR.

    Args:
        divisor: Pictures are padded, right and below, to multiples of it.

    Raises:
        ExportError: If the model has no data preprocessor, or one for other than three channels.
    """

    def __init__(self, model: nn.Module, divisor: int) -> None:
        super().__init__()
        how = preprocessing(model)
        if how is None:
            raise ExportError(
                f'{type(model).__name__} has no data_preprocessor to put into the file; export it '
                'without preprocess'
            )
        self.bgr, self.pad_value = how['channel_order'] == 'BGR', how['pad_value']
        self.divisor = divisor
        if how['mean'] is not None:
            if len(how['mean']) not in (1, CHANNELS):
                raise ExportError(
                    f'preprocess is for pictures of {CHANNELS} channels, the data_preprocessor of '
                    f'{type(model).__name__} has a mean of {len(how["mean"])}; export it without'
                )
            for name in ('mean', 'std'):
                self.register_buffer(name, torch.tensor(how[name]).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = images.float()
        if self.bgr:
            x = x[:, [2, 1, 0]]
        if hasattr(self, 'mean'):
            x = (x - self.mean) / self.std
        if self.divisor > 1:
            height, width = (-size % self.divisor for size in images.shape[-2:])
            x = F.pad(x, (0, width, 0, height), value=self.pad_value)
        return x


def padded_to(model: nn.Module) -> int:
    """The number to whose multiples a model's data preprocessor pads when it tests."""
    return (preprocessing(model) or {}).get('size_divisor', 1)


def preprocessing(model: nn.Module) -> dict[str, Any] | None:
    """What a model's data preprocessor does to a picture when it tests; ``None`` if it has none.

    ``mean`` and ``std`` of pixels from 0 to 255, in ``channel_order`` (``None``: not normalised);
    then the picture is padded with ``pad_value``, right and below, to multiples of
    ``size_divisor``.
    """
    own = getattr(model, 'data_preprocessor', None)
    if not hasattr(own, '_enable_normalize'):  # the base class, which does nothing to pictures
        return None
    rgb = own.to_rgb if hasattr(own, 'to_rgb') else own._channel_conversion
    divisor, pad_value = own.pad_size_divisor, getattr(own, 'pad_value', 0)
    if hasattr(own, 'pad_val'):  # mmseg's, which pads in tests only if test_cfg says so
        divisor, pad_value = (own.test_cfg or {}).get('size_divisor') or 1, own.pad_val
    statistics = dict(mean=None, std=None)
    if own._enable_normalize:
        statistics = {name: getattr(own, name).flatten().tolist() for name in statistics}
    return dict(
        statistics,
        channel_order='RGB' if rgb else 'BGR',
        size_divisor=int(divisor),
        pad_value=float(pad_value),
    )
