"""Exported files predict what the model predicts, say what they are, and are free in size."""

import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import small
import torch
from conftest import ROOT
from mmcv.ops import ModulatedDeformConv2dPack
from mmengine.config import Config
from small import built
from torch import nn

from mmpse.deploy import (
    ExportError,
    evaluate,
    evaluate_onnx,
    export_onnx,
    fingerprint,
    read_metadata,
)
from mmpse.openmmlab.deploy import graph
from mmpse.openmmlab.deploy.agreement import compare, compare_boxes
from mmpse.openmmlab.deploy.graph import between

SHAPE = (3, 128, 160)


def outputs(path, images):
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {'images': images.numpy()})
    return {name: torch.from_numpy(value) for name, value in zip(names, values)}


def flat(value):
    return [value] if isinstance(value, torch.Tensor) else [x for item in value for x in flat(item)]


def as_input(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


def assert_boxes_agree(model, path, image, folder):
    """A file's boxes of a picture, and those of mmdet's ``inference_detector``."""
    image.save(folder / 'picture.png')
    expected = small.predicted(model, folder / 'picture.png').pred_instances
    found = {name: value[0] for name, value in outputs(path, as_input(image)).items()}
    present = found['scores'] > 0
    found = {name: value[present] for name, value in found.items()}
    assert len(expected) == int(present.sum()) > 10
    compare_boxes(expected, found, threshold=0.0)  # 0.5 pixels, 1e-3 in score, same labels


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    """RetinaNet and its file that takes pictures and gives boxes."""
    model = built(small.retinanet)
    model.dataset_meta = dict(classes=('cat', 'dog', 'cow'))
    path = tmp_path_factory.mktemp('detector') / 'model.onnx'
    metadata = dict(metric={'coco/bbox_mAP': 0.25}, subnet=fingerprint(dict(a=1, b=2)))
    result = export_onnx(
        model, path, SHAPE, preprocess=True, decode=True, nms=True, metadata=metadata
    )
    return model, path, result


def test_detector_as_mmdet_predicts(detector, tmp_path):
    """On pictures of sizes that the exporter has not seen."""
    model, path, result = detector
    assert result == dict(boxes=(1, 100, 4), scores=(1, 100), labels=(1, 100))
    assert result.dynamic == ('batch', 'height', 'width') and result.fixed is None
    assert result.agreement['boxes'] > 10
    for size in ((150, 111), (224, 160)):
        assert_boxes_agree(model, path, small.picture(*size), tmp_path)


def test_the_file_says_what_it_is(detector):
    model, path, _ = detector
    about = read_metadata(path)
    assert about['classes'] == ['cat', 'dog', 'cow']
    assert about['mean'] == pytest.approx([123.675, 116.28, 103.53])
    assert about['channel_order'] == 'RGB' and about['preprocess'] is True
    assert about['strides'] == [[8, 8], [16, 16], [32, 32], [64, 64]]
    assert about['metric'] == {'coco/bbox_mAP': 0.25}
    assert about['subnet'] == fingerprint(dict(b=2, a=1)) != fingerprint(dict(a=2, b=1))
    session = onnxruntime.InferenceSession(path)
    (image,) = session.get_inputs()
    assert (image.name, image.shape) == ('images', ['batch', 3, 'height', 'width'])
    assert image.type == 'tensor(uint8)'
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], 'g', [], [])), path.with_name('x'))
    with pytest.raises(
        ExportError, match="is no file of this export: its metadata have no 'mmpse'"
    ):
        read_metadata(path.with_name('x'))


def test_raw_outputs_are_inside_every_file(detector, tmp_path):
    """So that a decoded file can be evaluated, and quantised but for what is not the model."""
    model, path, _ = detector
    names = [f'{kind}_{k}' for kind in ('cls_scores', 'bbox_preds') for k in range(4)]
    assert read_metadata(path)['raw'] == names
    onnx.save(between(onnx.load(path), 'inputs', names), tmp_path / 'raw.onnx')
    x = torch.randn(2, 3, 96, 192)
    session = onnxruntime.InferenceSession(tmp_path / 'raw.onnx')
    with torch.no_grad():
        for found, value in zip(session.run(names, {'inputs': x.numpy()}), flat(model(x))):
            torch.testing.assert_close(torch.from_numpy(found), value, rtol=1e-3, atol=1e-3)
    with pytest.raises(ExportError, match='does not follow from cls_scores_0'):
        between(onnx.load(path), 'cls_scores_0', ['boxes'])


