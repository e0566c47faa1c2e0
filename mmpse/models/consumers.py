"""Which layers of a model read the backbone's features, found by watching marked features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from .slimmable import SlimmableBackbone

IMAGE_SIZE = 384  # of the watched image: large enough for SSD, and three times a power of two


class FitError(ValueError):
    """A model that reads the backbone's features in a way that cannot be fitted."""


@dataclass
class Consumer:
    """A layer that reads features of the backbone, among others perhaps.

    Attributes:
        layer: The layer.
        feature: For each of its input channels the feature it comes from, an index into the
            backbone's features; -1 if it comes from elsewhere.
        channel: For each input channel its number within that feature.
    """

    layer: nn.Module
    feature: Tensor
    channel: Tensor

    def kept(self, widths: Sequence[int]) -> Tensor:
        """Indices of the input channels that remain with features of these widths."""
        limit = torch.tensor([*widths, 0])[self.feature]  # the last item is that of -1
        return torch.nonzero((self.feature < 0) | (self.channel < limit)).flatten()


def find_consumers(
    model: nn.Module, backbone: SlimmableBackbone, widths: Sequence[int]
) -> dict[str, Consumer]:
    """Find the layers that read the backbone's features.

    The model runs once for each feature, which is filled with NaN while everything else is zero.
    Resizing, pooling, joining or pooling regions carries the NaNs from channel to channel; a layer
    that gets them is a consumer, and puts out zeros. A layer that works channel by channel (a
    depthwise convolution, a batch normalisation) is a consumer and passes them on. Layers compute
    nothing meanwhile: their channel numbers need not be right, and the pass is quick.

    Args:
        model: A detector, segmentor or classifier of OpenMMLab.
        backbone: Its backbone.
        widths: Channels of the backbone's features to be assumed.

    Returns:
        Name in ``model`` -> consumer, in the order of the forward.

    Raises:
        FitError: If a layer that is neither a convolution, linear nor channel by channel reads a
            feature, or one that gets something computed from a feature. The layer is named.
    """
    names = {module: name for name, module in model.named_modules()}
    inside = set(backbone.modules())
    seen: dict[str, Tensor] = {}  # the marked input channels of each layer in the present run

    def see(layer: nn.Module, x: Tensor, dim: int) -> None:
        if layer in inside:
            return
        name = names[layer]
        marked = x.isnan().movedim(dim, 0).flatten(1).any(1)
        if name in seen and not torch.equal(seen[name], marked):
            raise FitError(
                f'{name} ({type(layer).__name__}) reads features of the backbone and other inputs '
                'by the same weights, so that it cannot be fitted to the widths of each'
            )
        seen[name] = marked

    training = model.training
    model.eval()
    try:
        with torch.no_grad(), _watched(model, see):
            image = torch.zeros(1, 3, *_image_size(model))
            features = backbone(image)
            single = isinstance(features, Tensor)
            sizes = [f.shape[2:] for f in ([features] if single else features)]

            def run(marked: int, first: int = 0) -> dict[str, Tensor]:
                marks = [torch.zeros(1, w, *size) for w, size in zip(widths, sizes, strict=True)]
                marks[marked][:, first:] = torch.nan
                seen.clear()
                backbone.forward = lambda _: marks[0] if single else tuple(marks)
                _check(_run(model, image), model, marked)
                return dict(seen)

            try:
                # what is no unit's, such as the scores of VGG's classifier, keeps its width
                runs = [
                    run(k) if isinstance(unit, str) else {}
                    for k, unit in enumerate(backbone.feature_units())
                ]
                halves = [
                    run(k, width // 2)
                    if any(int(marked.sum()) > width for marked in runs[k].values())
                    else {}
                    for k, width in enumerate(widths)
                ]
            finally:
                backbone.__dict__.pop('forward', None)
    finally:
        model.train(training)

    consumers = {}
    for name in dict.fromkeys(name for run_ in runs for name, m in run_.items() if m.any()):
        layer = model.get_submodule(name)
        total = {len(run_[name]) for run_ in runs if name in run_}
        feature = torch.full((max(total),), -1)
        channel = torch.zeros_like(feature)
        for k, width in enumerate(widths):
            marked = runs[k].get(name)
            if marked is None or not marked.any():
                continue
            order = _order(marked, halves[k].get(name), width)
            if order is None or len(total) > 1 or (feature[marked] >= 0).any():
                raise FitError(
                    f'{name} ({type(layer).__name__}) reads something computed from feature {k} '
                    'of the backbone, not its channels, so that it cannot be fitted'
                )
            feature[marked], channel[marked] = k, order
        consumers[name] = Consumer(layer, feature, channel)
    return consumers


def _order(marked: Tensor, upper: Tensor | None, width: int) -> Tensor | None:
    """Which channel of a feature each of the marked inputs is; None if they are not its channels.

    Args:
        marked: Whether an input is marked if the whole feature is.
        upper: The same, if the feature's channels from ``width // 2`` on are.
        width: Channels of the feature.
    """
    times, rest = divmod(int(marked.sum()), width)
    if rest:
        return None
    channels = torch.arange(width)
    if times == 1:
        return channels
    for order in (channels.repeat(times), channels.repeat_interleave(times)):  # joined, flattened
        if torch.equal(upper[marked], order >= width // 2):
            return order
    return None


def is_per_channel(layer: nn.Module) -> bool:
    """Whether a layer keeps channels apart, as batch normalisation and depthwise convolutions."""
    if isinstance(layer, nn.Conv2d):
        return layer.groups == layer.in_channels == layer.out_channels > 1
    return isinstance(layer, _BatchNorm) or type(layer).__name__ == 'L2Norm'


def is_mixing(layer: nn.Module) -> bool:
    """Whether a layer's ``weight`` has its input channels in dimension 1."""
    if isinstance(layer, nn.Linear):
        return True
    weight = layer._parameters.get('weight')
    return (  # nn.Conv2d, and deformable convolutions that look like it
        weight is not None
        and weight.dim() == 4
        and getattr(layer, 'groups', None) == 1
        and not isinstance(layer, _ConvTransposeNd)
    )


@contextmanager
def _watched(model: nn.Module, see) -> Iterator[None]:
    """Replace the forward of every layer by one that reports its input and computes nothing."""

    def forward_of(layer: nn.Module):
        def linear(x, *_, **__):
            see(layer, x, -1)
            return x.new_zeros(*x.shape[:-1], layer.out_features)

        def conv(x, *_, **__):
            see(layer, x, 1)
            for child in layer.children():  # the offsets of a deformable convolution
                child(x)
            return x.new_zeros(len(x), layer.out_channels, *_size(layer, x))

        def per_channel(x, *_, **__):
            see(layer, x, 1)
            if not hasattr(layer, 'kernel_size'):
                return x.clone()
            return x.amax((2, 3), keepdim=True).expand(-1, -1, *_size(layer, x)).clone()

        def other(*args, **kwargs):
            if any(_has_nan(arg) for arg in (*args, *kwargs.values())):
                raise FitError(
                    f'{names[layer]} ({type(layer).__name__}) reads a feature of the backbone; '
                    'only convolutions, linear layers and batch normalisations can be fitted'
                )
            return type(layer).forward(layer, *args, **kwargs)

        if is_per_channel(layer):
            return per_channel
        if is_mixing(layer):
            return linear if isinstance(layer, nn.Linear) else conv
        return other

    names = {module: name for name, module in model.named_modules()}
    layers = [
        layer
        for layer in model.modules()
        if any(p is not None for p in layer._parameters.values())
        and (is_mixing(layer) or not any(True for _ in layer.children()))
    ]
    for layer in layers:
        layer.forward = forward_of(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _image_size(model: nn.Module) -> tuple[int, int]:
    """The image that re-identification pools to one pixel, by a window of fixed size; or any."""
    for module in model.modules():
        window = getattr(getattr(module, 'gap', None), 'kernel_size', None)
        if type(module).__name__ == 'GlobalAveragePooling' and window is not None:
            return tuple(32 * side for side in window)
    return IMAGE_SIZE, IMAGE_SIZE


def _size(layer: nn.Module, x: Tensor) -> Sequence[int]:
    """Height and width of a convolution's output."""
    return F.conv2d(
        torch.empty(1, 1, *x.shape[2:], device='meta'),
        torch.empty(1, 1, *layer.kernel_size, device='meta'),
        None,
        layer.stride,
        layer.padding,
        layer.dilation,
    ).shape[2:]


def _run(model: nn.Module, image: Tensor) -> Any:
    """Everything that may read a feature; just the neck if it leaves none of them."""
    if hasattr(model, 'track_head'):  # Mask2Former of videos: the image is a frame
        return model.track_head(model.backbone(image), [])
    features = model.extract_feat(image)
    if not _has_nan(features):
        return features
    size = tuple(image.shape[2:])
    meta = dict(
        img_shape=size,
        ori_shape=size,
        pad_shape=size,
        batch_input_shape=size,
        scale_factor=(1.0, 1.0),
    )
    if hasattr(model, 'encode_decode'):  # a segmentor
        outputs = [model.encode_decode(image, [meta])]
        heads = getattr(model, 'auxiliary_head', [])
        heads = heads if isinstance(heads, (list, nn.ModuleList)) else [heads]
        return outputs + [head.forward(features) for head in heads]
    if hasattr(model, 'with_bbox'):  # a detector
        from mmdet.structures import DetDataSample

        samples = [DetDataSample(metainfo=meta)]
        if not getattr(model, 'with_roi_head', False):
            return model(image, samples, mode='tensor')
        region = InstanceData(bboxes=torch.tensor([[0.0, 0.0, *size]]))
        outputs = [model.rpn_head(features)] if model.with_rpn else []
        return outputs + [model.roi_head.forward(features, [region], samples)]
    return model(image, mode='tensor')


def _has_nan(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() and bool(value.isnan().any())
    if isinstance(value, Mapping):
        return any(_has_nan(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_has_nan(item) for item in value)
    return False


def _check(outputs: Any, model: nn.Module, feature: int) -> None:
    if _has_nan(outputs):
        raise FitError(
            f'{type(model).__name__} reads feature {feature} of the backbone by an operation that '
            'belongs to no layer, so that it cannot be fitted'
        )
