"""One exporter for all runtimes; int8; the metric of a file."""

import importlib.util
import runpy

import numpy as np
import onnx
import pytest
import small
import torch
from conftest import ROOT
from mmengine.config import Config
from small import built

from mmpse.deploy import (
    ExportError,
    calibration_images,
    evaluate,
    evaluate_onnx,
    export_onnx,
    prepared,
    quantize,
    read_metadata,
)
from mmpse.errors import UserError
from mmpse.openmmlab.deploy.agreement import _run
from mmpse.openmmlab.deploy.quantize import float_nodes
from mmpse.openmmlab.deploy.runtimes import loaded
from mmpse.openmmlab.errors import ConfigError


@pytest.fixture(scope='module')
def convs(tmp_path_factory):
    """A small classifier and its file, which takes pictures."""
    model = built(small.convs)
    path = tmp_path_factory.mktemp('convs') / 'model.onnx'
    export_onnx(model, path, (3, 16, 16), preprocess=True, runtimes=['onnxruntime', 'openvino'])
    return model, path


@pytest.fixture
def cfg(digits):
    return Config(small.digits_config(small.convs(), digits))


def test_runtimes_compute_the_same():
    model = built(small.convs)
    x = torch.randn(2, 3, 16, 16)
    calls = {
        runtime: prepared(model, x, runtime) for runtime in ('torch', 'onnxruntime', 'openvino')
    }
    expected = calls.pop('torch')()
    for call in calls.values():
        (found,) = call()
        np.testing.assert_allclose(found, expected.detach(), rtol=1e-3, atol=1e-3)


class TwoStages(torch.nn.Module):
    def forward(self, images, regions=None):
        return [images[region] for region in regions]


def test_a_model_that_takes_more_than_images_is_told_in_a_sentence():
    with pytest.raises(ExportError, match='TwoStages gives no raw outputs .* alone .*NoneType'):
        prepared(TwoStages().eval(), torch.zeros(1, 3, 8, 8), 'onnxruntime')


def test_runtimes_that_are_not_there(monkeypatch):
    model, x = built(small.convs), torch.randn(1, 3, 16, 16)
    with pytest.raises(ValueError, match="runtime must be one of .*, got 'onnx'"):
        prepared(model, x, 'onnx')
    with pytest.raises(ValueError, match="runtime must be one of .*, got 'torch'"):
        loaded(b'', 'torch')
    with pytest.raises(UserError, match='pip install onnx onnxscript onnxruntime-gpu tensorrt'):
        prepared(model, x, 'tensorrt')
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name == 'openvino' else find(name)
    )
    with pytest.raises(UserError, match="'openvino' is not installed: pip install .* openvino"):
        prepared(model, x, 'openvino')


def test_metric_of_a_file_is_that_of_the_model(convs, cfg):
    model, path = convs
    assert evaluate_onnx(path, cfg) == evaluate(model, cfg)


def test_int8(convs, cfg, tmp_path):
    model, path = convs
    images = list(calibration_images(cfg, model, 20, preprocess=True))
    assert len(images) == 20 and images[0].dtype == np.uint8 and images[0].shape == (1, 3, 16, 16)
    counts = quantize(path, tmp_path / 'int8.onnx', images)
    assert counts == dict(images=20, int8=3, float32=1)  # the head is the last layer
    proto = onnx.load(tmp_path / 'int8.onnx')
    weights = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert sum(np.prod(t.dims) for t in weights) >= sum(
        m.weight.numel() for m in model.backbone.modules() if isinstance(m, torch.nn.Conv2d)
    )
    assert read_metadata(tmp_path / 'int8.onnx') == read_metadata(path)
    batch = np.concatenate(images)
    (exact,), (found,) = (
        loaded(str(file), 'onnxruntime')(batch).values() for file in (path, tmp_path / 'int8.onnx')
    )
    assert 0 < np.abs(found - exact).max() < 0.1 * np.abs(exact).max()
    metrics = evaluate_onnx(tmp_path / 'int8.onnx', cfg)
    assert metrics == pytest.approx(evaluate(model, cfg), rel=0.1)


def test_int8_without_data(convs, cfg, tmp_path):
    model, path = convs
    with pytest.raises(ExportError, match='int8 needs calibration images, got none'):
        quantize(path, tmp_path / 'int8.onnx', [])
    assert not list(tmp_path.iterdir())
    cfg.train_dataloader = None
    with pytest.raises(ExportError, match='config lacks train_dataloader or val_dataloader'):
        next(calibration_images(cfg, model, 5))
    cfg.val_evaluator = None
    with pytest.raises(ConfigError, match='the config has no val_evaluator'):
        evaluate(model, cfg)


