"""Whether a stock model can be judged by its losses, as ``mmpse prune --how sensitivity`` does."""

import copy
import random
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from mmengine.runner import set_random_seed
from survey_inputs import loss_of
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from mmpse.openmmlab import compat
from mmpse.openmmlab.models.losses import batch_losses, label_loss
from mmpse.openmmlab.models.outputs import raw_outputs
from mmpse.openmmlab.models.sorting import sort_by
from mmpse.openmmlab.pruning.choosing import measure_sensitivity
from mmpse.openmmlab.pruning.subject import RATIOS
from mmpse.openmmlab.pruning.unseen import check_losses
from mmpse.slim import Reconstruction, as_subnet, cut_, selection

UNITS = 3  # whose sensitivity is measured


def check_judged_losses(model, data):
    """The losses of a model in eval mode are those of its training, and nothing is changed."""
    _give_statistics(model, data['inputs'])
    before = _state_of(model)
    losses = [float(batch_losses(model, [data])) for _ in range(2)]
    assert np.isfinite(losses[0]), f'the loss is {losses[0]}'
    assert losses[0] == losses[1], f'the loss is {losses[0]}, then {losses[1]}'
    changed = [key for key, value in _state_of(model).items() if not _equal(value, before[key])]
    assert not changed, f'changed: {changed}'
    label_loss(model, data).backward()
    left = _without_gradient(model)
    model.zero_grad()
    expected = _trained_loss(model, data)
    ignored = sorted(left - _without_gradient(model))
    model.zero_grad()
    model.eval()
    assert abs(losses[0] - expected) <= 1e-4 * abs(expected), (
        f'the loss is {losses[0]}, in training {expected}'
    )
    assert not ignored, f'ignored: {ignored}'


@torch.no_grad()
def _give_statistics(model, images):
    """Move the BatchNorms to the statistics of images: else random weights leave no signal."""
    norms = [m for m in model.modules() if getattr(m, 'running_mean', None) is not None]
    for norm in norms:
        norm.training, norm.momentum = True, 0.5  # of few pixels some have no variance
        if norm.weight is not None and not norm.weight.any():  # the last one of a residual block
            norm.weight.fill_(1.0)
    raw_outputs(model, images)
    model.eval()


def _trained_loss(model, data):
    """What a model loses in training, with nothing dropped and the statistics as they are."""
    state = copy.deepcopy(model.state_dict())
    model.train()
    for module in model.modules():
        drops = 'DropPath' in type(module).__name__ or isinstance(
            module, _DropoutNd | nn.MultiheadAttention
        )
        if drops or getattr(module, 'running_mean', None) is not None:
            module.training = False
    set_random_seed(0)
    with compat.training_ends():
        loss = loss_of(model, copy.deepcopy(data))
    loss.backward()
    model.load_state_dict(state)  # losses may have statistics of their own
    return float(loss.detach())


def _without_gradient(model):
    return {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}


def _state_of(model):
    """All that a loss must leave as it is, by name."""
    state = {f'buffer {key}': x.clone() for key, x in model.named_buffers()}
    state |= {f'parameter {key}': x.detach().clone() for key, x in model.named_parameters()}
    state |= {f'mode of {key}': module.training for key, module in model.named_modules()}
    state['random numbers of torch'] = torch.get_rng_state()
    state['random numbers of NumPy'] = np.random.get_state()[1].tolist()
    state['random numbers of Python'] = random.getstate()
    return state


def _equal(a, b):
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


def check_sensitivity(model, layout, data, subnet):
    """Channels are sorted, some units are judged, and a cut model is reconstructed and judged."""
    units = list(layout.units)
    judged = {*units[:: -(-len(units) // (UNITS - 1))], units[-1]}
    space = layout.space(RATIOS)
    check_losses(SimpleNamespace(model=model, layout=layout, space=space), data)
    with mock.patch.object(selection, 'STEPS', 16):  # wide units take most of the time
        sort_by(model, layout, 'selection', [data])
    reconstruction = Reconstruction(model, layout, data['inputs'], raw_outputs)
    few = layout.space(
        RATIOS, grids={unit: dict(ratios=[1.0]) for unit in units if unit not in judged}
    )
    found = measure_sensitivity(reconstruction, few, [data])
    whole = batch_losses(model, [data])
    for unit in judged:
        for width, loss in found[unit].items():  # nothing that was run before is used again
            widths = {**few.fullnet, unit: width}
            with reconstruction.absorbed(widths), as_subnet(model, layout, widths):
                plain = float(batch_losses(model, [data]) - whole)
            assert loss == plain, f'{unit} of {width} channels: {loss}, by itself {plain}'
    cut = cut_(copy.deepcopy(model), layout, subnet)
    loss = float(batch_losses(reconstruction.fit_(cut, subnet), [data]))
    assert np.isfinite(loss), f'the loss of the cut model is {loss}'
