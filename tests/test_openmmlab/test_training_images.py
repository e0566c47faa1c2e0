"""Training images of stock configs, on tiny data in the real formats."""

import copy
import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR10
from task_data import (
    write_ade20k,
    write_cifar10,
    write_cityscapes,
    write_coco,
    write_imagenet,
    write_voc_boxes,
)

from mmpse.openmmlab.configs.datasets import all_training
from mmpse.openmmlab.models.losses import training_batches

COCO = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
RTMDET = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
YOLOX = 'mmdet::yolox/yolox_s_8xb8-300e_coco.py'
ADE20K = 'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'
CIFAR = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
IMAGENET = 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'
# each with the different images in its training set
TOTALS = {
    # of 38 without the one that has no objects
    COCO: 37,
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': 37,
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': 37,
    RTMDET: 37,
    YOLOX: 38,
    'mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py': 36,
    'mmdet::pascal_voc/ssd300_voc0712.py': 36,
    'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py': 34,
    ADE20K: 33,
    CIFAR: 40,
    IMAGENET: 36,
}


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Iterator[Path]:
    root, rng = tmp_path_factory.mktemp('place'), np.random.default_rng(0)
    data = root / 'data'
    write_coco(data, rng, dict(train2017=38))
    years = dict(VOC2007=dict(trainval=20, test=2), VOC2012=dict(trainval=16))
    write_voc_boxes(data, rng, years)
    write_cityscapes(data, rng, dict(train=34))
    write_ade20k(data, rng, dict(training=33))
    write_imagenet(data, rng, dict(train=12, val=1))
    write_cifar10(data, rng, 8)
    gc.freeze()  # every dataset that is built collects garbage, among all that was imported
    yield root
    gc.unfreeze()


@pytest.fixture(autouse=True)
def place(root, monkeypatch) -> Path:
    monkeypatch.chdir(root)
    monkeypatch.setattr(CIFAR10, '_check_integrity', lambda self: True)
    return root


def config(name: str) -> Config:
    """A stock config, with images that are resized to small ones."""
    cfg = Config.fromstring(f'_base_ = {name!r}', '.py')

    def visit(value):
        if isinstance(value, (list, tuple)):
            for item in value:
                visit(item)
        elif isinstance(value, dict):
            for key in value.keys() & {'scale', 'crop_size', 'size', 'img_scale'}:
                if isinstance(value[key], (tuple, list)):
                    value[key] = (64, 48) if 'scale' in key else (48, 64)
            for item in value.values():
                visit(item)

    visit([cfg.train_dataloader, cfg.val_dataloader, cfg.get('custom_hooks')])
    if 'in1k' in name:
        classes = [f'n0000000{k}' for k in range(3)]
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset.classes = classes
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    return cfg


def leaf(cfg: Config) -> dict:
    return cfg.train_dataloader.dataset


def changed(cfg: Config, dataset: dict) -> Config:
    """The config with another training set."""
    cfg = copy.deepcopy(cfg)
    cfg.train_dataloader.dataset = dataset
    return cfg


def build(cfg: Config, loader: dict):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return Runner.build_dataloader(loader, seed=0)


def names(dataset) -> list:
    """Of the images, in order."""
    infos = [dataset.get_data_info(k) for k in range(len(dataset))]
    return [info['img_path'] if 'img_path' in info else info['img'].tobytes() for info in infos]


def samples(batch: dict) -> list:
    return batch['data_samples']


@pytest.mark.parametrize('name', TOTALS)
def test_every_training_image_is_there_with_its_annotations(name):
    cfg = config(name)
    built = build(cfg, all_training(cfg))
    own = names(build(cfg, cfg.train_dataloader).dataset)  # VOC's are repeated
    assert names(built.dataset) == own[: TOTALS[name]]
    assert len(set(own)) == len(built.dataset) == TOTALS[name]
    batch = next(iter(built))
    assert batch['inputs'][0].shape[0] == 3
    labels = 'gt_sem_seg' if 'mmseg' in name else 'gt_label' if 'mmpre' in name else 'gt_instances'
    assert all(labels in sample for sample in samples(batch))
    assert cfg.to_dict() == config(name).to_dict()  # left as it was


def test_they_come_in_the_same_random_order_every_time():
    cfg = config(IMAGENET)
    cfg.train_dataloader.batch_size = 4
    orders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        loader = build(cfg, all_training(cfg))
        orders.append([sample.img_path for batch in loader for sample in samples(batch)])
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == names(loader.dataset) != orders[0]  # classes are mixed
    assert list(build(cfg, all_training(cfg, seed=1)).sampler) != list(loader.sampler)


# Wrapped data sets


def test_images_that_training_repeats_are_there_once():
    cfg = config(ADE20K)
    joined = dict(type='ConcatDataset', datasets=[leaf(cfg), dict(leaf(cfg), indices=20)])
    expected = build(cfg, all_training(changed(cfg, joined)))
    repeated = dict(type='RepeatDataset', times=3, dataset=joined)
    built = build(cfg, all_training(changed(cfg, repeated)))
    assert names(built.dataset) == names(expected.dataset) and len(built.dataset) == 53
    assert list(built.sampler) == list(expected.sampler)
    cfg = config(IMAGENET)
    balanced = dict(type='ClassBalancedDataset', oversample_thr=0.9, dataset=leaf(cfg))
    assert len(build(cfg, changed(cfg, balanced).train_dataloader).dataset) > 36
    assert len(build(cfg, all_training(changed(cfg, balanced))).dataset) == 36


