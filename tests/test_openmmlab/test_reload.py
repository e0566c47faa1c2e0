"""A transferred model, saved and started again by the tools of mmdet and mmseg."""

import copy
import json
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.apis import init_detector
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmseg.apis import init_model
from PIL import Image

import mmpse
from mmpse.openmmlab.configs.building import build_model
from mmpse.registry import MODELS

SIZE = 96


@pytest.fixture
def coco(tmp_path, rng):
    """Two images with boxes, polygons and a crowd, as COCO has them."""
    (tmp_path / 'coco/val2017').mkdir(parents=True)
    (tmp_path / 'coco/annotations').mkdir()
    images, annotations = [], []
    for k in (1, 2):
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'coco/val2017/{k:012d}.jpg')
        images.append(dict(id=k, file_name=f'{k:012d}.jpg', width=SIZE, height=SIZE))
        for crowd in (0, 1):
            x, y, w, h = 10 + 20 * crowd, 20, 40, 30
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            runs = dict(size=[SIZE, SIZE], counts=[x * SIZE, w * SIZE, SIZE * (SIZE - x - w)])
            annotation = dict(id=2 * k + crowd, image_id=k, category_id=1 + 2 * crowd)
            annotation.update(bbox=[x, y, w, h], area=w * h, iscrowd=crowd)
            annotations.append(dict(annotation, segmentation=runs if crowd else polygon))
    classes = [dict(id=k, name=name) for k, name in enumerate(CocoDataset.METAINFO['classes'], 1)]
    content = dict(images=images, annotations=annotations, categories=classes)
    (tmp_path / 'coco/annotations/instances_val2017.json').write_text(json.dumps(content))
    return tmp_path / 'coco'


@pytest.fixture
def cityscapes(tmp_path, rng):
    """Two images with their label maps, as Cityscapes has them."""
    for k in (1, 2):
        name = f'ulm_00000{k}_000019'
        for folder, kind, shape in (
            ('leftImg8bit', 'leftImg8bit', (SIZE, SIZE, 3)),
            ('gtFine', 'gtFine_labelTrainIds', (SIZE, SIZE)),
        ):
            path = tmp_path / 'cityscapes' / folder / 'val/ulm' / f'{name}_{kind}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 19, shape, dtype=np.uint8)).save(path)
    return tmp_path / 'cityscapes'


def transferred(config, root, tmp_path, backbone='ResNet'):
    """A dumped config of a transferred model for small images, and the model's checkpoint."""
    classifier = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            data_preprocessor=dict(mean=[0.0] * 3, std=[1.0] * 3),
            backbone=dict(type=f'mmpretrain.{backbone}', depth=18),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=512),
        )
    )
    subnet = mmpse.units(classifier).space(model='ImageClassifier').uniform(0.5)
    cfg = mmpse.transfer(config, subnet, out=tmp_path / 'new.py').config
    cfg.work_dir = str(tmp_path / 'work')
    data = cfg.test_dataloader
    data.update(batch_size=1, num_workers=0, persistent_workers=False)
    data.dataset.data_root = f'{root}/'
    for step in data.dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (SIZE, SIZE)
    if 'test_cfg' in cfg.model and cfg.model.test_cfg.get('score_thr'):
        cfg.model.test_cfg.score_thr = 0.0
    model = build_model(cfg)
    for module in model.modules():  # as if it had been trained
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    predictions = predict(model, cfg)
    cfg.dump(tmp_path / 'dumped.py')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        meta = dict(dataset_meta=DATASETS.build(copy.deepcopy(data.dataset)).metainfo)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'model.pth')
    (tmp_path / 'new.py').unlink()
    return str(tmp_path / 'dumped.py'), str(tmp_path / 'model.pth'), predictions


def predict(model, cfg):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(copy.deepcopy(cfg.test_dataloader.dataset))
    model.eval()
    with torch.no_grad():
        return [model.test_step(pseudo_collate([item]))[0] for item in dataset]


def start(package, *arguments, cwd):
    tool = Path(find_spec(package).origin).parent / '.mim/tools/test.py'
    command = [sys.executable, str(tool), *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]


def test_detector(coco, tmp_path):
    config, checkpoint, expected = transferred(
        'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', coco, tmp_path
    )
    cfg = Config.fromfile(config)
    again = predict(init_detector(config, checkpoint, device='cpu'), cfg)
    cfg.test_evaluator.ann_file = str(coco / 'annotations/instances_val2017.json')
    cfg.dump(config)
    start('mmdet', config, checkpoint, '--out', tmp_path / 'out.pkl', cwd=tmp_path)
    dumped = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    assert len(expected) == len(again) == len(dumped) == 2
    for before, after, tool in zip(expected, again, dumped, strict=True):
        before, after = before.pred_instances, after.pred_instances
        assert len(before) > 10
        for key in ('bboxes', 'scores', 'labels'):
            torch.testing.assert_close(after[key], before[key])
            torch.testing.assert_close(tool['pred_instances'][key], before[key])


def test_segmentor(cityscapes, tmp_path):
    config, checkpoint, expected = transferred(
        'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        cityscapes,
        tmp_path,
        'ResNetV1c',
    )
    again = predict(init_model(config, checkpoint, device='cpu'), Config.fromfile(config))
    start('mmseg', config, checkpoint, '--out', tmp_path / 'out', cwd=tmp_path)
    for before, after in zip(expected, again, strict=True):
        labels = before.pred_sem_seg.data
        assert len(labels.unique()) > 1
        assert torch.equal(after.pred_sem_seg.data, labels)
        drawn = np.array(Image.open(tmp_path / 'out' / f'{Path(before.img_path).stem}.png'))
        assert np.array_equal(drawn, labels[0].numpy())
