"""What a cut model no longer reads is predicted from what it reads."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mmpse.slim import Reconstruction, as_subnet, cut_, find_units, sample_inputs, sort_
from mmpse.slim.reconstruction import prediction
from mmpse.slim.samples import Moments
from mmpse.slim.selection import forward_selection

IMAGE = torch.zeros(1, 3, 16, 16)


class Net(nn.Module):
    """A residual sum, a concatenation, a transposed convolution and a flattened linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 16, 3, padding=1)
        self.out = nn.Conv2d(16, 16, 1)
        self.up = nn.ConvTranspose2d(32, 8, 2, 2)
        self.low = nn.Conv2d(8, 8, 3, 4, 1)
        self.fc = nn.Linear(8 * 64, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        y = x + self.out(self.inner(x).relu())
        z = self.low(self.up(torch.cat([x, y], 1)).relu()).relu()
        return self.fc(z.flatten(1))


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        for _ in range(20):
            net(torch.randn(16, 3, 16, 16))
    return net.eval()


def images(count=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16 * count, 3, 16, 16, generator=generator)


def half_of(layout):
    return {name: unit.width // 2 for name, unit in layout.units.items()}


def run(model, x):
    return model(x)


@torch.no_grad()
def test_channels_that_others_determine_are_not_missed(net):
    layout = find_units(net, IMAGE)
    assert len(layout.units) == 4
    for name, unit in layout.units.items():
        if 'stem' in unit.writers or 'out' in unit.writers:  # the residual one is doubled by hand
            continue
        half = unit.width // 2
        writer = net.get_submodule(name)
        dim = 1 if name == 'up' else 0
        for tensor in (writer.weight.movedim(dim, 0), writer.bias):
            tensor[half:] = 0.5 * tensor[:half]
    for tensor in (net.stem.weight, net.out.weight, net.out.bias, net.norm.weight, net.norm.bias):
        tensor[8:] = 0.5 * tensor[:8]
    net.norm.running_mean[8:] = 0.5 * net.norm.running_mean[:8]  # as the filters are halves,
    net.norm.running_var[8:] = 0.25 * net.norm.running_var[:8]  # so are the channels
    net.norm.eps = 1e-12
    widths, seen = half_of(layout), images()
    cut = cut_(copy.deepcopy(net), layout, widths)
    x = torch.randn(8, 3, 16, 16)
    wanted = net(x)
    missed = (cut(x) - wanted).norm()
    Reconstruction(net, layout, seen, run).fit_(cut, widths)
    assert (cut(x) - wanted).norm() < 0.1 * missed


@torch.no_grad()
def test_a_model_keeps_more_of_its_outputs(net):
    layout = find_units(net, IMAGE)
    widths, x = half_of(layout), torch.randn(32, 3, 16, 16)
    cut = cut_(copy.deepcopy(net), layout, widths)
    missed = (cut(x) - net(x)).norm()
    shapes = {key: value.shape for key, value in cut.state_dict().items()}
    Reconstruction(net, layout, images(), run).fit_(cut, widths)
    assert (cut(x) - net(x)).norm() < 0.6 * missed
    assert {key: value.shape for key, value in cut.state_dict().items()} == shapes
    reloaded = cut_(copy.deepcopy(net), layout, widths)
    reloaded.load_state_dict(cut.state_dict())
    assert torch.equal(reloaded(x), cut(x))


@torch.no_grad()
def test_of_one_unit_absorbed_in_place_is_the_same_as_fitted(net):
    layout = find_units(net, IMAGE)
    full = {name: unit.width for name, unit in layout.units.items()}
    before = {key: value.clone() for key, value in net.state_dict().items()}
    reconstruction, x = Reconstruction(net, layout, images(2), run), torch.randn(4, 3, 16, 16)
    for name in layout.units:
        widths = {**full, name: full[name] // 4}
        cut = reconstruction.fit_(cut_(copy.deepcopy(net), layout, widths), widths)
        with reconstruction.absorbed(widths), as_subnet(net, layout, widths):
            # `up` reads a unit twice, once through the sum: what one layer lost the next one sees
            torch.testing.assert_close(net(x), cut(x), rtol=0.05, atol=0.04)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@torch.no_grad()
def test_what_runs_elsewhere_in_the_cut_model_keeps_its_weights():
    class Wandering(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            x = self.b(self.a(x))
            return self.c(x[..., : 2 if self.a.out_channels < 8 else 4])

    torch.manual_seed(0)
    model = Wandering().eval()
    layout = find_units(model, IMAGE)
    widths = half_of(layout)
    cut = cut_(copy.deepcopy(model), layout, widths)
    plain = copy.deepcopy(cut)
    Reconstruction(model, layout, images(1), run).fit_(cut, widths)
    assert not torch.equal(cut.b.weight, plain.b.weight)
    assert torch.equal(cut.c.weight, plain.c.weight)


@pytest.mark.parametrize('constant', [True, False])
def test_predictions_are_those_of_ridge_regression(constant):
    """By a least-squares solver, with the ridge as rows of its own."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 5))
    start = np.eye(5)[[4, 0, 2]]
    full = np.c_[x, np.ones(50)]
    moments = Moments(*(torch.tensor(full.T @ a / 50) for a in (full, y)), 50)
    if not constant:
        full = x
    ridge = np.sqrt(50 * 0.1 * 3 / 50 * np.mean(x**2))
    rows = np.r_[full, ridge * np.eye(full.shape[1])]
    wanted = np.r_[y, ridge * np.pad(start, ((0, full.shape[1] - 3), (0, 0)))]
    solved = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    weights, constants = prediction(moments, torch.tensor([4, 0, 2]), constant)
    np.testing.assert_allclose(weights, solved[:3], atol=1e-5)
    if constant:
        np.testing.assert_allclose(constants, solved[3], atol=1e-5)


def missed(x, weight, chosen):
    """What a layer misses of its output if the chosen channels predict all."""
    predicted = x[:, chosen] @ np.linalg.lstsq(x[:, chosen], x, rcond=None)[0]
    return np.square((x - predicted) @ weight.T).mean()


def test_the_selection_takes_the_channel_that_explains_most():
    """By trying each one with a least-squares solver."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 7)) @ rng.normal(size=(7, 7))
    x -= x.mean(0)
    weight, left, order = rng.normal(size=(3, 7)), list(range(7)), []
    while left:
        best = min(left, key=lambda k: missed(x, weight, [*order, k]))
        left.remove(best)
        order.append(best)
    reading = torch.tensor(x.T @ x / 400), torch.tensor(weight.T @ weight)
    soon = forward_selection([reading], 7)
    # when all outputs are explained, the rest is arbitrary
    assert soon.argsort(descending=True).tolist()[:3] == order[:3]
    assert sorted(soon.tolist()) == [1, 2, 3, 4, 5, 6, 7]


def test_blocks_are_selected_as_wholes_and_copies_last():
    torch.manual_seed(0)
    x = torch.randn(100, 4, dtype=torch.double)
    x = torch.cat([x, 3 * x[:, 2:]], 1)  # the last two are the third and fourth, and stronger
    reading = x.T @ x / 100, torch.eye(6, dtype=torch.double)
    soon = forward_selection([reading], 6, step=2)
    assert soon.tolist() == [2, 2, 1, 1, 3, 3]


@torch.no_grad()
def test_sorting_by_selection_changes_no_output(net):
    layout, x = find_units(net, IMAGE), torch.randn(4, 3, 16, 16)
    before = net(x)
    order = sort_(net, layout, 'selection', sample_inputs(net, layout, [images(1)], run))
    assert all(sorted(v.tolist()) == list(range(len(v))) for v in order.values())
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="'selection' needs samples"):
        sort_(net, layout, 'selection')
