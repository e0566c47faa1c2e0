"""The guard finds the layer where executions part, and lets sound models pass."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmpse.slim import GuardError, check, check_cut, find_units

IMAGES = torch.zeros(1, 3, 16, 16)


def chain(middle):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), middle, nn.ReLU(), nn.Conv2d(16, 4, 1)
    )


class CountsChannels(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) / x.new_tensor(16 * (x.shape[1] == 16))


class CountsImages(nn.Module):
    def forward(self, x):
        return x * len(x)


def found(model):
    layout = find_units(model, IMAGES, parts=[''])
    return layout, layout.space(divisor=2)


def test_sound_model_passes_and_stays_as_it_is():
    model = chain(nn.Conv2d(16, 16, 3))
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layout, space = found(model)
    check(model, layout, space, IMAGES)
    check_cut(model, layout, space.tinynet, IMAGES)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training and model[0].training and not model[1].training


class ReadsFromOutside(nn.Module):
    """It reads the weights of a layer, as heads that normalise them do."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Conv2d(16, 8, 1)

    def forward(self, x):
        return self.fc(x) / self.fc.weight.norm()


def test_masked_pass_that_parts_names_layer_and_remedy():
    model = chain(ReadsFromOutside())
    model[5] = nn.Conv2d(8, 4, 1)
    layout, space = found(model)
    check(model, layout, space, IMAGES, executions=['sliced'])
    with pytest.raises(GuardError, match="masked .* at 5; .*'sliced'.*'3.fc': dict\\(ratios"):
        check(model, layout, space, IMAGES)


def test_images_that_meet_are_found():
    model = chain(CountsImages())
    with pytest.raises(GuardError, match='other images'):
        check(model, *found(model), IMAGES)


class Layers(nn.Module):
    """Puts out what a DETR's decoder does: all its layers, then the images."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(16, 16)
        self.outer = nn.Linear(16, 4)

    def forward(self, x):
        x = x.flatten(2).mT
        return torch.stack([self.outer(self.inner(x).relu() + k) for k in range(6)])


def test_images_in_another_dimension_are_found():
    """Of two groups only the first one's would be put out."""
    model = nn.ModuleDict(dict(body=nn.Conv2d(3, 16, 3), decoder=Layers(), head=nn.Linear(4, 4)))

    def run(model, images):
        layers = model['decoder'](model['body'](images))
        return layers, model['head'](layers)

    layout = find_units(model, IMAGES, partial(run, model), parts=['body', 'decoder', 'head'])
    settings = model, layout, layout.space(divisor=2), IMAGES, run
    with pytest.raises(GuardError, match='sliced .* images in the first dimension.*serial=True'):
        check(*settings)
    check(*settings, shared=False)
    check(*settings, ['masked'])  # all that is narrower is so before the layers are stacked


def test_a_cut_model_that_cannot_run_is_found():
    model = chain(CountsChannels(16, 16, 3))
    layout, space = found(model)
    with pytest.raises(GuardError, match='cut'):
        check_cut(model, layout, space.tinynet, IMAGES)


class LinearOfPixels(nn.Module):
    """As in ConvNeXt: linear layers on ``(B, H, W, C)``."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x):
        return self.down(F.gelu(self.up(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


def test_linear_layers_on_pixels():
    model = chain(LinearOfPixels())
    layout, space = found(model)
    assert '3.up' in layout.units
    check(model, layout, space, IMAGES)
    check_cut(model, layout, space.tinynet, IMAGES)


class Draws(nn.Module):
    """As a head that starts from random bases."""

    def forward(self, x):
        return x * torch.rand(x.shape[1], 1, 1)


def test_what_a_forward_draws_is_the_same_in_both_runs():
    model = chain(Draws())
    layout, space = found(model)
    state = torch.random.get_rng_state()
    check_cut(model, layout, space.tinynet, IMAGES)
    assert torch.equal(torch.random.get_rng_state(), state)
