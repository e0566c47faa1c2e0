"""Cost of a batch of subnets; that it is mmengine's on cut models, every ``SlimTester`` shows."""

import numpy as np
import torch
from torch import nn

from mmpse.resources.cost import layer_costs, model_cost
from mmpse.slim import find_units

IMAGE = torch.zeros(1, 3, 16, 16)


def toy():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
    )


def test_cost_by_hand():
    model = toy()
    layout = find_units(model, IMAGE)
    space = layout.space(divisor=2)
    costs = model_cost(model, layout, space, IMAGE)
    a, b = space.array([space.fullnet, space.tinynet]).T
    pixels = 16 * 16
    flops = pixels * (3 * 9 * a + 2 * a + 9 * a) + pixels * a + 4 * a * b + b * 4
    params = (3 * 9 + 1) * a + 2 * a + 9 * a + 4 * a * b + b + b * 4 + 4
    rows = space.array([space.fullnet, space.tinynet])
    np.testing.assert_array_equal(costs['flops'](rows), flops)
    np.testing.assert_array_equal(costs['params'](rows), params)


def test_shares_of_layers_add_up_to_the_whole():
    model = toy()
    layout = find_units(model, IMAGE)
    space = layout.space()
    costs = model_cost(model, layout, space, IMAGE)
    shares = layer_costs(model, IMAGE)
    for key, cost in costs.items():
        assert sum(shares[key].values()) == int(cost(space.array([space.fullnet]))[0])


def test_cost_changes_nothing():
    model = toy()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layout = find_units(model, IMAGE)
    model_cost(model, layout, layout.space(), IMAGE)
    assert model.training and not model[1].training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
