"""Latency of whole models' subnets: measured, fitted, kept in a file."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_tasks import write_task

from mmpse.errors import UserError
from mmpse.files import write_json
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.deploy import latency
from mmpse.openmmlab.deploy.latency import (
    latency_cost,
    measure_latency,
    measure_subnets,
    read_latency,
)
from mmpse.openmmlab.models.pruned import look
from mmpse.openmmlab.pruning import latency as pruning_latency
from mmpse.resources.timing import Latencies
from mmpse.space import SearchSpace, UniformSampler

SHAPE = (3, 32, 32)


@pytest.fixture
def subject(digits, tmp_path):
    config, _ = write_task('classification', digits, tmp_path)
    model = build_model(load_config(config)).eval()
    layout, _ = look(model)
    return model, layout, layout.space(divisor=4)


@pytest.fixture
def clockwork(monkeypatch):
    """A device on which a network takes half a microsecond, and a nanosecond per multiply-add."""

    def prepared(model, images, runtime):
        counted = []
        hooks = [
            m.register_forward_hook(
                lambda m, _, y: counted.append(m.weight[0].numel() * y[0].numel())
            )
            for m in model.modules()
            if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))
        ]
        model(images)
        for hook in hooks:
            hook.remove()
        return 0.5e-6 + 1e-9 * sum(counted)

    def measure(calls, rounds, track):
        return Latencies({name: [seconds] * rounds for name, seconds in calls.items()})

    monkeypatch.setattr(latency, 'prepared', prepared)
    monkeypatch.setattr(latency, 'measure_latencies', measure)
    monkeypatch.setattr(latency, 'device_name', lambda device: 'clockwork')


def test_a_few_measured_subnets_tell_what_all_others_take(subject, clockwork, tmp_path, rng):
    model, layout, space = subject
    write_json(tmp_path / 'latency.json', measure_latency(model, layout, space, SHAPE))
    content = read_latency(tmp_path / 'latency.json', space, SHAPE, 'torch')
    cost = latency_cost(space, content)
    others = UniformSampler(space, cost).sample(rng, 5)
    times = measure_subnets(model, layout, [space.subnet(row) for row in others], SHAPE)
    measured = [1e6 * times[k][0] for k in range(len(others))]
    assert cost.exact(others) == pytest.approx(np.array(measured), rel=0.02)
    assert content['error'] < 0.02 and content['on']['device'] == 'clockwork'


def test_latencies_of_something_else_are_refused(subject, clockwork, tmp_path, monkeypatch):
    model, layout, space = subject
    path = tmp_path / 'latency.json'
    write_json(path, measure_latency(model, layout, space, SHAPE))
    with pytest.raises(UserError, match=r'input_shape: \[3, 32, 32\] there, \[3, 64, 64\] now'):
        read_latency(path, space, (3, 64, 64))
    widths = {unit.name: unit.max_width for unit in space.units[1:]}
    fewer = SearchSpace(widths, dict(type='Fewer'))
    with pytest.raises(UserError, match=f'units.{space.names[0]}: 16 there, nothing now'):
        read_latency(path, fewer, SHAPE)
    monkeypatch.setattr(latency, 'device_name', lambda device: 'another')
    with pytest.raises(UserError, match='device: "clockwork" there, "another" now'):
        read_latency(path, space, SHAPE, 'torch')
    read_latency(path, space, SHAPE)  # of any device
    path.write_text(json.dumps(dict(schema='mmpse.latency/1')))
    with pytest.raises(UserError, match='cannot be read .* measure them with'):
        read_latency(path, space, SHAPE)


def test_of_the_measured_choices_the_nearest_to_the_limit_is_taken(monkeypatch):
    """No choice is made that is not measured."""
    budgets, warnings = [], []
    subject = SimpleNamespace(
        space=SimpleNamespace(fullnet={}), costs={}, model=None, layout=None, input_shape=SHAPE
    )
    subject.cost_of = lambda _: {'latency': 100}
    took = iter([0.9, 0.7, 0.44, 0.8])

    class Times(dict):
        busy = 1.0

    def measured(model, layout, subnets, shape, runtime):
        return Times({0: [1.0], 1: [next(took)]})

    monkeypatch.setattr(pruning_latency, 'measure_subnets', measured)
    monkeypatch.setattr(pruning_latency, 'Budget', lambda space, costs, limits: limits['latency'])
    log = SimpleNamespace(info=lambda _: None, warning=warnings.append)
    chosen = pruning_latency.within_latency(
        subject, {'latency': '50%'}, 'torch', lambda b: budgets.append(b) or len(budgets), log
    )
    assert chosen == 3 and len(budgets) == 4 and budgets[0] == '50%'
    assert warnings == ['after 4 choices the nearest one is measured 12% off the limit']
