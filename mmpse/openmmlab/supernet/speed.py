"""How a training runs on its device: memory layout, precision, cuDNN's tuning."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner, autocast
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmpse.registry import HOOKS, OPTIM_WRAPPERS
from mmpse.slim.watch import map_tensors


def to_channels_last(model: nn.Module) -> None:
    """Lay a model's weights out as channels_last, in place; activations follow.

    The operators of mmcv (RoIAlign, deformable convolutions, ...) take their tensors for contiguous
    ones, and read others wrongly without an error. So they get contiguous ones.
    """
    model.to(memory_format=torch.channels_last)
    for module in model.modules():
        if any(kind.__module__.startswith('mmcv.ops.') for kind in type(module).__mro__):
            module.to(memory_format=torch.contiguous_format)
            module.register_forward_pre_hook(_contiguous, with_kwargs=True)


def _contiguous(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
    return map_tensors(lambda _, x: x.contiguous(), (args, kwargs))


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Lay the model's weights out as channels_last; activations follow.

    The same network, to rounding. A float32 step takes 0.5 to 0.9 of the time on a CPU, by
    network; on GPUs it gains with mixed precision.
    """

    def before_run(self, runner: Runner) -> None:
        if not isinstance(runner.model, DistributedDataParallel):
            to_channels_last(runner.model)
            return
        # the buckets of gradients have the strides that weights had when the model was wrapped
        module = runner.model = runner.model.module
        to_channels_last(module)
        runner.model = runner.wrap_model(runner.cfg.get('model_wrapper_cfg'), module)


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16, on a CPU or a GPU.

    MMEngine's ``AmpOptimWrapper`` refuses a CPU, since it scales losses, as float16 needs.
    The arguments are those of ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield


def stop_tuning(runner: Runner, why: str) -> None:
    """Switch ``cudnn_benchmark`` off, with a line in the log: it tunes every new shape anew.

    Many configs have it on, mmseg's for instance, for models of one shape.
    """
    if torch.backends.cudnn.benchmark:
        torch.backends.cudnn.benchmark = False
        runner.logger.info(
            f'env_cfg.cudnn_benchmark is switched off: {why}, and cuDNN would tune convolutions '
            'for every new shape.'
        )
