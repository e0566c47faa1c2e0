"""The experiment of section 4 of docs/results.md, on images made up in the data sets' forms."""

import json

import numpy as np
import pytest
from evidence import cifar10_fixture, page_of, tools, write  # noqa: F401  fixtures
from mmdet.datasets import CocoDataset
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR10
from mmpse.models import SlimmableResNet
from mmseg.datasets import BaseSegDataset
from PIL import Image

SPLITS = ('train', 'val', 'test')
BACKBONES = ('full', 'uniform', 'searched')


@pytest.fixture
def scenes(tmp_path, rng):
    """BCCD and CamVid: 8 images of a split, 32 pixels high."""

    def save(path, array):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)

    for split in SPLITS:
        content = dict(images=[], annotations=[], categories=[])
        for k, name in enumerate(('RBC', 'WBC', 'Platelets'), 1):
            content['categories'].append(dict(id=k, name=name))
        for k in range(8):
            image = rng.integers(0, 256, (48, 64, 3), np.uint8)
            save(tmp_path / f'bccd/{split}/{k}.jpg', image)
            content['images'].append(dict(id=k, file_name=f'{k}.jpg', width=64, height=48))
            box = dict(id=k, image_id=k, bbox=[4, 8, 20, 16], area=320, iscrowd=0)
            content['annotations'].append(dict(box, category_id=1 + k % 3))
            save(tmp_path / f'camvid/images/{split}/{k}.jpg', image)
            mask = rng.integers(0, 11, (6, 8), np.uint8).repeat(8, 0).repeat(8, 1)
            save(tmp_path / f'camvid/annotations/{split}/{k}.png', mask)
        path = tmp_path / f'bccd/annotations/instances_{split}.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def experiment(cifar10, scenes, tmp_path, monkeypatch):
    """Runs units of a scale of one step each."""
    import downstream

    scale = downstream.Scale(
        images=None,
        splits=5,
        bfloat16=True,
        seconds=0.01,
        search=dict(population=2, generations=1, parents=1, mutants=1, calibration=1),
        epochs=dict(alone=1, bccd=1, camvid=1),
    )
    monkeypatch.setitem(downstream.SCALES, 'tiny', scale)
    load_config = downstream.load_config

    def small(*args):
        cfg = load_config(*args)
        cfg.train_dataloader.batch_size = 32
        return cfg

    monkeypatch.setattr(downstream, 'load_config', small)
    transferred = downstream.Experiment.transferred

    def finds_something(*args):  # though it knows nothing yet
        cfg = transferred(*args)
        if 'score_thr' in cfg.model.test_cfg:
            cfg.model.test_cfg.score_thr = 0.0
        return cfg

    monkeypatch.setattr(downstream.Experiment, 'transferred', finds_something)

    def run(*only):
        downstream.main(
            [
                *('--cifar10', str(cifar10), '--bccd', str(scenes / 'bccd')),
                *('--camvid', str(scenes / 'camvid'), '--scale', 'tiny', '--seeds', '1'),
                *('--out', str(tmp_path / 'results'), '--work-dir', str(tmp_path / 'work')),
                *('--only', *only),
            ]
        )
        folder = tmp_path / 'results/resnet18-w0p5_b128-tiny'
        return {path.stem: json.loads(path.read_text()) for path in folder.glob('*_seed0.json')}

    return run


