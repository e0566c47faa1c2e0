"""Watching a forward: layers compute nothing, and carry marks (NaN) from channel to channel."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .layers import carriers_of, channel_dim, inner_layers, is_channelwise, layers_of

# what is told to an observer: name and layer (of a function: '', it and its arguments), input,
# output
See = Callable[[str, Any, Tensor, Tensor], None]
Place = tuple[str, Any]  # ('layer', name), ('resize', k), ('into' or 'out of', (module, k))
Note = Callable[[Place, Tensor, int], None]  # is told a place, a tensor there, its channels' dim


@contextmanager
def evaluating(model: nn.Module, training: bool = False) -> Iterator[None]:
    """All modules in eval mode for the time of a ``with`` block, or in training mode.

    Then each is in its own mode again.
    """
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@dataclass
class Forward:
    """A model that is watched, and how it is run.

    Args:
        images: An example of its input ``(1, C, H, W)``.
        parts: Names of modules whose inputs and outputs are watched, too.
        also: Runs next what only a training runs, whose parts are not watched.
    """

    model: nn.Module
    images: Tensor
    run: Callable[[Tensor], Any]
    parts: Sequence[str]
    also: Callable[[Tensor], Any] | None = None

    def __post_init__(self) -> None:
        self.layers = layers_of(self.model)
        self.carriers = carriers_of(self.model)

    def __call__(self, see: See, note: Note, images: int = 1) -> Any:
        """Run it on so many images, with layers that compute nothing, and return its outputs.

        Args:
            see: See :func:`stubbed`.
            note: Is told what goes into and out of parts and carriers.
        """
        batch = self.images.repeat(images, 1, 1, 1)
        with ExitStack() as stack:
            stack.enter_context(stubbed(self.model, see, self.layers))
            with ExitStack() as watched:
                for name in {*self.parts, *self.carriers}:
                    watched.enter_context(_boundaries(name, self.model.get_submodule(name), note))
                outputs = self.run(batch.clone())  # some write into them
            if self.also is None:
                return outputs
            stack.enter_context(evaluating(self.model, training=True))
            return outputs, self.also(batch)


@contextmanager
def _boundaries(name: str, module: nn.Module, note: Note) -> Iterator[None]:
    stock = module.forward

    def forward(*args, **kwargs) -> Any:
        noted('into', (args, kwargs))
        output = stock(*args, **kwargs)
        noted('out of', output)
        return output

    def noted(way: str, value: Any) -> None:
        for k, x in enumerate(tensors_in(value)):
            if x.dim() > 1:
                note((way, (name, k)), x, channel_dim(x))

    with exchanged(module, forward):
        yield


@contextmanager
def exchanged(module: nn.Module, forward: Callable) -> Iterator[None]:
    """Another forward for the time of a ``with`` block; hooks would miss those who call it."""
    before = vars(module).get('forward')  # a part may be a layer
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


@contextmanager
def stubbed(
    model: nn.Module, see: See, layers: Mapping[str, nn.Module] | None = None
) -> Iterator[None]:
    """Let every layer put out zeros of the right shape, and report what goes in and out.

    A layer that keeps channels apart passes NaNs on, channel by channel. Attention computes nothing
    either, and mixes all that it gets of an image. ``see`` may write NaNs into an output.
    ``layers``: :func:`layers_of` the model, if they are known.
    """
    layers = layers_of(model) if layers is None else layers
    attentions = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    for name, layer in layers.items():
        layer.forward = _stub(name, layer, see)
    for attention in attentions:
        attention.forward = _attention_stub(attention)
    try:
        with _Functions(see):
            yield
    finally:
        for layer in (*layers.values(), *attentions):
            del layer.forward


def _stub(name: str, layer: nn.Module, see: See) -> Callable[..., Tensor]:
    def linear(x: Tensor, *_, **__) -> Tensor:
        y = x.new_zeros(*x.shape[:-1], layer.out_features)
        see(name, layer, x, y)
        return y

    def conv(x: Tensor, *_, **__) -> Tensor:
        for child in inner_layers(layer):
            child(x)
        y = x.new_zeros(len(x), layer.out_channels, *output_size(layer, x))
        if layer.groups > 1 and layer.out_channels % layer.in_channels == 0:
            marks = x.flatten(2).amax(2) * 0  # NaN stays NaN
            y += marks.repeat_interleave(layer.out_channels // layer.in_channels, 1)[
                ..., None, None
            ]
        elif layer.groups > 1:
            y += x.amax((1, 2, 3), keepdim=True) * 0
        see(name, layer, x, y)
        return y

    def channelwise(x: Tensor, *_, **__) -> Tensor:
        y = x.clone()
        see(name, layer, x, y)
        return y

    if is_channelwise(layer):
        own = channelwise
    else:
        own = linear if isinstance(layer, nn.Linear) else conv

    def unwatched(*args, **kwargs) -> Tensor:
        with torch._C.DisableTorchFunction():  # what a stub and its observer do is no function
            return own(*args, **kwargs)

    return unwatched


def _attention_stub(layer: nn.MultiheadAttention) -> Callable[..., tuple[Tensor, Tensor]]:
    def forward(query: Tensor, key: Tensor, value: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        over = -1 if query.dim() == 2 else (1, 2) if layer.batch_first else (0, 2)
        marks = sum(x.sum(over, keepdim=True) for x in (query, key, value)) * 0  # NaN stays NaN
        return query.new_zeros(query.shape) + marks, marks

    return forward


class _Functions(TorchFunctionMode):
    """Reports what costs without being a layer: pooling to a size, resizing, LayerNorm."""

    def __init__(self, see: See) -> None:
        super().__init__()
        self._see = see

    def __torch_function__(self, func, types, args=(), kwargs=None):
        y = func(*args, **(kwargs or {}))
        if is_resize(func) or func is F.layer_norm:
            args = {**dict(zip(('input', 'output_size'), args)), **(kwargs or {})}
            self._see('', (func, args), args['input'], y)
        return y


def is_resize(function: Callable) -> bool:
    """Whether a function resizes images, or pools them to a size."""
    return function in (F.interpolate, F.adaptive_avg_pool2d)


def output_size(layer: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Height and width of a convolution's output."""
    known = _sizes.setdefault(layer, {})
    key = tuple(x.shape[2:]), layer.stride, layer.padding, layer.dilation
    if key not in known:
        known[key] = tuple(_measure_size(layer, x))
    return known[key]


