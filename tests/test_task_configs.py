"""The detectors' and segmentors' configs train and validate, on data in the real formats.

They run as a user would run them: from a folder with `data/` and `work_dirs/` in it, whose files
have the names that the configs read. Only the images are small, and so are the scales they are
resized to.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from task_data import HEIGHT, WIDTH, write_ade20k, write_cityscapes, write_coco, write_voc

import mmpse
from mmpse.search.archive import read_archive
from mmpse.space import Subnet

CROP = (48, 64)  # the smallest that images are resized to, as with Cityscapes
TASKS = ('detection', 'segmentation')
STEPS = ('supernet', 'search', 'finetune')  # of pruning on the task itself
CONFIGS = [
    path
    for task in TASKS
    for path in sorted((ROOT / 'configs' / task).glob('*.py'))
    if not path.stem.startswith(STEPS)
]
FAST = ('retinanet_mobilenet-v2-w1p5_fpn_1x_coco',)


@pytest.fixture(scope='session')
def place(tmp_path_factory):
    """A folder with tiny data sets where the configs look for them."""
    root, rng = tmp_path_factory.mktemp('place'), np.random.default_rng(0)
    write_coco(root / 'data', rng, dict(train2017=5, val2017=2))
    write_cityscapes(root / 'data', rng, dict(train=4, val=2))
    write_ade20k(root / 'data', rng, dict(training=4, validation=2))
    write_voc(root / 'data', rng, dict(train=2, aug=3, val=2))
    return root


def shrink(cfg: Config) -> None:
    """Small images, and nothing that only a long run needs."""

    def visit(value):
        if isinstance(value, list):
            for item in value:
                visit(item)
        elif isinstance(value, dict):
            for key in value.keys() & {'scale', 'crop_size', 'size'}:
                small = (WIDTH, HEIGHT) if value['type'].endswith('Resize') else CROP
                if isinstance(value[key], (tuple, list)):
                    value[key] = small
            for item in value.values():
                visit(item)

    for split in ('train', 'val'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is not None:
            visit(loader.dataset)
            loader.update(num_workers=0, persistent_workers=False)
    test_cfg = cfg.model.get('test_cfg', {})
    for part in (test_cfg, test_cfg.get('rcnn', {})):  # detectors that know nothing yet
        if 'score_thr' in part:
            part.score_thr = 0.0
    if 'size' in cfg.model.data_preprocessor:
        cfg.model.data_preprocessor.size = CROP
    cfg.log_level = 'WARNING'
    cfg.launcher = 'none'
    cfg.setdefault('default_hooks', {})['checkpoint'] = None


@functools.cache
def retrained(name: str, folder: Path) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """A subnet file of a classifier, its retrained checkpoint, and the weights in that."""
    cfg = Config.fromfile(ROOT / f'configs/retrain/{name}.py')
    cfg.model.subnet = None
    full = mmpse.build(cfg)
    layout = mmpse.units(full)
    subnet = layout.space(model='ImageClassifier').uniform(0.4)
    state = mmpse.cut(full, layout, subnet).state_dict()
    for key, value in state.items():
        if key.endswith('running_mean'):
            value.normal_()
    torch.save(dict(state_dict=state), folder / f'{name}.pth')
    return subnet.save(folder / f'{name}.json'), folder / f'{name}.pth', state


@pytest.mark.parametrize(
    'path',
    [pytest.param(p, marks=[] if p.stem in FAST else [pytest.mark.slow]) for p in CONFIGS],
    ids=lambda path: path.stem,
)
def test_transfer_two_iterations_and_a_validation(path, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    mobile = 'mobilenet' in path.stem
    name = 'mobilenet-v2-w1p5_8xb256_in1k' if mobile else 'resnet50_8xb32_in1k'
    subnet, checkpoint, weights = retrained(name, place)
    cfg = mmpse.transfer(path, subnet, checkpoint, tmp_path / 'new.py').config
    shrink(cfg)
    cfg.work_dir = str(tmp_path)
    if cfg.train_cfg.type == 'EpochBasedTrainLoop':
        cfg.train_cfg.max_epochs = 1
    else:
        cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.train_dataloader.batch_size = 2  # 4 images with boxes: two iterations an epoch
    runner, before = train(cfg)
    for key, value in before.items():
        assert not key.startswith('backbone.') or torch.equal(value, weights[key]), key
    assert runner.iter == 2
    losses = runner.message_hub.get_scalar('train/loss')
    assert np.isfinite(losses.data[0]).all()
    changed = {n for n, v in runner.model.state_dict().items() if not torch.equal(v, before[n])}
    trained = {n for n, p in runner.model.named_parameters() if p.requires_grad}
    assert trained & changed and any(n.startswith('backbone.') for n in changed)
    assert set(changed) <= trained | {n for n in before if 'running' in n or 'num_batches' in n}
    metric = 'coco/bbox_mAP' if 'detection' in path.parts else 'mIoU'
    assert np.isfinite(runner.message_hub.get_scalar(f'val/{metric}').data[0]).all()


# Pruning on the task itself: supernet, search, fine-tuning


class Start(Hook):
    """Keeps the weights that training starts with."""

    state = None

    def before_train(self, runner):
        self.state = {name: value.clone() for name, value in runner.model.state_dict().items()}


def train(cfg: Config) -> tuple[Runner, dict[str, torch.Tensor]]:
    start, runner = Start(), Runner.from_cfg(cfg)
    runner.register_hook(start)
    runner.train()
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())
    return runner, start.state


def files_of(dataset) -> set[str]:
    return {dataset.get_data_info(k)['img_path'] for k in range(len(dataset))}


@pytest.fixture(scope='module')
def larger_place(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp('place'), np.random.default_rng(0)
    write_coco(root / 'data', rng, dict(train2017=17, val2017=2))
    return root


@pytest.mark.slow
def test_the_chain_from_a_published_detector_to_a_fine_tuned_subnet(
    larger_place, tmp_path, monkeypatch
):
    monkeypatch.chdir(larger_place)
    steps = (
        'supernet_retinanet_r50_fpn_8xb8-22k_coco',
        'search_retinanet_r50_fpn_coco',
        'finetune_retinanet_r50_fpn_1x_coco',
    )
    supernet, search, finetune = steps

    def config(name: str) -> Config:
        cfg = Config.fromfile(ROOT / f'configs/detection/{name}.py')
        shrink(cfg)
        cfg.work_dir = str(tmp_path / name)
        cfg.param_scheduler = None  # their warm-up is longer than this run: its lowest rate instead
        cfg.optim_wrapper.optimizer.lr = 1e-5
        for split in ('train', 'val'):
            loader = cfg.get(f'{split}_dataloader')
            if loader and 'num_splits' in loader.dataset:
                loader.dataset.num_splits = 4
        return cfg

    published = mmpse.build('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    for module in published.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
    torch.save(dict(state_dict=published.state_dict()), tmp_path / 'published.pth')

    # two epochs of the supernet: every image of a batch of 4 belongs to another subnet
    cfg = config(supernet)
    cfg.model.init_cfg.checkpoint = str(tmp_path / 'published.pth')
    cfg.train_dataloader.batch_size = 4
    cfg.train_cfg.update(max_iters=6, val_interval=6)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=6)
    runner, start = train(cfg)
    assert start.keys() == published.state_dict().keys()
    for name, value in published.state_dict().items():  # all of it, in another order of channels
        if not name.endswith('num_batches_tracked'):  # -1 marks a supernet's
            assert torch.equal(start[name].flatten().sort()[0], value.flatten().sort()[0]), name
    scales = start['backbone.layer2.0.bn1.weight']
    assert torch.equal(scales, scales.sort(descending=True)[0])
    trained_on = files_of(runner.train_dataloader.dataset)
    weights = tmp_path / supernet / 'iter_6.pth'

    cfg = config(search)
    cfg.load_from = str(weights)
    cfg.train_dataloader.batch_size = 4
    sizes = dict(population=4, generations=2, parents=2, mutants=2, calibration=2)
    cfg.train_cfg.update(sizes, input_shape=(3, *CROP))
    runner, _ = train(cfg)
    judged_on = files_of(runner.val_dataloader.dataset)
    assert len(judged_on) == 4 and len(trained_on) == 12 and not judged_on & trained_on
    assert files_of(runner.train_dataloader.dataset) == trained_on
    best = Subnet.load(tmp_path / search / 'best_subnet.json')
    full = mmpse.cost(published, torch.zeros(1, 3, *CROP))['flops']
    judged = read_archive(tmp_path / search / 'archive.db')
    shares = [row.resources['flops'] / full for row in judged if row.generation]
    assert len(shares) == 8 and all(0.475 <= share <= 0.5 for share in shares)

    cfg = config(finetune)
    cfg.load_from = str(weights)
    cfg.model.subnet = str(tmp_path / search / 'best_subnet.json')
    cfg.train_dataloader.batch_size = 2
    cfg.train_cfg.max_epochs = 1
    runner, start = train(cfg)
    assert runner.iter == 8  # all 16 images
    assert mmpse.cost(runner.model, torch.zeros(1, 3, *CROP))['flops'] == best.resources['flops']
    state = torch.load(weights, weights_only=False)['state_dict']
    smaller = 0
    for name, value in start.items():
        assert torch.equal(value, state[name][tuple(map(slice, value.shape))]), name
        smaller += value.shape != state[name].shape
    assert smaller > 100
    means = [b for n, b in runner.model.named_buffers() if n.endswith('running_mean')]
    assert all(mean.any() for mean in means)  # the subnet's own statistics
    assert np.isfinite(runner.val()['coco/bbox_mAP'])


def test_true_boxes_of_held_out_images_judge_as_an_annotation_file_does(place, monkeypatch):
    """The search takes them from the data set; crowds count as COCO's own tool counts them."""
    monkeypatch.chdir(place)
    cfg = Config.fromfile(ROOT / 'configs/detection/search_retinanet_r50_fpn_coco.py')
    shrink(cfg)
    cfg.val_dataloader.dataset.num_splits = 2
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
        ids = [dataset.get_data_info(k)['img_id'] for k in range(len(dataset))]
        content = json.loads((place / 'data/coco/annotations/instances_train2017.json').read_text())
        content['images'] = [image for image in content['images'] if image['id'] in ids]
        truth = [row for row in content['annotations'] if row['image_id'] in ids]
        content['annotations'] = truth
        assert {row['iscrowd'] for row in truth} == {0, 1}
        (place / 'held-out.json').write_text(json.dumps(content))
        metrics = [
            METRICS.build(dict(cfg.val_evaluator)),
            METRICS.build(dict(cfg.val_evaluator, ann_file=str(place / 'held-out.json'))),
        ]
        generator = torch.Generator().manual_seed(0)
        for k in range(len(dataset)):
            batch = pseudo_collate([dataset[k]])
            sample = batch['data_samples'][0]
            boxes = [row for row in sample.instances for _ in range(2)]  # each found twice, roughly
            found = torch.tensor([row['bbox'] for row in boxes])
            found = found + torch.randn(found.shape, generator=generator) * 3
            labels = torch.tensor([row['bbox_label'] for row in boxes])
            scores = torch.rand(len(boxes), generator=generator)
            sample.pred_instances = InstanceData(bboxes=found, labels=labels, scores=scores)
            sample.gt_instances = InstanceData()
            for metric in metrics:
                metric.dataset_meta = dataset.metainfo
                metric.process(batch, [sample.to_dict()])
        ours, expected = (metric.evaluate(len(dataset)) for metric in metrics)
    for name in ('coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/bbox_mAP_75'):
        assert ours[name] == expected[name]
    assert 0.1 < ours['coco/bbox_mAP'] < ours['coco/bbox_mAP_50']