def test_test_splits_are_used_once_at_the_end(experiment, tmp_path, monkeypatch):
    import downstream

    events, configs, train = [], [], downstream.train

    def spy(cls, name, event):
        original = getattr(cls, name)
        monkeypatch.setattr(
            cls, name, lambda self, *args: events.append(event(self)) or original(self, *args)
        )

    spy(CIFAR10, 'load_data_list', lambda self: self.split)
    spy(CocoDataset, 'load_data_list', lambda self: self.ann_file.rpartition('_')[2][:-5])
    spy(BaseSegDataset, 'load_data_list', lambda self: self.data_prefix['img_path'][-5:])
    spy(Runner, 'train', lambda self: 'training')
    spy(Runner, 'test', lambda self: 'testing')
    monkeypatch.setattr(
        downstream, 'train', lambda cfg, *args, **kw: configs.append(cfg) or train(cfg, *args, **kw)
    )

    experiment('supernet_*', 'search_*')
    assert 'training' in events and not {'test', 'testing'} & set(events)
    for unit in ('alone_searched_*', 'bccd_searched_*', 'camvid_searched_*'):
        events.clear()
        records = experiment(unit)
        events[:] = [event.strip('/') for event in events]
        # the test split is read after the training, and nothing comes after it
        assert events.count('training') == events.count('testing') == events.count('test') == 1
        assert events[-2:] == ['testing', 'test'] and 'train' in events

    subnets = records['search_seed0']['subnets']
    assert subnets.keys() == set(BACKBONES)
    flops = {name: subnets[name]['resources']['flops'] for name in BACKBONES}
    assert 0.45 * flops['full'] < flops['searched'] <= 0.5 * flops['full']
    assert flops['uniform'] == pytest.approx(flops['searched'], rel=0.1)
    for cfg in configs[-2:]:  # of detector and segmentor
        assert cfg.model.backbone.subnet.widths == subnets['searched']['widths']
        weights = cfg.model.backbone.init_cfg.checkpoint
        assert weights.endswith('weights/alone_searched_seed0.pth')
    for task, metric in (('bccd', 'coco/bbox_mAP'), ('camvid', 'mIoU')):
        content = records[f'{task}_searched_seed0']
        assert content['steps'] == 1 and content['backbone_flops'] < content['flops']
        assert np.isfinite(content['test'][metric]) and np.isfinite(content['val'][metric])
    for content in records.values():
        assert str(tmp_path) not in json.dumps(content)  # no paths of this machine


def test_second_supernet_starts_from_the_full_network(experiment, monkeypatch):
    import downstream

    configs, train = [], downstream.train
    monkeypatch.setattr(
        downstream, 'train', lambda cfg, *args, **kw: configs.append(cfg) or train(cfg, *args, **kw)
    )
    experiment('supernet_*', 'search_*')
    with pytest.raises(FileNotFoundError, match='alone_full_seed0.pth is missing'):
        experiment('supernet-pretrained_*')
    records = experiment('alone_full_*', 'supernet-pretrained_*', 'search-pretrained_*')
    init_cfg = configs[-1].model.init_cfg
    assert init_cfg.checkpoint.endswith('weights/alone_full_seed0.pth') and init_cfg.sort == 'bn'
    assert 'init_cfg' not in configs[0].model
    (found,) = records['search-pretrained_seed0']['subnets'].items()
    full = records['search_seed0']['subnets']['full']['resources']['flops']
    assert found[0] == 'searched-pretrained'
    assert 0.45 * full < found[1]['resources']['flops'] <= 0.5 * full


def test_detector_is_searched_on_held_out_training_images(experiment, monkeypatch):
    import downstream
    import frame

    read, used = [], []
    load_data_list = CocoDataset.load_data_list

    def spy(self):
        read.append(self.ann_file.rpartition('_')[2])
        return load_data_list(self)

    def images(loader):
        return {loader.dataset.get_data_info(k)['img_id'] for k in range(len(loader.dataset))}

    def spy_train(*args, **kwargs):
        runner, figures = train(*args, **kwargs)
        used.append(images(runner.train_dataloader))
        return runner, figures

    def spy_search(*args):
        runner, subnet = run_search(*args)
        used.append(images(runner.val_dataloader))
        return runner, subnet

    def smaller_batches(*args):
        cfg = detector_supernet(*args)
        cfg.train_dataloader.batch_size = 4
        return cfg

    experiment('supernet_*', 'search_*')
    train, run_search = downstream.train, downstream.run_search
    detector_supernet = downstream.Experiment.detector_supernet
    monkeypatch.setattr(CocoDataset, 'load_data_list', spy)
    monkeypatch.setattr(downstream, 'train', spy_train)
    monkeypatch.setattr(downstream, 'run_search', spy_search)
    monkeypatch.setattr(downstream.Experiment, 'detector_supernet', smaller_batches)
    experiment('bccd-supernet_*', 'bccd-search_*')
    assert set(read) == {'train.json'}
    trained, judged = used
    assert not trained & judged and trained | judged == set(range(8))
    steps, after_train_iter = [], frame.Clock.after_train_iter
    monkeypatch.setattr(
        frame.Clock,
        'after_train_iter',
        lambda *args, **kw: steps.append(1) or after_train_iter(*args, **kw),
    )
    records = experiment('bccd_own_*')
    assert len(steps) == 1  # it starts from the supernet, and does not go on with its training
    own, budget = records['bccd_own_seed0'], records['bccd-search_seed0']['budget']
    assert 0.95 * budget <= own['flops'] <= budget
    assert own['backbone'] == 'own' and len(used[2]) == 8  # fine-tuned on all of them