def test_metric_of_a_detector_s_file(detector, digits):
    model, path, _ = detector
    cfg = Config(small.digits_config(small.retinanet(), digits, 'detection'))
    expected, found = evaluate(model, cfg), evaluate_onnx(path, cfg)
    assert found == pytest.approx(expected, rel=1e-3) and expected['1'] > 10


@pytest.mark.slow
@pytest.mark.parametrize('family', [small.rtmdet, small.fcos, small.yolox, small.atss])
def test_other_detectors(family, tmp_path):
    model, path = built(family), tmp_path / 'model.onnx'
    result = export_onnx(model, path, SHAPE, preprocess=True, decode=True, nms=True)
    assert result.fixed is None and result.agreement['boxes'] > 10
    assert result.agreement['box_difference'] < 0.01
    assert_boxes_agree(model, path, small.picture(224, 160), tmp_path)
    assert outputs(path, as_input(small.picture(75, 50)))['scores'].shape[0] == 1  # padded


def test_raw_detector(tmp_path):
    """RTMDet, normalised images in; channels of its preprocessor are BGR."""
    model = built(small.rtmdet)
    path = tmp_path / 'model.onnx'
    result = export_onnx(model, path, SHAPE)
    assert list(result) == [f'{k}_{i}' for k in ('cls_scores', 'bbox_preds') for i in range(3)]
    assert result['cls_scores_2'] == (1, 3, 4, 5)
    x = torch.randn(3, 3, 96, 224)
    with torch.no_grad():
        for found, value in zip(outputs(path, x).values(), flat(model(x)), strict=True):
            torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-3)
    about = read_metadata(path)
    assert about['channel_order'] == 'BGR'
    assert about['size_divisor'] == 32  # which its data preprocessor does not say
    with pytest.raises(ExportError, match=r'takes multiples of 32, got \(1, 3, 100, 160\)'):
        export_onnx(model, path, (3, 100, 160))


def test_segmentor(tmp_path, digits):
    model = built(small.segmentor)
    path = tmp_path / 'model.onnx'
    result = export_onnx(model, path, (3, 64, 96), preprocess=True, argmax=True)
    assert result == dict(labels=(1, 64, 96)) and result.fixed is None
    image = small.picture(75, 50)  # padded to 96 x 64 inside
    image.save(tmp_path / 'picture.png')
    expected = small.predicted(model, tmp_path / 'picture.png').pred_sem_seg.data[0]
    found = outputs(path, as_input(image))['labels'][0]
    assert found.shape == (50, 75) and len(found.unique()) > 2
    assert (found != expected).sum() <= 1  # where two logits are equal but for rounding
    assert read_metadata(path)['raw'] == ['logits']
    cfg = Config(small.digits_config(small.segmentor(), digits, 'segmentation'))
    assert evaluate_onnx(path, cfg) == evaluate(model, cfg)


def test_a_size_that_cannot_vary(tmp_path):
    """PSPNet's pooling to three bins; the batch stays free."""
    model = built(small.pspnet)
    result = export_onnx(model, tmp_path / 'model.onnx', (3, 64, 96))
    assert result.dynamic == ('batch',)
    assert 'pool' in result.fixed
    shape = onnxruntime.InferenceSession(tmp_path / 'model.onnx').get_inputs()[0].shape
    assert shape == ['batch', 3, 64, 96]
    x = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            outputs(tmp_path / 'model.onnx', x)['logits'], model(x), rtol=1e-3, atol=1e-3
        )


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.fc = nn.Linear(2 * 8 * 8, 4)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


def test_a_plain_module_of_one_size(tmp_path):
    result = export_onnx(Fixed().eval(), tmp_path / 'model.onnx', (3, 8, 8))
    assert result == dict(output=(1, 4)) and result.dynamic == ('batch',)
    assert result.fixed.startswith('fc (Linear): ')


class Computes(nn.Module):
    """A convolution, and a function of what it puts out."""

    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function

    def forward(self, x):
        return self.function(self.conv(x))


