"""Every shipped config builds, and is found from another project."""

import copy
import functools
import re
from pathlib import Path

import modelindex
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner

import mmpse
from mmpse.models import SlimmableBackbone, measure
from mmpse.models.meta import WeightsOnMeta
from mmpse.registry import HOOKS, LOOPS, MODELS
from mmpse.space import SearchSpace

CONFIGS = sorted(path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts)


TASKS = ('detection', 'segmentation')


def is_task_step(path: Path, *steps: str) -> bool:
    """Whether a config prunes a detector or segmentor itself, by one of these steps."""
    step = path.stem.split('_')[0]
    return path.parent.name in TASKS and step in (steps or ('supernet', 'search', 'finetune'))


# what `mmpse prune` starts from
STOCK = (
    'classifier_digits',
    'detector_digits',
    'fpn_resnet18-w0p5_camvid',
    'retinanet_resnet18-w0p5_fpn96_bccd',
    'rtmdet_tiny_bccd',
    'segmentor_digits',
    'short_resnet20_cifar10',
)
SIMILAR = '_.*-(full|uniform|1g)|ade20k|voc'


@functools.cache
def read(path: Path) -> Config:
    return Config.fromfile(path)


def space_of(backbone: dict) -> SearchSpace:
    with WeightsOnMeta():
        return MODELS.build(dict(backbone, subnet=None, norm_cfg=dict(type='BN'))).search_space


@pytest.mark.parametrize(
    'path',
    # of the many that differ in the data set or in the backbone's files, one of each kind
    [pytest.param(p, marks=[pytest.mark.slow] * bool(re.search(SIMILAR, p.stem))) for p in CONFIGS],
    ids=lambda path: path.stem,
)
def test_config_builds(path):
    cfg = copy.deepcopy(read(path))
    if path.stem not in STOCK:
        assert cfg.custom_imports.imports == ['mmpse']
    subnet = cfg.model.backbone.get('subnet')
    if subnet is not None:
        space = space_of(config_that_writes(subnet).model.backbone)
        cfg.model.backbone.subnet = space.uniform(0.5).to_dict()
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        with WeightsOnMeta():
            model = MODELS.build(cfg.model).to('meta')
        assert isinstance(model.backbone, SlimmableBackbone) == (path.stem not in STOCK)
        model.eval()
        with torch.no_grad():  # necks and heads fit
            image = torch.zeros(1, 3, 224, 224, device='meta')
            if getattr(model, 'with_roi_head', False):  # its regions need values
                model.rpn_head(model.extract_feat(image))
            else:
                model(image, mode='tensor')
        for hook in cfg.get('custom_hooks', []):
            HOOKS.build(hook)
        if 'type' in cfg.train_cfg:
            assert LOOPS.get(cfg.train_cfg.type) is not None
        for split in ('train', 'val', 'test'):
            loader = cfg.get(f'{split}_dataloader')
            if loader is not None:
                with DATASETS.switch_scope_and_registry(None) as registry:
                    assert registry.get(loader.dataset.type) is not None


def test_there_are_configs_of_every_kind():
    kinds = {path.parent.name for path in CONFIGS}
    assert kinds == {
        *(
            'quickstart',
            'supernet',
            'search',
            'retrain',
            'detection',
            'segmentation',
            'cifar10',
            'bccd',
        )
    }


SEARCHES = [p for p in CONFIGS if p.parent.name == 'search' or is_task_step(p, 'search')]
SEARCHES += [p for p in CONFIGS if p.match('cifar10/search_*')]
RETRAINED = [p for p in CONFIGS if p.parent.name == 'retrain']
ON_RETRAINED = [p for p in CONFIGS if p.parent.name in TASKS and not is_task_step(p)]


@pytest.mark.parametrize('path', SEARCHES, ids=lambda path: path.stem)
def test_searches_judge_on_held_out_training_images(path):
    cfg = read(path)
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    # the same images are there to be split, and are training images
    images = {key: value for key, value in val.dataset.items() if key != 'pipeline'}
    assert images == {key: value for key, value in train.dataset.items() if key != 'pipeline'}
    assert 'train' in str(images) and 'val' not in str(images)
    assert (train.num_splits, train.fold, train.seed) == (val.num_splits, val.fold, val.seed)
    assert val.test_mode and not train.get('test_mode', False)
    # the supernet that it searches was trained without those images
    supernet = config_that_writes(cfg.load_from)
    assert supernet.train_dataloader.dataset == train
    assert supernet.model.backbone == cfg.model.backbone


