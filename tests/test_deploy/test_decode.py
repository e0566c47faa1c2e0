"""Boxes decoded and suppressed in operations that ONNX has, against mmdet's own predictions."""

import pytest
import small
import torch
from mmdet.structures import DetDataSample
from small import built
from torch import nn

from mmpse.deploy import ExportError
from mmpse.openmmlab.deploy.agreement import compare_boxes
from mmpse.openmmlab.deploy.network import Network, Preprocess, padded_to
from mmpse.registry import MODELS

FAMILIES = [small.retinanet, small.atss, small.fcos, small.rtmdet, small.yolox]
SIZES = [(128, 160), (160, 96)]


def predictions(model, images):
    """mmdet's, for pictures of whole multiples of 32."""
    size = tuple(images.shape[-2:])
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), batch_input_shape=size)
    samples = [DetDataSample(metainfo=dict(meta, pad_shape=size)) for _ in images]
    return [s.pred_instances for s in model.predict(images, samples, rescale=False)]


def decoded(network, images):
    raw = network.raw(images)
    return dict(zip(network.after.names, network.after(images, images, *raw), strict=True))


@torch.no_grad()
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('family', FAMILIES, ids=lambda family: family.__name__)
def test_boxes_are_mmdets(family, size):
    model = built(family)
    images = small.noise(2, *size)
    expected = predictions(model, images)
    found = decoded(Network(model, decode=True, nms=True), images)
    assert sum(map(len, expected)) > 20
    for k, instances in enumerate(expected):
        present = found['scores'][k] > 0
        one = {name: values[k][present] for name, values in found.items()}
        assert len(one['scores']) == len(instances)
        torch.testing.assert_close(one['scores'], instances.scores)
        differences = compare_boxes(instances, one, threshold=0.0)
        assert differences['box_difference'] < 1e-2
        assert (found['labels'][k][~present] == -1).all()
    assert len(set(torch.cat([boxes.labels for boxes in expected]).tolist())) > 1


@torch.no_grad()
@pytest.mark.parametrize('family', [small.retinanet, small.fcos, small.yolox])
def test_candidates_are_mmdets(family):
    """Without suppression: those that mmdet suppresses among."""
    model = built(family)
    images = small.noise(2, 128, 160)
    network = Network(model, decode=True)
    found, meta = decoded(network, images), dict(img_shape=(128, 160))
    expected = model.bbox_head.predict_by_feat(
        *model(images), batch_img_metas=[meta] * 2, with_nms=False
    )
    for k, instances in enumerate(expected):
        present = found['scores'][k] > 0
        scores, order = instances.scores.sort(descending=True)
        torch.testing.assert_close(found['scores'][k][present].sort(descending=True)[0], scores)


@pytest.mark.parametrize(
    ('maker', 'change', 'message'),
    [
        (small.gfl, {}, 'cannot decode GFLHead: its _predict_by_feat_single is its own'),
        (small.faster_rcnn, {}, 'decode is for detectors with a dense head .*got FasterRCNN'),
        (small.ssd, {}, "cannot decode SSDHead: mmdet's own predict fails"),
        (small.classifier, {}, 'decode is for detectors .*got ImageClassifier'),
        (small.retinanet, dict(nms_pre=-1), 'test_cfg.nms_pre is -1, expected the number'),
        (
            small.retinanet,
            dict(nms=dict(type='soft_nms', iou_threshold=0.5)),
            'cannot put the suppression of RetinaNet into ONNX: .*soft_nms',
        ),
    ],
)
def test_heads_that_cannot_be_decoded(maker, change, message):
    model = built(maker)
    if change:
        model.bbox_head.test_cfg.update(change)
        if 'nms' in change:
            model.bbox_head.test_cfg.nms = change['nms']
    with pytest.raises(ExportError, match=message):
        Network(model, decode=True, nms=True)


def test_suppression_without_boxes():
    with pytest.raises(ExportError, match='nms needs decoded boxes'):
        Network(built(small.retinanet), nms=True)


@pytest.mark.parametrize(
    'preprocessor',
    [
        dict(type='mmdet.DetDataPreprocessor', pad_size_divisor=32),  # YOLOX: nothing but padding
        dict(type='mmdet.DetDataPreprocessor', pad_size_divisor=16, pad_value=2, **small.BGR),
        dict(type='mmdet.DetDataPreprocessor', **small.RGB),
        dict(type='mmseg.SegDataPreProcessor', size=(64, 64), **small.RGB),  # pads in training
        dict(type='mmpretrain.ClsDataPreprocessor', mean=[127.0], std=[60.0], to_rgb=True),
    ],
)
def test_preprocessing_is_the_data_preprocessors(preprocessor):
    model = nn.Module()
    model.data_preprocessor = MODELS.build(preprocessor)
    images = torch.randint(0, 256, (2, 3, 50, 77), dtype=torch.uint8)
    samples = [DetDataSample(metainfo=dict(img_shape=(50, 77))) for _ in images]
    if 'Cls' in preprocessor['type']:
        samples = None
    expected = model.data_preprocessor(dict(inputs=list(images.flip(1)), data_samples=samples))
    torch.testing.assert_close(Preprocess(model, padded_to(model))(images), expected['inputs'])