class Deformed(nn.Module):
    def __init__(self):
        super().__init__()
        self.dcn = ModulatedDeformConv2dPack(3, 4, 3, padding=1)

    def forward(self, x):
        return self.dcn(x)


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (
            Computes(lambda x: torch.linalg.svd(x.flatten(2))[1]),
            r'PyTorch has no ONNX for the operator aten\._linalg_svd in Computes',
        ),
        (
            Computes(lambda x: torch.det(x[..., :4, :4])),
            'does not run: No conversion rule found for operations: Det.*openvino',
        ),
        (Deformed(), r'PyTorch cannot trace Deformed: dcn \(ModulatedDeformConv2dPack\): '),
        (Computes(lambda x: x if x.sum() > 0 else -x), 'PyTorch cannot trace Computes: .*guard'),
    ],
    ids=['ONNX', 'runtime', 'library', 'control'],
)
def test_operators_that_are_not_there(model, message, tmp_path):
    with pytest.raises(ExportError, match=message) as raised:
        path = tmp_path / 'model.onnx'
        export_onnx(model.eval(), path, (3, 16, 16), runtimes=['onnxruntime', 'openvino'])
    assert '\n' not in str(raised.value) and not list(tmp_path.iterdir())


def test_sizes_that_take_too_long(tmp_path, monkeypatch):
    """As those of Swin's windows do: the file is of one size then."""
    monkeypatch.setattr(graph, 'PATIENCE', 0)
    result = export_onnx(built(small.convs), tmp_path / 'model.onnx', (3, 16, 16))
    assert result.dynamic == ('batch',)
    assert result.fixed.endswith('its sizes cannot be followed in 0 s')
    assert result.fixed.startswith('PyTorch cannot trace ImageClassifier')


