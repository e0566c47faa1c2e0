import copy
import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

from mmpse.models import (
    Latencies,
    LatencyError,
    LatencyTable,
    SlimmableResNet,
    find_backbone,
    latency_table,
    measure_latencies,
    prepared,
    with_subnet,
)
from mmpse.registry import MODELS
from mmpse.space import Budget, PriorSampler, UniformSampler

SHAPE = (3, 32, 32)


def classifier(**backbone):
    return dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=8),
    )


@pytest.fixture
def model(scope):
    """The backbone with the fewest layers."""
    return classifier(type='mmpse.SlimmableVGG', depth=11, norm_cfg=dict(type='BN'))


def multiply_adds(model: nn.Module, x: torch.Tensor) -> int:
    """Of a model's convolutions and of VGG's hidden layers, counted in a forward."""
    counted, model = [], copy.deepcopy(model).to('meta')
    for m in model.modules():
        if isinstance(m, nn.Conv2d) or getattr(m, 'out_features', 0) == 4096:
            m.register_forward_hook(
                lambda m, _, y: counted.append(m.weight[0].numel() * y[0].numel())
            )
    model(x.to('meta'))
    return sum(counted)


@pytest.fixture
def clockwork(monkeypatch):
    """A device on which a layer takes a nanosecond per multiply-add, and a whole model 500 us and
    three times its layers."""
    measured = []

    def prepared(model, x, runtime):
        layers = multiply_adds(model, x) * 1e-9
        return layers if isinstance(model, nn.Sequential) else 500e-6 + 3 * layers

    def measure(calls, rounds, track):
        measured.append(len(calls))
        return Latencies({name: [seconds] * rounds for name, seconds in calls.items()})

    monkeypatch.setattr(latency_table, 'prepared', prepared)
    monkeypatch.setattr(latency_table, 'measure_latencies', measure)
    monkeypatch.setattr(latency_table, 'device_name', lambda device: 'clockwork')
    return measured


def test_calls_run_interleaved_and_warm():
    ran = []
    calls = {name: lambda name=name: ran.append(name) for name in 'ab'}
    times = measure_latencies(calls, rounds=3, warmup=2)
    assert ''.join(ran) == 'aabb' * 5
    assert [len(times[name]) for name in 'ab'] == [3, 3]
    assert min(times['a'] + times['b']) > 0


def test_a_slow_measurement_ends_after_a_few_rounds(monkeypatch):
    now = itertools.count(step=10.0)  # each look at the clock is ten seconds later
    monkeypatch.setattr('time.perf_counter', lambda: next(now))
    times = measure_latencies({'a': lambda: None}, rounds=50, warmup=2)
    assert len(times['a']) == 5


def test_a_busy_machine_is_told(model, tmp_path, clockwork, monkeypatch):
    measure = latency_table.measure_latencies

    def slowed(*args, **kwargs):
        times = measure(*args, **kwargs)
        times.busy = 2.61
        return times

    said = []
    monkeypatch.setattr(latency_table, 'print_log', lambda text, *args: said.append(text))
    monkeypatch.setattr(latency_table, 'measure_latencies', slowed)
    LatencyTable(model, SHAPE, tmp_path / 'table.json').build(points=2, rounds=1)
    assert json.loads((tmp_path / 'table.json').read_text())['busy'] == 2.61
    (sentence,) = said
    assert 'took 2.6 times as long as the processor worked' in sentence


def test_runtimes_run_the_same_model(model):
    pytest.importorskip('onnxruntime')
    space = find_backbone(MODELS.build(with_subnet(model, None))).search_space
    static = MODELS.build(with_subnet(model, space.tinynet))
    static.eval()
    x = torch.randn(2, *SHAPE)
    eager = prepared(static, x)()
    (exported,) = prepared(static, x, 'onnxruntime')()
    assert np.allclose(exported, eager[0] if isinstance(eager, tuple) else eager, atol=1e-4)
    with pytest.raises(ValueError, match="runtime must be one of .*, got 'ncnn'"):
        prepared(static, x, 'ncnn')


@pytest.mark.slow
def test_compiled_models_of_many_widths_stay_compiled():
    """PyTorch alone gives up after 8 and goes on without compiling, silently."""
    x, graphs = torch.randn(1, 3, 8, 8), torch._dynamo.utils.counters['stats']
    layers = [nn.Sequential(nn.Conv2d(3, width, 1)) for width in range(8, 18)]
    before = graphs['unique_graphs']
    calls = [prepared(layer, x, 'compiled') for layer in layers]
    for layer, call in zip(layers, calls):
        assert torch.allclose(call(), layer(x), atol=1e-5)
    assert graphs['unique_graphs'] - before == len(layers)


