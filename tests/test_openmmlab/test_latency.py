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
from mmpse.space import SearchSpace, Subnet, UniformSampler

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


def test_what_does_not_fit_is_measured_again(subject, clockwork, monkeypatch, rng):
    """Other jobs make some calls slow, each time other ones."""
    stock, measured = latency.measure_latencies, []

    def disturbed(calls, rounds, track):
        measured.append(times := stock(calls, rounds, track))
        for number in rng.permutation(len(calls))[:12]:
            times.least[number] *= 4
        return times

    monkeypatch.setattr(latency, 'measure_latencies', disturbed)
    content = measure_latency(*subject, SHAPE)
    assert len(measured) > 1 and content['error'] < 0.1
    monkeypatch.setattr(latency, 'EXPECTED', 0.0)
    measured.clear()
    error = measure_latency(*subject, SHAPE)['error']
    assert len(measured) == 3
    sentence = latency.error_sentence(error, 'do it again')
    assert f'mean error of {error:.0%}' in sentence and sentence.endswith('; do it again')
    assert latency.error_sentence(0.0, 'do it again') == ''


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
    budgets = []
    subject = SimpleNamespace(
        space=SimpleNamespace(fullnet=100, tinynet=20),
        costs={},
        model=None,
        layout=None,
        input_shape=SHAPE,
    )
    subject.cost_of = lambda latency: {'latency': latency}
    took = iter([0.9, 2.0, 0.44, 0.8])

    def choose(budget):
        budgets.append(budget)
        return Subnet({'conv': len(budgets)}, {})

    def measured(model, layout, subnets, shape, runtime):
        return Latencies({0: [1.0, 1.2], 1: [next(took)]})

    monkeypatch.setattr(pruning_latency, 'measure_subnets', measured)
    monkeypatch.setattr(pruning_latency, 'Budget', lambda space, costs, limits: limits['latency'])
    log = SimpleNamespace(info=lambda _: None)
    chosen = pruning_latency.within_latency(subject, {'latency': '50%'}, 'torch', choose, log)
    # what is asked for is never out of reach
    assert chosen == {'conv': 3} and budgets == ['50%', '28us', '20us', '20us']
    assert chosen.source['latency'] == dict(measured=0.44e6, full=1e6, limit=0.5e6)
    (note,) = pruning_latency.latency_notes(chosen, error=0.03)
    assert 'at 440 ms, 12% below the 500 ms that were asked for' in note
    assert 'mean error of 19%' in pruning_latency.latency_notes(chosen, error=0.19)[0]
    chosen.source['latency']['measured'] = 0.51e6
    assert pruning_latency.latency_notes(chosen, error=0.03) == []
