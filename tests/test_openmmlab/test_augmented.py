"""Tests with augmentation: views of an image, and what is predicted of them as one."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmdet.models import DetTTAModel
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, load_checkpoint
from tiny_tasks import write_task
from torch import nn

from mmpse.openmmlab.checkpoints.loading import check_shapes
from mmpse.openmmlab.configs.augmented import augment_test, check_merging
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.errors import CheckpointError, ConfigError
from mmpse.openmmlab.jobs import model_of
from mmpse.registry import MODELS


def predictions(cfg, checkpoint):
    """Those of a test by a config, of its first two images."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        loader = Runner.build_dataloader(cfg.test_dataloader)
        model = MODELS.build(copy.deepcopy(cfg.model)).eval()
    load_checkpoint(model, str(checkpoint))
    with torch.no_grad():
        return model.test_step(next(iter(loader)))


@pytest.fixture
def task(digits, tmp_path):
    """The config of a test of a task, with random weights."""

    def make(name):
        config, checkpoint = write_task(name, digits, tmp_path)
        cfg = Config.fromfile(config)
        cfg.test_dataloader = dict(cfg.val_dataloader, batch_size=2)
        return cfg, checkpoint

    return make


def mirrored(cfg):
    """A config whose images are all mirrored."""
    cfg = copy.deepcopy(cfg)
    cfg.test_dataloader.dataset.pipeline.insert(-1, dict(type='RandomFlip', prob=1.0))
    if cfg.default_scope == 'mmdet':
        keys = 'img_path ori_shape img_shape scale_factor flip flip_direction'.split()
        cfg.test_dataloader.dataset.pipeline[-1].meta_keys = keys
    return cfg


def test_a_classifier_sees_the_image_and_its_mirror_image(task):
    cfg, checkpoint = task('classification')
    plain, other = predictions(cfg, checkpoint), predictions(mirrored(cfg), checkpoint)
    augment_test(cfg)
    for a, b, found in zip(plain, other, predictions(cfg, checkpoint), strict=True):
        assert not torch.allclose(a.pred_score, b.pred_score)
        torch.testing.assert_close(found.pred_score, (a.pred_score + b.pred_score) / 2)
        assert found.gt_label == a.gt_label


def test_a_segmentor_sees_the_image_and_its_mirror_image(task):
    cfg, checkpoint = task('segmentation')
    plain, other = predictions(cfg, checkpoint), predictions(mirrored(cfg), checkpoint)
    augment_test(cfg)
    for a, b, found in zip(plain, other, predictions(cfg, checkpoint), strict=True):
        views = [x.seg_logits.data.softmax(0) for x in (a, b)]  # mmseg turns them back
        assert torch.equal(found.pred_sem_seg.data[0], sum(views).argmax(0))
        assert torch.equal(found.gt_sem_seg.data, a.gt_sem_seg.data)  # not the mirrored ones


def test_a_detector_sees_the_image_and_its_mirror_image(task):
    cfg, checkpoint = task('detection')
    plain, other = predictions(cfg, checkpoint), predictions(mirrored(cfg), checkpoint)
    augment_test(cfg)
    for a, b, found in zip(plain, other, predictions(cfg, checkpoint), strict=True):
        width = a.ori_shape[1]
        back = b.pred_instances.bboxes
        back = torch.stack([width - back[:, 2], back[:, 1], width - back[:, 0], back[:, 3]], 1)
        views = torch.cat([a.pred_instances.bboxes, back])
        scores = torch.cat([a.pred_instances.scores, b.pred_instances.scores])
        boxes, best = found.pred_instances.bboxes, found.pred_instances.scores
        assert best[0] == scores.max() and len(boxes) > 10
        nearest = (boxes[:, None] - views).abs().amax(-1).argmin(1)
        torch.testing.assert_close(boxes, views[nearest], rtol=0, atol=1e-3)
        torch.testing.assert_close(best, scores[nearest], rtol=1e-3, atol=1e-4)


def test_what_a_config_says_of_its_views_is_done(task):
    """As stock configs do: their own pipeline and model, of every dataset that is tested."""
    cfg, checkpoint = task('classification')
    plain = predictions(cfg, checkpoint)
    load, pack = cfg.test_dataloader.dataset.pipeline
    views = [[dict(type='RandomFlip', prob=0.0)] * 2, [pack]]
    cfg.tta_pipeline = [load, dict(type='TestTimeAug', transforms=views)]
    cfg.tta_model = dict(type='mmpretrain.AverageClsScoreTTA')
    dataset = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[dataset, dataset])
    augment_test(cfg)
    for a, found in zip(plain, predictions(cfg, checkpoint), strict=True):
        torch.testing.assert_close(found.pred_score, a.pred_score)
    assert all(one.pipeline == cfg.tta_pipeline for one in cfg.test_dataloader.dataset.datasets)


def test_a_checkpoint_of_another_model_is_refused(task):
    cfg, checkpoint = task('classification')
    content = torch.load(checkpoint, weights_only=False)
    augment_test(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        runner = SimpleNamespace(model=MODELS.build(cfg.model))
    check_shapes(model_of(runner), content, str(checkpoint))
    content['state_dict']['backbone.conv1.weight'] = torch.zeros(8, 3, 7, 7)
    with pytest.raises(CheckpointError, match='is of another model, or of another subnet'):
        check_shapes(model_of(runner), content, str(checkpoint))


def test_masks_are_not_merged():
    cfg = load_config('mmdet::_base_/models/mask-rcnn_r50_fpn.py')
    detector = build_model(cfg)
    merging = DetTTAModel(module=detector)
    with pytest.raises(ConfigError, match=r'MaskRCNN predicts masks \(roi_head.mask_head\).*--tta'):
        check_merging(nn.Sequential(merging))  # as in a wrapper of several processes
    check_merging(detector)
    detector.roi_head.mask_head = None
    check_merging(merging)


def test_a_config_that_cannot_be_augmented(task):
    cfg, _ = task('classification')
    cfg.default_scope = 'mmpose'
    with pytest.raises(ConfigError, match="has no tta_model, .* default_scope is 'mmpose'"):
        augment_test(cfg)
    cfg.test_dataloader = None
    with pytest.raises(ConfigError, match='has no test_dataloader'):
        augment_test(cfg)
