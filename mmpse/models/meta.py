"""Models without storage."""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode


class WeightsOnMeta(TorchFunctionMode):
    """A context in which modules are built with weights that have a shape but no storage.

    ``torch.device('meta')`` would also take the values from small tensors that constructors compute
    with, such as the drop path rates of mmpretrain's ResNet.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs['device'] = kwargs.get('device') or 'meta'
        return func(*args, **kwargs)