def test_files_of_another_model(convs, digits):
    _, path = convs
    detector = Config(small.digits_config(small.retinanet(), digits, 'detection'))
    with pytest.raises(ExportError, match='is a classifier, the config has a RetinaNet'):
        evaluate_onnx(path, detector)


def test_what_does_not_run_is_a_fault_of_the_runtime(convs, cfg, monkeypatch):
    """Where files are compared and where they are evaluated."""

    def refuses(images):
        raise RuntimeError('out of luck\nat node 3')

    _, path = convs
    for place in ('agreement', 'evaluate'):
        monkeypatch.setattr(f'mmpse.openmmlab.deploy.{place}.loaded', lambda *_: refuses)
    with pytest.raises(ExportError, match='the exported model does not run: out of luck$'):
        _run(onnx.load(path), torch.zeros(1, 3, 16, 16), 'onnxruntime')
    with pytest.raises(ExportError, match=r'does not run on a batch of \(4, .*: out of luck$'):
        evaluate_onnx(path, cfg)


@pytest.mark.parametrize('runtime', ['onnxruntime', 'openvino'])
def test_what_the_runtime_does_not_know_is_refused_in_a_sentence(convs, cfg, tmp_path, runtime):
    proto, path = onnx.load(convs[1]), tmp_path / 'other.onnx'
    next(node for node in proto.graph.node if node.op_type == 'Conv').op_type = 'Convolve'
    onnx.save(proto, path)
    with pytest.raises(ExportError, match=f'^{runtime} cannot load .*other.onnx: .*Conv'):
        evaluate_onnx(path, cfg, runtime=runtime)
    with pytest.raises(UserError, match="runtime must be one of .* got 'none'"):
        evaluate_onnx(path, cfg, runtime='none')


def test_a_bug_of_ours_is_none(convs, cfg, monkeypatch, buggy):
    _, path = convs
    for place in ('agreement', 'evaluate'):
        monkeypatch.setattr(f'mmpse.openmmlab.deploy.{place}.loaded', lambda *_: buggy)
    with pytest.raises(KeyError, match='conv1'):
        _run(onnx.load(path), torch.zeros(1, 3, 16, 16), 'onnxruntime')
    with pytest.raises(KeyError, match='conv1'):
        evaluate_onnx(path, cfg)


def test_what_stays_float():
    """Everything before the model, after its raw outputs, and the last layers before those."""
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            node('Sub', ['images', 'mean'], ['inputs'], 'normalise'),
            node('Conv', ['inputs', 'w1'], ['a'], 'stem'),
            node('Conv', ['a', 'w2'], ['b'], 'body'),
            node('Conv', ['b', 'w3'], ['c'], 'last'),
            node('Mul', ['c', 'scale'], ['raw'], 'scaled'),
            node('Sigmoid', ['raw'], ['s'], 'decode'),
            node('MatMul', ['s', 'w4'], ['boxes'], 'more'),
        ],
        'graph',
        [],
        [],
    )
    assert float_nodes(graph, ['raw'], 'inputs') == {
        'normalise',
        'last',
        'scaled',
        'decode',
        'more',
    }


def test_the_tool(convs, digits, tmp_path, monkeypatch, capsys):
    """A file, its int8 file, and the metric of both beside the model's."""
    model, _ = convs
    cfg = small.digits_config(small.convs(), digits)
    Config(cfg).dump(tmp_path / 'config.py')
    meta = dict(dataset_meta=dict(classes=tuple('0123456789')))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'model.pth')
    tool = runpy.run_path(str(ROOT / 'tools/export.py'))
    command = ['export.py', str(tmp_path / 'config.py'), str(tmp_path / 'model.pth')]
    command += ['--input-shape', '3', '16', '16', '-o', str(tmp_path / 'small.onnx')]
    monkeypatch.setattr('sys.argv', [*command, '--int8', '6', '--runtime-check', 'openvino'])
    tool['main']()
    printed = capsys.readouterr().out
    assert 'scores (1, 10)' in printed and 'free: batch, height, width' in printed
    assert '3 layers int8, 1 float32, calibrated on 6 images' in printed
    assert all(name in printed for name in ('PyTorch', 'small.onnx', 'small.int8.onnx'))
    assert read_metadata(tmp_path / 'small.int8.onnx')['classes'] == list('0123456789')
    for flags, kind, message in (
        (['--decode'], ExportError, 'decode is for detectors'),
        (['--runtime-check', 'tensorrt'], UserError, "runtime 'tensorrt' is not installed"),
        (['--runtime-check', 'torch'], ValueError, 'runtime must be one of'),
    ):
        monkeypatch.setattr('sys.argv', [*command, *flags])
        with pytest.raises(kind, match=message):
            tool['main']()
