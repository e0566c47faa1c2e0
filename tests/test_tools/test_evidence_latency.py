"""The experiments on latency: how well it is predicted, and what multiples of channels bring."""

import json
import sys

import pytest
import torch
from evidence import tools  # noqa: F401  a fixture
from tiny_tasks import write_task

from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.deploy import latency
from mmpse.openmmlab.models.pruned import look
from mmpse.resources.timing import Latencies


@pytest.fixture
def config(digits, tmp_path):
    return write_task('classification', digits, tmp_path)[0]


def products(model, images, runtime):
    """Multiply-adds of an image."""
    counted = []
    layers = (torch.nn.Conv2d, torch.nn.Linear)
    for layer in [m for m in model.modules() if isinstance(m, layers)]:
        layer.register_forward_hook(
            lambda m, _, y: counted.append(m.weight[0].numel() * y[0].numel())
        )
    model(images)
    return sum(counted)


def test_error_of_the_fitted_latency(config, tmp_path, monkeypatch):
    """On a device whose time is a sum over layers the fit is right, and the record says so."""
    import latency_error

    monkeypatch.setattr(latency, 'prepared', products)
    monkeypatch.setattr(
        latency,
        'measure_latencies',
        lambda calls, rounds, track: Latencies({k: [1e-9 * v + 1e-6] for k, v in calls.items()}),
    )
    command = [str(config), '--name', 'tiny', '--subnets', '5', '--out', str(tmp_path / 'out')]
    monkeypatch.setattr(sys, 'argv', ['latency_error.py', *command])
    latency_error.main()
    record = json.loads((tmp_path / 'out/tiny_torch.json').read_text())
    assert record['median_error'] <= record['largest_error'] < 0.02
    assert len(record['measured_us']) == len(record['predicted_us']) == len(record['flops']) == 5
    assert record['measured_us'] == pytest.approx(record['predicted_us'], rel=0.02)


def test_what_divisors_bring(config, tmp_path, monkeypatch):
    import divisors

    model = build_model(load_config(config))
    layout, _ = look(model)
    for number in (4, 8):
        space = layout.space(divisor=number)
        subnet = space.subnet(space.array([space.uniform(0.5)])[0], resources=dict(flops=number))
        (tmp_path / f'pruned/{number}').mkdir(parents=True)
        subnet.save(tmp_path / f'pruned/{number}/subnet.json')
    monkeypatch.setattr(divisors, 'RECORDS', tmp_path / 'records')
    command = [str(config), str(tmp_path / 'pruned'), '--name', 'tiny', '--sizes', '32x32']
    command += ['--work-dir', str(tmp_path / 'files')]
    monkeypatch.setattr(sys, 'argv', ['divisors.py', *command])
    divisors.main()
    record = json.loads((tmp_path / 'records/tiny.json').read_text())
    assert [row['divisor'] for row in record['rows']] == ['full', '4', '8']
    assert record['flops'] == {'4': 4, '8': 8}
    for row in record['rows']:
        assert row['ms'].keys() == row['ratio'].keys() == set(divisors.RUNTIMES)
        assert row['divisor'] != 'full' or set(row['ratio'].values()) == {1}