@pytest.mark.parametrize('how', ['repeated', 'joined'])
def test_no_image_that_is_drawn_is_drawn_twice(how):
    """Else an image that layers were fitted to would judge them."""
    cfg = config(COCO)
    repeated = dict(type='RepeatDataset', times=5, dataset=leaf(cfg))
    if how == 'joined':
        first, rest = (dict(leaf(cfg), indices=k) for k in (list(range(10)), list(range(10, 37))))
        parts = [dict(type='RepeatDataset', times=4, dataset=part) for part in (first, rest)]
        repeated = dict(type='ConcatDataset', datasets=parts)
    batches = training_batches(all_training(changed(cfg, repeated)), 128, 'mmdet')
    drawn = [sample.img_path for batch in batches for sample in samples(batch)]
    plain = training_batches(all_training(config(COCO)), 128, 'mmdet')
    assert len(set(drawn)) == len(drawn) == 37
    assert drawn == [sample.img_path for batch in plain for sample in samples(batch)]


def test_a_fold_stays_in_its_fold():
    cfg = config(CIFAR)
    fold = dict(type='KFoldDataset', num_splits=4, fold=1, seed=3)
    other = dict(fold, dataset=config(CIFAR).train_dataloader.dataset, test_mode=True)
    cfg.train_dataloader.dataset = dict(fold, dataset=leaf(cfg))
    ours = names(build(cfg, all_training(cfg)).dataset)
    others = names(build(cfg, dict(cfg.val_dataloader, dataset=other)).dataset)
    assert (len(ours), len(others)) == (30, 10) and not set(ours) & set(others)


def test_digits(digits):
    """A data set that a function builds."""
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/digits_classification.py')
    cfg.default_scope = 'mmpretrain'
    cfg.train_dataloader.dataset.data_root = str(digits)
    expected = build(cfg, cfg.train_dataloader).dataset
    assert names(build(cfg, all_training(cfg)).dataset) == names(expected)


def test_a_new_style_config(place, tmp_path):
    """Its types are classes; its dataloader can be written down."""
    source = tmp_path / 'new_style.py'
    source.write_text(f"""
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmengine.dataset import DefaultSampler, RepeatDataset

train_dataloader = dict(
    batch_size=2,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=RepeatDataset,
        times=2,
        dataset=dict(
            type=CocoDataset,
            data_root={str(place / 'data/coco')!r},
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017'),
            pipeline=[
                dict(type=LoadImageFromFile),
                dict(type=LoadAnnotations, with_bbox=True),
                dict(type=PackDetInputs),
            ],
        ),
    ),
)
""")
    loader = all_training(Config.fromfile(source))
    read = Config.fromstring(Config(dict(loader=loader)).pretty_text, '.py')
    built = Runner.build_dataloader(read.loader)
    assert len(built.dataset) == 38
    assert 'gt_instances' in samples(next(iter(built)))[0]


# Augmentation that a hook changes


def test_rtmdet_comes_without_mosaic():
    cfg = config(RTMDET)
    last, first = (build(cfg, x).dataset for x in (all_training(cfg), cfg.train_dataloader))
    assert 'Mosaic' not in str(last.pipeline) and 'Mosaic' in str(first.pipeline)
    (hook,) = [hook for hook in cfg.custom_hooks if hook.type == 'PipelineSwitchHook']
    assert len(last.pipeline.transforms) == len(hook.switch_pipeline)


def test_a_switch_of_the_recipe_reaches_wrapped_data():
    cfg = config(CIFAR)
    last = [dict(type='PackInputs')]
    schedule = [
        dict(action_epoch=9, train_pipeline=last),
        dict(action_epoch=5, train_pipeline=[dict(type='RandomFlip'), *last]),
    ]
    cfg.custom_hooks = [dict(type='SwitchRecipeHook', schedule=schedule)]
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=leaf(cfg))
    assert all_training(cfg).dataset.pipeline == last


def test_yolox_comes_without_mosaic():
    cfg = config(YOLOX)
    loader = all_training(cfg)
    assert loader.dataset.skip_type_keys == ['Mosaic', 'RandomAffine', 'MixUp']
    dataset = build(cfg, loader).dataset
    for step in dataset.pipeline[:3]:
        step.transform = None  # would fail
    assert dataset[0]['inputs'].shape[0] == 3


# Errors


def test_a_config_that_does_not_train():
    cfg = config(COCO)
    cfg.train_dataloader.dataset = [1]
    with pytest.raises(ValueError, match='train_dataloader.dataset is a list; give the config'):
        all_training(cfg)
    cfg.train_dataloader = None
    with pytest.raises(ValueError, match='the config has no train_dataloader'):
        all_training(cfg)