@pytest.mark.parametrize('path', RETRAINED, ids=lambda path: path.stem)
def test_retrained_subnets_are_of_the_same_backbone(path):
    cfg = copy.deepcopy(read(path))
    source = copy.deepcopy(config_that_writes(cfg.model.backbone.pop('subnet')))
    assert source.model.backbone == cfg.model.backbone
    assert cfg.train_dataloader.dataset.split == 'train'
    assert 'num_splits' not in cfg.train_dataloader.dataset  # all of it


@pytest.mark.parametrize('path', ON_RETRAINED, ids=lambda path: path.stem)
def test_detectors_and_segmentors_read_a_retrained_backbone(path):
    backbone = read(path).model.backbone
    retrain = config_that_writes(backbone.init_cfg.checkpoint)
    assert backbone.subnet == retrain.model.backbone.subnet
    name = Path(backbone.init_cfg.checkpoint).parent.name.split('_')[0]
    assert f'_{name}' in path.stem.replace('-d8_', '_') + '_'


@pytest.mark.parametrize(
    'path', [p for p in CONFIGS if is_task_step(p, 'finetune')], ids=lambda path: path.stem
)
def test_fine_tuning_starts_from_the_supernet_that_was_searched(path):
    cfg = read(path)
    search = config_that_writes(cfg.model.backbone.subnet)
    assert cfg.load_from == search.load_from
    assert cfg.model.backbone.architecture == search.model.backbone.architecture
    # statistics come from training, since the supernet has none
    assert not cfg.model.backbone.norm_eval and cfg.model.backbone.get('frozen_stages', -1) == -1
    assert 'KFoldDataset' not in str(cfg.train_dataloader)


def config_that_writes(path: str) -> Config:
    """The config whose job leaves a file in `work_dirs`."""
    if Path(path).parent.name == 'subnets':
        return read(ROOT / made_subnets()[path])
    (config,) = [p for p in CONFIGS if p.stem == Path(path).parent.name]
    cfg = read(config)
    last = cfg.train_cfg.get('max_epochs', cfg.train_cfg.get('max_iters'))
    assert Path(path).name in ('best_subnet.json', f'epoch_{last}.pth', f'iter_{last}.pth')
    return cfg


@functools.cache
def made_subnets() -> dict[str, str]:
    """Subnet file -> config, of the commands in configs/README.md."""
    commands = (ROOT / 'configs/README.md').read_text().replace('\\\n', ' ')
    return {
        out: config
        for config, out in re.findall(r'tools/make_subnet\.py (\S+) .*-o (\S+)', commands)
    }


def test_model_index_lists_every_supernet_with_its_costs(scope):
    index = modelindex.load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    models = {model.name: model for model in index.models}
    epochs = {collection.name: collection.metadata.epochs for collection in index.collections}
    assert models.keys() == {p.stem for p in CONFIGS if p.parent.name == 'supernet'}
    for name, model in models.items():
        assert model.config == f'configs/supernet/{name}.py' and model.results is None
        cfg = read(ROOT / model.config)
        fullnet = space_of(cfg.model.backbone).fullnet
        counted = measure(cfg.model.to_dict(), fullnet, (3, 224, 224))
        assert counted == dict(flops=model.metadata.flops, params=model.metadata.parameters)
        data = model.metadata.data
        assert data['Batch Size'] == cfg.auto_scale_lr.base_batch_size
        assert data['Batch Size'] == 8 * cfg.train_dataloader.batch_size
        assert epochs[model.in_collection] == cfg.train_cfg.max_epochs


@pytest.mark.parametrize(
    'base',
    [
        'mmpse::quickstart/supernet_mobilenet-v2_digits.py',
        'mmseg::_base_/models/fcn_r50-d8.py',
        'mmdet::_base_/models/retinanet_r50_fpn.py',
    ],
)
def test_bases_resolve_from_another_project(tmp_path, base):
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = '{base}'\nmodel = dict(backbone=dict(with_cp=True))\n")
    cfg = Config.fromfile(path)
    assert cfg.model.backbone.with_cp and len(cfg.model) > 2


def test_inherited_config_trains_in_another_project(tmp_path, digits, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = 'mmpse::quickstart/supernet_mobilenet-v2_digits.py'
    (tmp_path / 'mine.py').write_text(
        f"_base_ = '{base}'\n"
        'model = dict(backbone=dict(widen_factor=0.35))\n'
        f"train_dataloader = dict(dataset=dict(data_root='{digits}', indices=128))\n"
        'train_cfg = dict(max_epochs=1)\n'
        "param_scheduler = None\nwork_dir = 'work'\n"
    )
    Runner.from_cfg(Config.fromfile('mine.py')).train()
    assert (tmp_path / 'work/epoch_1.pth').exists()


def test_the_package_holds_configs_and_tools():
    mim = Path(mmpse.__file__).parent / '.mim'
    assert (mim / 'configs' / 'quickstart').is_dir() and (mim / 'tools' / 'train.py').is_file()
