"""Images held out of training sets of stock configs, on tiny data in the real formats."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import METRICS, DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmpretrain.datasets import CIFAR10
from PIL import Image
from task_data import (
    HEIGHT,
    WIDTH,
    write_ade20k,
    write_cifar10,
    write_cityscapes,
    write_coco,
    write_imagenet,
    write_voc_boxes,
)

from mmpse.openmmlab.configs.splits import held_out
from mmpse.registry import DATASETS

# each with the different images in its training set
TOTALS = {
    # of 38 without the one that has no objects
    'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py': 37,
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': 37,
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': 37,
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py': 37,
    'mmdet::yolox/yolox_s_8xb8-300e_coco.py': 38,
    'mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py': 36,
    'mmdet::pascal_voc/ssd300_voc0712.py': 36,
    'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py': 34,
    'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py': 33,
    'mmpretrain::resnet/resnet18_8xb16_cifar10.py': 40,
    'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py': 36,
}
COCO = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
VOC = 'mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py'


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Iterator[Path]:
    root, rng = tmp_path_factory.mktemp('place'), np.random.default_rng(0)
    data = root / 'data'
    write_coco(data, rng, dict(train2017=38, val2017=2))
    years = dict(VOC2007=dict(trainval=20, test=2), VOC2012=dict(trainval=16))
    write_voc_boxes(data, rng, years)
    write_cityscapes(data, rng, dict(train=34, val=2))
    write_ade20k(data, rng, dict(training=33, validation=2))
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


def build(cfg: Config, loader: dict):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return Runner.build_dataloader(loader, seed=0)


def names(dataset) -> list:
    """Of the images, in order."""
    infos = [dataset.get_data_info(k) for k in range(len(dataset))]
    return [info['img_path'] if 'img_path' in info else info['img'].tobytes() for info in infos]


def samples(batch: dict) -> list:
    return batch['data_samples']


def metric(cfg: Config, evaluator: dict, dataset):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        built = METRICS.build(dict(evaluator))
    built.dataset_meta = dataset.metainfo
    return built


# All stock data sets


@pytest.mark.parametrize('name', TOTALS)
def test_every_image_is_trained_on_or_held_out(name):
    cfg = config(name)
    split = held_out(cfg)
    assert (split.images, split.total) == (16, TOTALS[name])
    parts = {
        part: build(cfg, getattr(split, part)) for part in ('calibration', 'held_out', 'train')
    }
    paths = {part: names(loader.dataset) for part, loader in parts.items()}
    everything = set(names(build(cfg, cfg.train_dataloader).dataset))
    assert len(paths['held_out']) == len(set(paths['held_out'])) == 16
    assert set(paths['held_out']) | set(paths['train']) == everything
    assert not set(paths['held_out']) & set(paths['train'])
    assert paths['calibration'] == paths['train']
    assert len(everything) == split.total

    # held-out images as the config validates: unshuffled, once, annotated
    seen = [sample for batch in parts['held_out'] for sample in samples(batch)]
    assert len(seen) == 16
    if 'img_path' in seen[0].metainfo:
        assert [sample.img_path for sample in seen] == paths['held_out']
    labels = 'gt_sem_seg' if 'mmseg' in name else 'gt_label' if 'mmpre' in name else 'gt_instances'
    assert all(labels in sample for sample in seen)
    validated = names(build(cfg, cfg.val_dataloader).dataset)
    assert not set(validated) & everything

    # training goes on as configured, on fewer images
    batch = next(iter(parts['train']))
    assert len(batch['inputs']) == min(cfg.train_dataloader.batch_size, len(paths['train']))
    assert all(labels in sample for sample in samples(batch))
    assert split.train.get('sampler') == cfg.train_dataloader.sampler
    unseen = build(cfg, split.unseen)
    assert sorted(names(unseen.dataset)) == sorted(paths['held_out'])
    assert sum(len(batch['inputs']) for batch in unseen) == 16
    assert list(unseen.sampler) != sorted(unseen.sampler)  # data sets are sorted by class
    assert next(iter(parts['calibration']))['inputs'][0].shape[0] == 3


@pytest.mark.parametrize('name', [COCO, VOC])
def test_the_choice_depends_on_the_seed_alone(name):
    cfg = config(name)
    np.random.seed(1)
    first = held_out(cfg)
    np.random.seed(2)
    torch.manual_seed(2)
    assert held_out(cfg) == first
    assert held_out(config(name)) == first
    other = held_out(cfg, seed=1)
    chosen, others = (set(names(build(cfg, split.held_out).dataset)) for split in (first, other))
    assert chosen != others
    assert cfg.to_dict() == config(name).to_dict()  # left as it was


def test_calibration_has_the_same_images_every_time_in_a_random_order():
    cfg = config('mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py')
    cfg.train_dataloader.batch_size = 4
    split = held_out(cfg)
    orders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        loader = build(cfg, split.calibration)
        orders.append([sample.img_path for batch in loader for sample in samples(batch)])
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == names(loader.dataset) != orders[0]  # classes are mixed


def test_how_many():
    cfg = config(COCO)
    split = held_out(cfg, images=5)
    assert split.images == 5 == len(build(cfg, split.held_out).dataset)
    with pytest.raises(ValueError, match='19 of 37 training images cannot be held out.*18'):
        held_out(cfg, images=19)
    with pytest.raises(ValueError, match='0 of 37'):
        held_out(cfg, images=0)
    cfg.train_dataloader.dataset.indices = 20
    with pytest.raises(ValueError, match='16 of 20'):
        held_out(cfg, images=16)
    small = held_out(cfg)
    assert (small.images, small.total) == (10, 20)  # not 16: they would be more than half


def test_a_tenth_of_a_large_set_and_at_most_512():
    cfg = config('mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py')

    def total(count: int) -> tuple[int, int]:
        data = dict(
            metainfo=dict(classes=['one']),
            data_list=[dict(img_path=f'{k}.png') for k in range(count)],
        )
        Path('many.json').write_text(json.dumps(data))
        cfg.train_dataloader.dataset = dict(
            type='mmengine.dataset.BaseDataset', ann_file='many.json', pipeline=[]
        )
        split = held_out(cfg)
        assert len(build(cfg, split.train).dataset) == split.total - split.images
        return split.images, split.total

    assert total(400) == (40, 400)
    assert total(8000) == (512, 8000)


# Metrics


@pytest.mark.parametrize(
    'name', [COCO, 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'], ids=['boxes', 'masks']
)
def test_coco_metric_judges_as_by_a_file_of_the_held_out_images(name, place, rng):
    cfg = config(name)
    cfg.val_evaluator.classwise = True
    split = held_out(cfg)
    loader = build(cfg, split.held_out)
    ids = {loader.dataset.get_data_info(k)['img_id'] for k in range(16)}
    content = json.loads((place / 'data/coco/annotations/instances_train2017.json').read_text())
    content['images'] = [image for image in content['images'] if image['id'] in ids]
    content['annotations'] = [row for row in content['annotations'] if row['image_id'] in ids]
    assert {row['iscrowd'] for row in content['annotations']} == {0, 1}
    (place / 'held-out.json').write_text(json.dumps(content))
    by_file = dict(cfg.val_evaluator, ann_file='held-out.json')
    metrics = [metric(cfg, evaluator, loader.dataset) for evaluator in (split.evaluator, by_file)]
    for batch in loader:
        for sample in samples(batch):
            rows = [row for row in sample.instances for _ in range(2)]  # found twice, roughly
            boxes = torch.tensor([row['bbox'] for row in rows]) + torch.from_numpy(
                rng.normal(0, 3, (len(rows), 4))
            )
            found = InstanceData(
                bboxes=boxes,
                labels=torch.tensor([row['bbox_label'] for row in rows]),
                scores=torch.from_numpy(rng.random(len(rows))),
            )
            if 'mask' in name:
                masks = torch.zeros(len(rows), *sample.ori_shape, dtype=torch.bool)
                for mask, (x1, y1, x2, y2) in zip(masks, boxes.clip(0).int(), strict=True):
                    mask[y1:y2, x1:x2] = True
                found.masks = masks
            sample.pred_instances = found
            for one in metrics:
                one.process(batch, [sample.to_dict()])
    ours, expected = (one.evaluate(16) for one in metrics)
    sized = ('_s', '_m', '_l')  # areas of boxes and of polygons differ
    compared = {key for key in expected if not key.endswith(sized)}
    assert len(compared) > 20 and ours.keys() == expected.keys()
    np.testing.assert_equal(
        {key: ours[key] for key in compared}, {key: expected[key] for key in compared}
    )
    assert 0.1 < ours['coco/bbox_mAP'] < ours['coco/bbox_mAP_50']
    if 'mask' in name:
        assert 0.1 < ours['coco/segm_mAP'] < ours['coco/segm_mAP_50']


def test_voc_metric_judges_as_on_lists_of_the_held_out_images(place, rng):
    """Boxes that training ignores for their size count, as they do in validation."""
    cfg = config(VOC)
    split = held_out(cfg)
    loader = build(cfg, split.held_out)
    paths = names(loader.dataset)
    (joined,) = [cfg.train_dataloader.dataset.dataset]
    for dataset in joined.datasets:
        year = dataset.data_prefix.sub_data_root
        chosen = [Path(path).stem for path in paths if year in path]
        assert 0 < len(chosen) < 16
        dataset.ann_file = f'{year}chosen.txt'
        (place / 'data/VOCdevkit' / dataset.ann_file).write_text('\n'.join(chosen))
        dataset.update(test_mode=True, pipeline=cfg.val_dataloader.dataset.pipeline)
        del dataset.filter_cfg
    expected = build(cfg, dict(cfg.val_dataloader, dataset=joined))
    metrics = [metric(cfg, split.evaluator, loader.dataset) for _ in range(2)]
    for batch, other in zip(loader, expected, strict=True):
        for sample, twin in zip(samples(batch), samples(other), strict=True):
            assert sample.img_path == twin.img_path
            truth = sample.gt_instances
            found = InstanceData(
                bboxes=truth.bboxes.tensor + torch.from_numpy(rng.normal(0, 6, (len(truth), 4))),
                labels=truth.labels,
                scores=torch.from_numpy(rng.random(len(truth))),
            )
            for one, judged in zip(metrics, (sample, twin), strict=True):
                judged.pred_instances = found
                one.process(batch, [judged.to_dict()])
    ours, truth = (one.evaluate(16) for one in metrics)
    assert ours == truth
    assert 0.1 < ours['pascal_voc/mAP'] < 1


def test_iou_metric_judges_by_the_held_out_masks(place, rng):
    cfg = config('mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py')
    split = held_out(cfg)
    loader = build(cfg, split.held_out)
    judge = metric(cfg, split.evaluator, loader.dataset)
    both, either = np.zeros(19), np.zeros(19)
    for batch in loader:
        for sample in samples(batch):
            truth = np.asarray(Image.open(sample.seg_map_path))
            assert truth.shape == (HEIGHT, WIDTH)
            right = rng.random(truth.shape) < 0.7
            found = np.where(right & (truth < 19), truth, rng.integers(0, 19, truth.shape))
            for k in range(19):
                hit, there = (found == k) & (truth < 19), truth == k
                both[k] += (hit & there).sum()
                either[k] += (hit | there).sum()
            predicted = dict(
                sample.to_dict(), pred_sem_seg=dict(data=torch.from_numpy(found)[None])
            )
            judge.process(batch, [predicted])
    assert judge.evaluate(16)['mIoU'] == pytest.approx(100 * (both / either).mean(), abs=0.01)


def test_accuracy_is_that_of_the_held_out_images():
    cfg = config('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
    split = held_out(cfg)
    loader = build(cfg, split.held_out)
    judge = metric(cfg, split.evaluator, loader.dataset)
    right = 0
    for batch in loader:
        for sample in samples(batch):
            guess = int(sample.gt_label) if right < 5 else (int(sample.gt_label) + 1) % 10
            right += guess == int(sample.gt_label)
            sample.set_pred_score(torch.eye(10)[guess])
            judge.process(batch, [sample.to_dict()])
    assert judge.evaluate(16)['accuracy/top1'] == pytest.approx(100 * 5 / 16)


def test_evaluators_of_several_metrics():
    cfg = config(COCO)
    cfg.val_evaluator = [cfg.val_evaluator, dict(type='mmdet.VOCMetric')]
    evaluator = held_out(cfg).evaluator
    assert [one.get('ann_file') for one in evaluator] == [None, None]
    cfg.val_evaluator = dict(metrics=cfg.val_evaluator)
    assert held_out(cfg).evaluator.metrics == evaluator
    cfg.val_evaluator = dict(type='CocoPanopticMetric', ann_file='panoptic_val2017.json')
    with pytest.raises(ValueError, match='CocoPanopticMetric judges by panoptic_val2017.json'):
        held_out(cfg)


# Wrapped data sets


def leaf(cfg: Config) -> dict:
    return cfg.train_dataloader.dataset


def test_an_image_of_two_datasets_is_on_one_side_only():
    cfg = config('mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py')
    again = dict(leaf(cfg), indices=list(range(20)))
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset',
        times=3,
        dataset=dict(type='ConcatDataset', datasets=[leaf(cfg), again]),
    )
    split = held_out(cfg)
    judged, trained = (names(build(cfg, part).dataset) for part in (split.held_out, split.train))
    assert split.total == 33 and len(judged) == len(set(judged)) == 16
    assert not set(judged) & set(trained)
    assert len(trained) == 3 * (33 + 20 - 16 - sum(int(path[-8:-4]) <= 20 for path in judged))


def test_images_with_one_id_are_not_judged_together(place):
    """Two COCO files may number their images alike; CocoMetric would take them for the same."""
    cfg = config(COCO)
    twin = place / 'data/coco/twin2017'
    if not twin.exists():
        twin.symlink_to('train2017')
    other = dict(leaf(cfg), data_prefix=dict(img='twin2017/'))
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[leaf(cfg), other])
    split = held_out(cfg, images=20)
    dataset = build(cfg, split.held_out).dataset
    ids = [dataset.get_data_info(k)['img_id'] for k in range(20)]
    assert split.total == 74 and len(set(ids)) == 20


def test_rare_classes_are_still_repeated():
    cfg = config('mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py')
    cfg.train_dataloader.dataset = dict(
        type='ClassBalancedDataset', oversample_thr=0.9, dataset=leaf(cfg)
    )
    split = held_out(cfg)
    judged, trained = (names(build(cfg, part).dataset) for part in (split.held_out, split.train))
    assert len(judged) == 16 and len(set(trained)) == 20 < len(trained)


def test_a_fold_stays_in_its_fold():
    """A config that already holds a fold out: its images are not drawn from."""
    cfg = config('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
    fold = dict(type='KFoldDataset', num_splits=4, fold=1, seed=3)
    cfg.val_dataloader.dataset = dict(fold, dataset=leaf(cfg), test_mode=True)
    cfg.val_dataloader.dataset.dataset.pipeline = [dict(type='PackInputs')]
    cfg.train_dataloader.dataset = dict(
        fold,
        dataset=config('mmpretrain::resnet/resnet18_8xb16_cifar10.py').train_dataloader.dataset,
    )
    validated = set(names(build(cfg, cfg.val_dataloader).dataset))
    split = held_out(cfg, images=12)
    judged, trained = (set(names(build(cfg, p).dataset)) for p in (split.held_out, split.train))
    assert (len(judged), len(trained), len(validated)) == (12, 18, 10)
    assert not judged & trained and not judged & validated and not trained & validated
    assert len(build(cfg, split.held_out).dataset.pipeline.transforms) == 1  # of validation


def test_digits(digits):
    """A data set that a function builds."""
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/digits_classification.py')
    cfg.default_scope = 'mmpretrain'
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(digits)
    split = held_out(cfg)
    judged, trained = (
        set(names(build(cfg, part).dataset)) for part in (split.held_out, split.train)
    )
    assert split.images == split.total // 10 == len(judged)
    assert len(judged | trained) == split.total


def test_a_new_style_config(place, tmp_path):
    """Its types are classes; what is held out of it can be written down."""
    source = tmp_path / 'new_style.py'
    source.write_text(f"""
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmdet.evaluation import CocoMetric
from mmengine.dataset import DefaultSampler, RepeatDataset