def test_what_is_missing_is_named(experiment, tmp_path):
    with pytest.raises(FileNotFoundError, match='run the unit search_seed0 first'):
        experiment('alone_full_*')
    full = SlimmableResNet(depth=18, stem_channels=32, base_channels=32).search_space.fullnet
    path = tmp_path / 'results/resnet18-w0p5_b128-tiny/search_seed0.json'
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(dict(subnets={name: full.to_dict() for name in BACKBONES})))
    with pytest.raises(FileNotFoundError, match='alone_full_seed0.pth is missing, which the unit'):
        experiment('bccd_full_*')


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'results/transfer/resnet18-w0p5_b128-small'


def section(folder):
    return page_of(folder.parents[1]).partition('## 4. Transfer')[2].partition('## 5. Cost')[0]


def write_task(folder, seed, **values):
    for backbone, value in values.items():
        metrics = {'coco/bbox_mAP': value, 'coco/bbox_mAP_50': 2 * value}
        costs = dict(flops=700e6, backbone_flops=400e6, params=3e6, steps=5)
        figures = dict(task='bccd', backbone=backbone, test=metrics, val=metrics)
        name = f'bccd_{backbone}_seed{seed}'
        write(folder, name, kind='task', seed=seed, **figures, **costs)


def test_section_follows_the_records(folder):
    assert section(folder).count('Not run: `python tools/evidence/downstream.py') == 2

    write_task(folder, 0, full=0.4, uniform=0.3, searched=0.31)
    (folder / 'bccd.md').write_text('What a person has to say.\n')
    page = section(folder)
    assert '| full | 40.0 | 80.0 | 700 | 400 | 3.0 |' in page
    assert (
        '**Searched (31.0) beats uniform (30.0) in box mAP: +1.0 points, one seed: it may be '
        'chance.**'
    ) in page
    assert 'What a person has to say.' in page
    assert 'Segmentation: Semantic FPN on CamVid\n\nNot run.' in page

    write_task(folder, 1, uniform=0.3, searched=0.33)
    write_task(folder, 2, searched=0.1)  # no uniform one of this seed
    page = section(folder)
    assert (
        '**Searched (32.0) beats uniform (30.0) in box mAP: +2.0 points, better in 2 of 2 seeds.**'
    ) in page
    write_task(folder, 2, uniform=0.11)
    assert (
        '**Searched (24.7) is better on average, though not in every seed, than uniform (23.7) in '
        'box mAP: +1.0 points, better in 2 of 3 seeds.**'
    ) in section(folder)
    write_task(folder, 2, uniform=0.2)
    page = section(folder)
    under = page.partition('| searched |')[2].splitlines()
    assert under[2] == (  # the first line under the table
        '**Searched (24.7) does not beat uniform (26.7) in box mAP: -2.0 points, better in 2 of 3 '
        'seeds.**'
    )
    write_task(folder, 2, **{'searched-pretrained': 0.22})
    assert (
        '3 seeds. Searched in the supernet from the full network (22.0) beats uniform (20.0) in '
        'box mAP: +2.0 points, one seed: it may be chance.**'
    ) in section(folder)
    write_task(folder, 2, **{'searched-pretrained': 0.2004})
    assert 'the full network (20.0) is level with uniform (20.0)' in section(folder)


def test_latencies_are_shown_as_ratios(folder):
    write_task(folder, 0, full=0.4, uniform=0.3, searched=0.31)
    rows = [
        dict(task=task, part=part, runtime='eager', name=name, latency_ms=9.0, ratio=ratio)
        for task in ('bccd', 'camvid')
        for part, ratios in (('backbone', (1, 0.5, 0.6)), ('model', (1, 0.7, 0.8)))
        for name, ratio in zip(BACKBONES, ratios)
    ]
    write(folder, 'latency_seed0', kind='latency', seed=0, rows=rows)
    page = section(folder)
    assert 'latency, model, PyTorch | latency, backbone, PyTorch | training' in page
    assert '| 0.80 | 0.60 | 1 | 1 |' in page and 'onnxruntime' not in page