_sizes: WeakKeyDictionary[nn.Module, dict] = WeakKeyDictionary()


def _measure_size(layer: nn.Module, x: Tensor) -> torch.Size:
    x = torch.empty(1, *x.shape[1:], device='meta', dtype=x.dtype)
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):  # some pad by their input's size
        tensors = layer._parameters, layer._buffers
        try:
            layer._parameters, layer._buffers = (
                {k: None if t is None else t.detach().to('meta') for k, t in own.items()}
                for own in tensors
            )
            return type(layer).forward(layer, x).shape[2:]
        finally:
            layer._parameters, layer._buffers = tensors
    kernel = torch.empty(1, 1, *layer.weight.shape[2:], device='meta', dtype=x.dtype)
    return F.conv2d(x[:, :1], kernel, None, layer.stride, layer.padding, layer.dilation).shape[2:]


def map_tensors(function: Callable[[int, Tensor], Any], value: Any) -> Any:
    """A nested value with every tensor exchanged for ``function(its number, it)``."""
    numbers = itertools.count()

    def walk(value: Any) -> Any:
        if isinstance(value, Tensor):
            return function(next(numbers), value)
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            items = [walk(item) for item in value]
            return type(value)(*items) if hasattr(value, '_fields') else type(value)(items)
        return value

    return walk(value)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of a nested value, in a fixed order."""
    found: list[Tensor] = []
    map_tensors(lambda _, x: found.append(x), value)
    return found