@pytest.mark.parametrize(
    ('function', 'reason'),
    [
        (lambda x: x * int(x.shape[2]), 'height must be constant: 1 (Computes) computes with it'),
        (lambda x: x * float(x.shape[3]), 'width must be constant: 1 (Computes) computes with it'),
    ],
)
def test_a_size_that_becomes_a_number(function, reason, tmp_path):
    """The layer that makes a number of it is named, though PyTorch keeps its symbol."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Computes(function), nn.Conv2d(4, 2, 1)).eval()
    result = export_onnx(model, tmp_path / 'model.onnx', (3, 16, 16))
    assert result.dynamic == ('batch',) and result.fixed == f'{reason} as a number'


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(graph, 'Dim', SimpleNamespace())
    model, images = Computes(lambda x: x + 1), torch.zeros(2, 3, 16, 16)
    with pytest.raises(AttributeError, match='AUTO'):
        graph.to_onnx(model, dict(images=images), ['y'], free=['height'])


def test_classifier(tmp_path):
    model = built(small.classifier)
    path = tmp_path / 'model.onnx'
    result = export_onnx(model, path, (3, 64, 64), preprocess=True)
    assert result == dict(scores=(1, 7)) and result.dynamic == ('batch', 'height', 'width')
    images = torch.randint(0, 256, (3, 3, 50, 81), dtype=torch.uint8)
    with torch.no_grad():
        expected = model(model.data_preprocessor(dict(inputs=list(images.flip(1))))['inputs'])
    found = outputs(path, images)['scores']
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        assert not torch.allclose(
            found, model(model.data_preprocessor(dict(inputs=list(images)))['inputs']), atol=1e-2
        )


@pytest.mark.parametrize(
    ('maker', 'shape', 'kwargs', 'message'),
    [
        (small.classifier, (64, 64), {}, r'input_shape is \(64, 64\), expected \(channels, height'),
        (small.classifier, (3, 0, 64), {}, r'input_shape is \(3, 0, 64\)'),
        (
            small.classifier,
            (4, 64, 64),
            {},
            r'no raw outputs for images of \(1, 4, 64, 64\).*conv1',
        ),
        (small.classifier, (3, 64, 64), dict(argmax=True), 'argmax is for segmentors'),
        (
            small.faster_rcnn,
            (3, 64, 64),
            {},
            'FasterRCNN gives no raw outputs.*export the backbone',
        ),
        (Fixed, (3, 8, 8), dict(preprocess=True), 'Fixed has no data_preprocessor'),
    ],
)
def test_what_cannot_be_exported(maker, shape, kwargs, message, tmp_path):
    model = Fixed().eval() if maker is Fixed else built(maker)
    with pytest.raises(ExportError, match=message):
        export_onnx(model, tmp_path / 'model.onnx', shape, **kwargs)
    assert not list(tmp_path.iterdir())


def test_models_in_training(tmp_path):
    with pytest.raises(ExportError, match=r'in training mode \(.*\); call model.eval\(\) first'):
        export_onnx(built(small.classifier).train(), tmp_path / 'model.onnx', (3, 64, 64))


def test_sliding_windows_are_no_operator():
    from mmpse.openmmlab.deploy.network import Network

    with pytest.raises(ExportError, match="test_cfg.mode is 'slide', expected 'whole'"):
        Network(built(small.segmentor, mode='slide'), argmax=True)


def test_a_difference_is_an_error():
    expected = dict(a=torch.ones(2), b=torch.full((2,), 100.0))
    compare(expected, dict(a=torch.ones(2) + 5e-5, b=torch.tensor([100.0, 100.005])))
    for other in (torch.tensor([1, 1.001]), torch.tensor([1, torch.nan])):
        with pytest.raises(ExportError, match='computes something else: a differs'):
            compare(expected, dict(expected, a=other))
    with pytest.raises(ExportError, match=r'a is of \(3,\), expected \(2,\)'):
        compare(expected, dict(expected, a=torch.ones(3)))


def test_boxes_that_differ():
    from mmengine.structures import InstanceData

    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [5, 5, 9, 9]])
    scores, labels = torch.tensor([0.9, 0.6, 0.0505]), torch.tensor([0, 1, 1])
    expected = InstanceData(bboxes=boxes, scores=scores, labels=labels)
    same = dict(boxes=boxes + 0.3, scores=scores - 5e-4, labels=labels)
    assert compare_boxes(expected, same, 0.05)['box_difference'] == pytest.approx(0.3, abs=1e-5)
    first = [{name: value[:k] for name, value in same.items()} for k in range(3)]
    compare_boxes(expected, first[2], 0.05)  # the third is at the threshold
    with pytest.raises(ExportError, match='1 of 3 boxes differ'):
        compare_boxes(expected, first[1], 0.05)
    with pytest.raises(ExportError, match='1 of 1 boxes differ'):
        compare_boxes(expected[:0], first[1], 0.05)
    with pytest.raises(ExportError, match='2 of 3 boxes differ'):
        compare_boxes(expected, first[0], 0.05, limit=1)
    for change in (
        dict(boxes=boxes + 0.6),
        dict(scores=scores + 0.01),
        dict(labels=labels.flip(0)),
        {name: value[1:] for name, value in same.items()},
    ):
        with pytest.raises(ExportError, match='predicts something else'):
            compare_boxes(expected, dict(same, **change), 0.05)


def test_an_exporter_that_goes_wrong_writes_nothing(tmp_path, monkeypatch):
    from mmpse.openmmlab.deploy import onnx as exporter

    model = built(small.convs)
    whole = exporter._whole

    def wrong(*args):
        proto = whole(*args)
        model.head.fc.bias.data.add_(1)  # after the export
        return proto

    monkeypatch.setattr(exporter, '_whole', wrong)
    with pytest.raises(ExportError, match='scores differs by .*onnxruntime, images of'):
        export_onnx(model, tmp_path / 'model.onnx', (3, 16, 16))
    assert not list(tmp_path.iterdir())


def test_the_documented_script(detector, tmp_path):
    """The page's lines, where there is nothing but onnxruntime, NumPy and Pillow."""
    model, path, _ = detector
    small.picture(300, 200).save(tmp_path / 'picture.png')
    (tmp_path / 'model.onnx').write_bytes(path.read_bytes())
    page = (ROOT / 'docs/deployment.md').read_text()
    (code,) = [c for c in re.findall(r'```python\n(.*?)```', page, re.S) if 'onnxruntime' in c]
    assert len(code.strip().splitlines()) <= 15
    blocked = ('mmpse', 'mmcv', 'mmengine', 'mmdet', 'torch', 'torchvision', 'cv2', 'onnx')
    script = f'import sys\nfor name in {blocked}:\n    sys.modules[name] = None\n{code}'
    result = subprocess.run(
        [sys.executable, '-c', script], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    lines = result.stdout.strip().splitlines()
    found = small.predicted(model, tmp_path / 'picture.png').pred_instances
    assert len(lines) == int((found.scores > 0.3).sum()) > 3
    classes = model.dataset_meta['classes']
    for line, label, score, box in zip(lines, found.labels, found.scores, found.bboxes):
        name, number, *corners = line.split()
        assert name == classes[label] and float(number) == pytest.approx(float(score), abs=2e-3)
        assert list(map(float, corners)) == pytest.approx(box.tolist(), abs=0.6)
    assert (tmp_path / 'boxes.png').exists()
