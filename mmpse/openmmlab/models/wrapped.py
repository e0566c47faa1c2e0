"""The model that a runner trains, without what wraps it."""

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def model_of(runner: Runner) -> nn.Module:
    """The runner's model itself, of one that is trained by several processes too."""
    model = runner.model
    return model.module if is_model_wrapper(model) else model
