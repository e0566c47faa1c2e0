"""What cutting, sorting and activating refuse, and what they leave as it is."""

import pytest
import torch
from torch import nn

from mmpse.slim import (
    CutError,
    Layout,
    Supernet,
    as_subnet,
    cut_,
    find_units,
    sort_,
)

IMAGE = torch.zeros(1, 3, 16, 16)


def toy(width=16):
    return nn.Sequential(
        nn.Conv2d(3, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 12, 3),
        nn.GroupNorm(3, 12),
        nn.Conv2d(12, 4, 1),
    )


@pytest.fixture
def model():
    return toy()


@pytest.fixture
def layout(model):
    return find_units(model, IMAGE, parts=[''])


@pytest.mark.parametrize(
    ('widths', 'message'),
    [
        ({'0': 8}, r"missing \['3'\]"),
        ({'0': 8, '3': 12, '9': 1}, r"unknown \['9'\]"),
        ({'0': 0, '3': 12}, 'expected 1 to 16'),
        ({'0': 17, '3': 12}, 'expected 1 to 16'),
        ({'0': 8, '3': 6}, 'in multiples of 4'),
    ],
)
def test_impossible_widths(model, layout, widths, message):
    with pytest.raises(CutError, match=message):
        cut_(model, layout, widths)


def test_another_model_is_refused(layout):
    with pytest.raises(CutError, match='its layer 0 should have 16 outputs, it has 20'):
        cut_(toy(20), layout, {'0': 8, '3': 4})
    with pytest.raises(CutError, match='there is none of that name'):
        cut_(nn.Sequential(nn.Conv2d(3, 16, 3)), layout, {'0': 8, '3': 4})


def test_a_layout_that_cannot_be_read():
    with pytest.raises(ValueError, match="cannot read 'conv2' in the layer"):
        Layout.from_dict(dict(units={'conv1': 8}, layers={'conv1': '#3 > conv2'}))


def test_in_place_is_forgotten(model, layout):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with as_subnet(model, layout, {'0': 8, '3': 4}):
        assert model[0].out_channels == 8
        model.train()(torch.randn(4, 3, 16, 16))
    assert model[0].out_channels == 16 and model[4].num_groups == 3
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_in_place_ends_with_an_exception(model, layout):
    with pytest.raises(KeyboardInterrupt), as_subnet(model, layout, {'0': 8, '3': 4}):
        raise KeyboardInterrupt
    assert model[0].weight.shape[0] == model[0].out_channels == 16


def test_sorting_puts_the_largest_filters_first(model, layout):
    order = sort_(model, layout, 'l1')
    norms = model[0].weight.abs().flatten(1).sum(1)
    assert (norms.diff() <= 0).all()
    blocks = order['3'].view(-1, 4)  # groups of GroupNorm stay together
    assert (blocks % 4 == torch.arange(4)).all()


def test_sorting_by_gradients_needs_them(model, layout):
    with pytest.raises(ValueError, match='needs the gradient of 0.weight'):
        sort_(model, layout, 'taylor')
    with pytest.raises(ValueError, match="one of .* got 'size'"):
        sort_(model, layout, 'size')


def test_slopes_of_activations_are_no_scales():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(8), nn.Conv2d(8, 4, 1))
    nn.init.uniform_(model[1].weight)
    nn.init.uniform_(model[2].weight, 5, 10)
    expected = model[1].weight.abs().argsort(descending=True)
    assert torch.equal(sort_(model, find_units(model, IMAGE), 'bn')['0'], expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_units_of_any_precision(layout, dtype):
    found = find_units(toy().to(dtype), IMAGE.to(dtype), parts=[''])
    assert found.units == layout.units and found.layers == layout.layers


def test_any_default_device(layout):
    """Where users set it, bookkeeping stays on the CPU."""
    model = toy()
    with torch.device('meta'):
        found = find_units(model, IMAGE, parts=[''])
        order = sort_(model, found)
        cut_(model, found, {'0': 8, '3': 4})
    assert found.units == layout.units and found.layers == layout.layers
    assert all(o.device.type == 'cpu' for o in order.values())
    assert model(IMAGE).shape == (1, 4, 12, 12)


def test_batches_that_cannot_be_shared(model, layout):
    space = layout.space(divisor=4)
    net = Supernet(model, layout, space)
    with pytest.raises(ValueError, match='a batch of 3 images cannot be shared by 2 subnets'):
        with net.active([space.fullnet, space.tinynet]):
            model(torch.zeros(3, 3, 16, 16))
    assert not net.active_subnets and 'forward' not in vars(model)


def test_unknown_execution(model, layout):
    space = layout.space(divisor=4)
    with pytest.raises(ValueError, match="execution must be one of .* got 'fast'"):
        Supernet(model, layout, space).activate([space.fullnet], 'fast')


def test_images_of_another_size_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4))
    with pytest.raises(ValueError, match='2 reads 288 channels, and gets 1568'):
        find_units(model, IMAGE)
    assert 'forward' not in vars(model[0])


def test_a_group_counts_all_layers_of_a_unit():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    nn.init.uniform_(model[1].weight)
    kinds = (
        model[0].weight.square().sum((1, 2, 3)),
        model[1].weight.square(),
        model[2].weight.square().sum((0, 2, 3)),
    )
    expected = sum(kind / kind.mean() for kind in kinds).argsort(descending=True)
    assert torch.equal(sort_(model, find_units(model, IMAGE), 'group')['0'], expected)