dataset = dict(
    type=CocoDataset,
    data_root={str(place / 'data/coco')!r},
    pipeline=[
        dict(type=LoadImageFromFile),
        dict(type=LoadAnnotations, with_bbox=True),
        dict(type=PackDetInputs),
    ],
)
train_dataloader = dict(
    batch_size=2,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=RepeatDataset,
        times=2,
        dataset=dict(
            **dataset,
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017'),
        ),
    ),
)
val_dataloader = dict(
    batch_size=1, sampler=dict(type=DefaultSampler, shuffle=False), dataset=dataset
)
val_evaluator = dict(type=CocoMetric, ann_file='val.json')
""")
    cfg = Config.fromfile(source)
    split = held_out(cfg)
    written = Config(dict(train=split.train, judged=split.held_out, evaluator=split.evaluator))
    read = Config.fromstring(written.pretty_text, '.py')
    judged, trained = (Runner.build_dataloader(one) for one in (read.judged, read.train))
    assert (len(judged.dataset), len(trained.dataset)) == (16, 2 * 22)
    assert samples(next(iter(judged)))[0].instances is not None
    assert read.evaluator.ann_file is None


# Augmentation that a hook changes


def test_rtmdet_is_calibrated_without_mosaic_and_can_still_switch_its_pipeline():
    cfg = config('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py')
    split = held_out(cfg)
    calibration, train = (build(cfg, part).dataset for part in (split.calibration, split.train))
    assert 'Mosaic' not in str(calibration.pipeline) and 'Mosaic' in str(train.pipeline)
    (hook,) = [hook for hook in cfg.custom_hooks if hook.type == 'PipelineSwitchHook']
    assert len(calibration.pipeline.transforms) == len(hook.switch_pipeline)
    train.pipeline = None  # what the hook sets
    with pytest.raises(TypeError):
        train[0]


def test_yolox_is_calibrated_without_mosaic():
    cfg = config('mmdet::yolox/yolox_s_8xb8-300e_coco.py')
    split = held_out(cfg)
    assert split.calibration.dataset.skip_type_keys == ['Mosaic', 'RandomAffine', 'MixUp']
    assert 'skip_type_keys' not in split.train.dataset
    calibration = build(cfg, split.calibration).dataset
    for step in calibration.pipeline[:3]:
        step.transform = None  # would fail
    assert calibration[0]['inputs'].shape[0] == 3


# Errors


@pytest.mark.parametrize('key', ['train_dataloader', 'val_dataloader', 'val_evaluator'])
def test_a_config_that_does_not_train_and_validate(key):
    cfg = config(COCO)
    cfg[key] = None
    with pytest.raises(ValueError, match=f'the config has no {key}'):
        held_out(cfg)


def test_a_dataset_without_subsets():
    class Torch(torch.utils.data.Dataset):
        metainfo = {}

        def __init__(self, pipeline=()):
            pass

        def __len__(self):
            return 100

    cfg = config(COCO)
    cfg.train_dataloader.dataset = dict(type=Torch)
    with pytest.raises(ValueError, match='cannot be held out of a Torch, which has no get_subset_'):
        held_out(cfg)
    cfg = config(COCO)
    cfg.train_dataloader.dataset = Torch()
    with pytest.raises(ValueError, match='train_dataloader.dataset is a Torch'):
        held_out(cfg)


def test_data_that_changed_since_images_were_held_out():
    cfg = config(COCO)
    split = held_out(cfg)
    split.train.dataset.dataset.indices = 30
    with DefaultScope.overwrite_default_scope('mmdet'):
        with pytest.raises(ValueError, match='16 images were chosen when the CocoDataset had 37'):
            DATASETS.build(split.train.dataset)


def test_a_pipeline_that_cannot_judge():
    cfg = config(COCO)
    del cfg.val_dataloader.dataset.pipeline
    with pytest.raises(ValueError, match='val_dataloader.dataset has no pipeline'):
        held_out(cfg)
    cfg = config(COCO)
    cfg.val_dataloader.dataset.pipeline.pop()
    with pytest.raises(ValueError, match='no step with meta_keys'):
        held_out(cfg)
