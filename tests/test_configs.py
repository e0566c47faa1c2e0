"""Every shipped config builds, and is found from another project."""

import copy
import functools
from pathlib import Path

import modelindex
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

import mmpse
from mmpse.models import SlimmableBackbone, measure
from mmpse.models.meta import WeightsOnMeta
from mmpse.registry import HOOKS, LOOPS, MODELS
from mmpse.space import SearchSpace

CONFIGS = sorted(path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts)


@functools.cache
def read(path: Path) -> Config:
    return Config.fromfile(path)


@pytest.fixture
def subnet_file(tmp_path):
    def write(backbone: dict) -> str:
        return str(space_of(backbone).uniform(0.5).save(tmp_path / 'subnet.json'))

    return write


def space_of(backbone: dict) -> SearchSpace:
    with WeightsOnMeta():
        return MODELS.build(dict(backbone, subnet=None, norm_cfg=dict(type='BN'))).search_space


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_builds(path, subnet_file):
    cfg = copy.deepcopy(read(path))
    assert cfg.custom_imports.imports == ['mmpse']
    if cfg.model.backbone.get('subnet') is not None:
        cfg.model.backbone.subnet = subnet_file(cfg.model.backbone)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        with WeightsOnMeta():
            model = MODELS.build(cfg.model).to('meta')
        assert isinstance(model.backbone, SlimmableBackbone)
        model.eval()
        with torch.no_grad():  # necks and heads fit
            model(torch.zeros(1, 3, 224, 224, device='meta'), mode='tensor')
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
        *('quickstart', 'supernet', 'search', 'retrain', 'detection', 'segmentation', 'cifar10')
    }


@pytest.mark.parametrize(
    'path', [p for p in CONFIGS if p.parent.name == 'search'], ids=lambda path: path.stem
)
def test_searches_judge_on_held_out_training_images(path):
    cfg = read(path)
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    assert val.dataset.split == train.dataset.split == 'train'
    assert (train.num_splits, train.fold, train.seed) == (val.num_splits, val.fold, val.seed)
    assert val.test_mode and not train.get('test_mode', False)
    # the supernet that it searches was trained without those images
    supernet = config_that_writes(cfg.load_from)
    assert supernet.train_dataloader.dataset == train
    assert supernet.model.backbone == cfg.model.backbone


@pytest.mark.parametrize(
    'path', [p for p in CONFIGS if p.parent.name == 'retrain'], ids=lambda path: path.stem
)
def test_retrained_subnets_come_from_a_search_of_the_same_backbone(path):
    cfg = copy.deepcopy(read(path))
    search = config_that_writes(cfg.model.backbone.pop('subnet'))
    assert search.model.backbone == cfg.model.backbone
    assert cfg.train_dataloader.dataset.split == 'train'
    assert 'num_splits' not in cfg.train_dataloader.dataset  # all of it


def config_that_writes(path: str) -> Config:
    (config,) = [p for p in CONFIGS if p.stem == Path(path).parent.name]
    return read(config)


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


def test_the_package_holds_configs_and_tools():
    mim = Path(mmpse.__file__).parent / '.mim'
    assert (mim / 'configs' / 'quickstart').is_dir() and (mim / 'tools' / 'train.py').is_file()