@pytest.mark.parametrize(
    'backbone',
    [
        dict(type='mmpse.SlimmableMobileNetV2', widen_factor=0.35),
        dict(type='mmpse.SlimmableResNet', depth=50, base_channels=16, stem_channels=16),
    ],
)
def test_prediction_is_exact_where_latency_is_linear_in_both_widths(
    scope, clockwork, tmp_path, rng, backbone
):
    model = classifier(**backbone)
    table = LatencyTable(model, SHAPE, tmp_path / 'table.json')
    table.build(points=3, rounds=2)
    rows = UniformSampler(table.space, None).sample(rng, 5)
    expected = []
    for row in rows:
        static = MODELS.build(with_subnet(model, table.space.subnet(row)))
        static.eval()
        expected.append(500 + 3e-3 * multiply_adds(static, torch.zeros(1, *SHAPE)))
    again = LatencyTable(model, SHAPE, tmp_path / 'table.json')
    assert again.cost()(rows) == pytest.approx(np.array(expected), rel=2e-3)
    check = again.check(4)
    assert check['drift'] == 0
    assert check['worst_error'] < 2e-3 and len(check['measured']) == 4
    assert json.loads((tmp_path / 'table.json').read_text())['check'] == check


@pytest.mark.slow
def test_prediction_of_a_vgg_with_its_classifier(scope, clockwork, tmp_path, rng):
    """Its first fully connected layer reads the last convolution; the others are fixed."""
    vgg = dict(type='mmpse.SlimmableVGG', depth=11, num_classes=10, norm_cfg=dict(type='BN'))
    model, shape = (
        dict(type='ImageClassifier', backbone=vgg, head=dict(type='ClsHead')),
        (3, 224, 224),
    )
    table = LatencyTable(model, shape, tmp_path / 'table.json')
    table.build(points=3, rounds=1)
    (row,) = UniformSampler(table.space, None).sample(rng, 1)
    static = MODELS.build(with_subnet(model, table.space.subnet(row)))
    expected = 500 + 3e-3 * multiply_adds(static, torch.zeros(1, *shape))
    assert table.cost()(row[None])[0] == pytest.approx(expected, rel=2e-3)


def test_interrupted_build_goes_on(model, clockwork, tmp_path, monkeypatch):
    whole, killed = (LatencyTable(model, SHAPE, tmp_path / f'{k}.json') for k in range(2))
    whole.build(points=2, rounds=1)
    total = len(clockwork)
    assert total == len(whole.geometries) + 1
    measure = latency_table.measure_latencies

    def dying(*args, **kwargs):
        if len(clockwork) == total + 4:
            raise KeyboardInterrupt
        return measure(*args, **kwargs)

    monkeypatch.setattr(latency_table, 'measure_latencies', dying)
    with pytest.raises(KeyboardInterrupt):
        killed.build(points=2, rounds=1)
    monkeypatch.setattr(latency_table, 'measure_latencies', measure)
    resumed = LatencyTable(model, SHAPE, killed.path)
    with pytest.raises(LatencyError, match='not finished; build it on the device'):
        resumed.cost()
    with pytest.raises(LatencyError, match='was begun with .*; go on with those'):
        resumed.build(points=3, rounds=1)
    resumed.build(points=2, rounds=1)
    assert len(clockwork) == 2 * total  # nothing was measured twice
    assert killed.path.read_text() == whole.path.read_text()


def test_tables_of_something_else_are_refused(model, clockwork, tmp_path, monkeypatch):
    path = tmp_path / 'table.json'
    with pytest.raises(LatencyError, match='is missing; build it on the device'):
        LatencyTable(model, SHAPE, path).cost()
    LatencyTable(model, SHAPE, path).build(points=2, rounds=1)
    with pytest.raises(LatencyError, match=r'input_shape: \[3, 32, 32\] there, \[3, 64, 64\] now'):
        LatencyTable(model, (3, 64, 64), path)
    wider = json.loads(json.dumps(model))
    wider['backbone']['ratios'] = [0.5, 1.0]
    with pytest.raises(LatencyError, match=r'backbone.grid.ratios: .*0.2, .* there, \[0.5, 1.0\]'):
        LatencyTable(wider, SHAPE, path)
    monkeypatch.setattr(latency_table, 'device_name', lambda device: 'another')
    with pytest.raises(LatencyError, match='device: "clockwork" there, "another" now.*latency_dev'):
        LatencyTable(model, SHAPE, path)
    LatencyTable(model, SHAPE, path, device='clockwork').cost()  # asked for
    path.write_text(path.read_text()[:500])
    with pytest.raises(LatencyError, match='cannot be read .*delete it and build it anew'):
        LatencyTable(model, SHAPE, path)


def test_candidates_within_a_latency(model, clockwork, tmp_path, rng):
    table = LatencyTable(model, SHAPE, tmp_path / 'table.json')
    table.build(points=2, rounds=1)
    cost = table.cost()
    tiny, full = cost(table.space.array([table.space.tinynet, table.space.fullnet]))
    high = (tiny + full) / 2
    sampler = PriorSampler(
        table.space, Budget(table.space, dict(latency=cost), dict(latency=f'{high}us'))
    )
    taken = cost(sampler.sample(rng, 200))
    assert (0.95 * high <= taken).all() and (taken <= high).all()
    assert sampler.trials < 200 * 1.5


def test_geometries_of_resnet(scope):
    backbone = SlimmableResNet(50)
    found = latency_table.geometries(backbone, (3, 224, 224))
    layers = [layer for _, layers in found.values() for layer in layers]
    assert set(layers) == set(backbone.layers_of_units) and len(found) < len(layers) / 2
    stem = found['image 7x7, stride 2, dilation 1, input 224x224, norm, no activation']
    assert stem == ((224, 224), [backbone.layers_of_units[0]])
