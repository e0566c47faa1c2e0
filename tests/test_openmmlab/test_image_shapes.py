"""The images that a config tests its model with: channels, and height and width."""

from pathlib import Path

import pytest
from mmengine.config import Config
from torch import nn

from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.configs.images import default_input_shape
from mmpse.openmmlab.errors import ConfigError

TOY = dict(type='Toy')


@pytest.mark.parametrize(
    'config, shape',
    [
        # 1333 x 800 at most, padded to a multiple of 32
        ('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', (3, 800, 1344)),
        ('mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py', (3, 1024, 2048)),
        ('mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py', (3, 512, 512)),
        ('mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py', (3, 320, 320)),
        ('mmpretrain::resnet/resnet50_8xb32_in1k.py', (3, 224, 224)),
        ('mmpretrain::resnet/resnet18_8xb16_cifar10.py', (3, 32, 32)),
    ],
)
def test_shape_of_images(config, shape):
    cfg = load_config(config)
    divisor = nn.Module()
    divisor.pad_size_divisor = 32 if config.startswith('mmdet') else 1
    model = nn.Sequential(divisor, nn.Conv2d(3, 8, 3))
    assert default_input_shape(cfg, model) == shape
    grouped = nn.Sequential(divisor, nn.Conv2d(6, 6, 3, groups=3))
    assert default_input_shape(cfg, grouped) == (6, *shape[1:])


def test_images_of_yolox_have_the_channels_of_a_pixel():
    cfg = load_config('mmdet::yolox/yolox_nano_8xb8-300e_coco.py')
    assert default_input_shape(cfg, build_model(cfg)) == (3, 416, 416)


@pytest.mark.parametrize(
    'pipeline, size',
    [
        ([dict(type='Resize', scale=(48, 32))], (32, 48)),
        ([dict(type='Resize', scale=40)], (40, 40)),
        ([dict(type='Resize', scale=(64, 96), keep_ratio=True)], (64, 96)),
        ([dict(type='Resize', scale=(48, 32)), dict(type='Pad', size=(64, 56))], (56, 64)),
        ([dict(type='ResizeEdge', scale=256), dict(type='CenterCrop', crop_size=224)], (224, 224)),
        ([dict(type='CenterCrop', crop_size=(60, 30))], (30, 60)),
    ],
)
def test_size_by_the_test_pipeline(pipeline, size):
    model = nn.Conv2d(1, 8, 3)
    dataset = dict(type='Toy', pipeline=pipeline)
    for wrapped in (dataset, dict(type='Repeat', dataset=dataset), dict(datasets=[dataset])):
        cfg = Config(dict(model=TOY, test_dataloader=dict(dataset=wrapped)))
        assert default_input_shape(cfg, model) == (1, *size)
        cfg = Config(dict(model=TOY, test_dataloader=None, val_dataloader=dict(dataset=wrapped)))
        assert default_input_shape(cfg, model) == (1, *size)


def test_size_by_the_first_image_or_an_error(digits: Path, monkeypatch, buggy):
    dataset = dict(
        type='mmpse.DigitsDataset',
        task='classification',
        split='test',
        data_root=str(digits),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    )
    content = dict(model=TOY, test_dataloader=dict(dataset=dataset))
    cfg = Config(dict(content, default_scope='mmpretrain'))
    model = nn.Linear(7, 8)
    assert default_input_shape(cfg, model) == (7, 32, 32)
    dataset['data_root'] = 'nowhere'
    cfg = Config(content)
    with pytest.raises(ConfigError, match='its test data cannot be read .*; give the input'):
        default_input_shape(cfg, model)
    monkeypatch.setattr('mmpse.datasets.dataset.check_digits', buggy)
    with pytest.raises(KeyError, match='conv1'):  # a bug of ours is none of the data
        default_input_shape(cfg, model)
