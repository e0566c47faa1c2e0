"""BatchNorms folded into the convolutions before them, for a faster forward in evaluation."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from .watch import exchanged, tensors_in

FoldablePair = tuple[nn.Conv2d, _BatchNorm]


def foldable(model: nn.Module, run: Callable[[], Any]) -> list[FoldablePair]:
    """The convolutions whose output goes to one BatchNorm and nowhere else, each with it.

    Args:
        run: Runs the model once; it is watched.
    """
    made: MutableMapping[Tensor, nn.Conv2d] = WeakTensorKeyDictionary()
    calls, reads, joined = Counter(), Counter(), Counter()

    def after_conv(conv: nn.Conv2d, _: tuple, y: Tensor) -> None:
        calls[conv] += 1
        made[y] = conv

    def before_norm(norm: _BatchNorm, args: tuple) -> None:
        calls[norm] += 1
        if args and args[0] in made:
            joined[made[args[0]], norm] += 1

    with ExitStack() as stack:
        for module in model.modules():
            # others of their kind may compute something else, or compute their weight
            if type(module) is nn.Conv2d and 'weight' in module._parameters:
                handle = module.register_forward_hook(after_conv)
            elif isinstance(module, _BatchNorm) and type(module).forward is _BatchNorm.forward:
                handle = module.register_forward_pre_hook(before_norm)
            else:
                continue
            stack.callback(handle.remove)
        stack.enter_context(_Reads(made, reads))
        run()
    return [
        (conv, norm)
        for (conv, norm), times in joined.items()
        if times == calls[conv] == reads[conv] == calls[norm] and norm.track_running_stats
    ]


class _Reads(TorchDispatchMode):
    """Counts the operators that read the outputs of each convolution."""

    def __init__(self, made: MutableMapping[Tensor, nn.Conv2d], reads: Counter) -> None:
        super().__init__()
        self._made, self._reads = made, reads

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for x in tensors_in((args, kwargs or {})):
            if x in self._made:
                self._reads[self._made[x]] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def folded(pairs: Iterable[FoldablePair]) -> Iterator[None]:
    """For the time of a ``with`` block convolutions do what the BatchNorms after them would.

    Outputs are the same to rounding. It is for models in evaluation; what the layers hold when the
    block begins is folded.
    """
    with ExitStack() as stack:
        for conv, norm in pairs:
            stack.enter_context(_folded(conv, norm))
        yield


@contextmanager
def _folded(conv: nn.Conv2d, norm: _BatchNorm) -> Iterator[None]:
    before = dict(conv._parameters)
    weight, bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    conv._parameters.update(weight=weight, bias=bias)
    try:
        with exchanged(norm, lambda x: x):
            yield
    finally:
        conv._parameters.update(before)
