"""Weights that show every mistake, and how what two networks compute is compared."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmpse.space import SearchSpace, Subnet


def subnets_of(space: SearchSpace, number: int) -> list[Subnet]:
    """The fullnet, the tinynet, and random subnets."""
    random = np.random.default_rng(0)
    widths = ([random.choice(unit.candidates) for unit in space.units] for _ in range(number - 2))
    return [space.fullnet, space.tinynet, *map(space.subnet, widths)]


@torch.no_grad()
def randomize_(model: nn.Module) -> nn.Module:
    """Exchange what is constant (norms, biases, layer scales) for random values of its kind."""
    for name, parameter in model.named_parameters():
        if parameter.numel() == 1 or bool((parameter == parameter.flatten()[0]).all()):
            if name.endswith('bias'):
                parameter.normal_(0, 0.3)
            else:
                parameter.uniform_(0.5, 1.5)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@contextmanager
def norms_in(model: nn.Module, training: bool) -> Iterator[None]:
    """BatchNorms in training or eval mode for the time of a ``with`` block, all else in eval."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        norm.train(training)
    yield
    for norm in norms:
        norm.eval()


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    assert ours.shape == theirs.shape
    if not theirs.numel():
        return 0.0
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-9))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Name of a parameter -> its gradient; zeros are as good as none."""
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {name: grad for name, grad in found.items() if grad.any()}


def assert_gradients(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Compare gradients; one whose true value is zero is rounding of the other ones."""
    largest = max(float(g.abs().max()) for g in theirs.values())
    for name in ours.keys() | theirs.keys():
        if name not in theirs or name not in ours:
            some = theirs[name] if name in theirs else ours[name]
            assert float(some.abs().max()) < 1e-11 * largest, name
            continue
        assert ours[name].shape == theirs[name].shape, name
        error = float((ours[name] - theirs[name]).abs().max())
        assert error < 1e-8 * float(theirs[name].abs().max()) + 1e-11 * largest, name
