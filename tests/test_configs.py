"""Every shipped config builds, fits the one before it, and is found from another project."""

import copy
import functools
from pathlib import Path

import modelindex
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner

import mmpse
from mmpse.openmmlab.models.outputs import raw_outputs
from mmpse.openmmlab.models.pruned import look
from mmpse.registry import HOOKS, LOOPS, MODELS

CONFIGS = sorted(path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts)
PRUNED = [path for path in CONFIGS if "'mmpse.Pruned'" in path.read_text()]
SEARCHES = [path for path in CONFIGS if 'SearchLoop' in str(Config.fromfile(path).train_cfg)]


@functools.cache
def read(path: Path) -> Config:
    return Config.fromfile(path)


def build(cfg: Config) -> torch.nn.Module:
    """The model as the runner builds it, with random weights."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model))).eval()


def config_that_writes(path: str) -> Config:
    """The config whose job leaves a file in `work_dirs`."""
    (config,) = [p for p in CONFIGS if p.stem == Path(path).parent.name]
    cfg = read(config)
    last = cfg.train_cfg.get('max_epochs', cfg.train_cfg.get('max_iters'))
    assert Path(path).name in ('best_subnet.json', f'epoch_{last}.pth', f'iter_{last}.pth')
    return cfg


@pytest.mark.parametrize(
    'path', [path for path in CONFIGS if path not in PRUNED], ids=lambda path: path.stem
)
def test_config_builds(path):
    cfg = read(path)
    model = build(cfg)
    size = 224 if 'num_classes' in cfg.model.backbone else 64  # VGG's own classifier
    with torch.no_grad():  # necks and heads fit
        raw_outputs(model, torch.zeros(1, 3, size, size))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for hook in cfg.get('custom_hooks') or []:
            HOOKS.build(copy.deepcopy(hook))
        if 'type' in cfg.train_cfg:
            assert LOOPS.get(cfg.train_cfg.type) is not None
        for split in ('train', 'val', 'test'):
            loader = cfg.get(f'{split}_dataloader')
            if loader is not None:
                with DATASETS.switch_scope_and_registry(None) as registry:
                    assert registry.get(loader.dataset.type) is not None


def test_there_are_configs_of_every_kind():
    kinds = {path.parent.name for path in CONFIGS}
    tasks = {'detection', 'segmentation', 'bccd'}
    assert kinds >= {'quickstart', 'supernet', 'search', 'retrain', 'cifar10', *tasks}


def test_what_uses_mmpse_imports_it():
    for path in CONFIGS:
        cfg = read(path)
        if 'mmpse.' in str({key: cfg[key] for key in cfg if key != 'custom_imports'}):
            assert cfg.custom_imports.imports == ['mmpse'], path


@pytest.mark.parametrize('path', SEARCHES, ids=lambda path: path.stem)
def test_searches_judge_on_held_out_training_images(path):
    cfg = read(path)
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    if 'num_splits' in train:
        # the same images are there to be split, and are training images
        images = {key: value for key, value in val.dataset.items() if key != 'pipeline'}
        assert images == {key: v for key, v in train.dataset.items() if key != 'pipeline'}
        assert 'train' in str(images) and 'val' not in str(images)
        assert (train.num_splits, train.fold, train.seed) == (val.num_splits, val.fold, val.seed)
        assert val.test_mode and not train.get('test_mode', False)
    else:  # the digits' own split
        assert (train.split, val.split) == ('train', 'val')
    # the supernet that it searches was trained without those images
    supernet = config_that_writes(cfg.load_from)
    assert supernet.train_dataloader.dataset == train
    assert shape_of(supernet.model.backbone) == shape_of(cfg.model.backbone)


def shape_of(backbone: dict) -> dict:
    """What of a backbone's config says which layers it has."""
    training = ('init_cfg', 'frozen_stages', 'norm_eval', 'norm_cfg')
    return {key: value for key, value in backbone.items() if key not in training}


FAST = 'retrain_mobilenet-v2_digits'


@pytest.mark.parametrize(
    'path',
    [pytest.param(p, marks=[] if p.stem == FAST else [pytest.mark.slow]) for p in PRUNED],
    ids=lambda path: path.stem,
)
def test_a_pruned_model_is_the_one_that_was_searched(path):
    """Its subnet is that of the search, and all of the training set trains it."""
    cfg = copy.deepcopy(read(path))
    search = config_that_writes(cfg.model.subnet)
    layout, _ = look(full := build(search))
    subnet = layout.space(model=type(full).__name__).uniform(0.5)
    cfg.model.subnet = subnet.to_dict()
    cut = build(cfg)
    assert type(cut) is type(full) and type(cut.backbone) is type(full.backbone)
    cut.load_state_dict(full.state_dict())
    assert 'KFoldDataset' not in str(cfg.train_dataloader)
    if cfg.load_from is not None:
        assert cfg.load_from == search.load_from
        # statistics come from training, since the supernet has none
        assert not cfg.model.backbone.norm_eval and cfg.model.backbone.frozen_stages == -1


def test_model_index_lists_every_supernet_with_its_costs():
    index = modelindex.load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    models = {model.name: model for model in index.models}
    epochs = {collection.name: collection.metadata.epochs for collection in index.collections}
    assert models.keys() == {p.stem for p in CONFIGS if p.parent.name == 'supernet'}
    counted = {}
    for name, model in models.items():
        assert model.config == f'configs/supernet/{name}.py' and model.results is None
        cfg = read(ROOT / model.config)
        key = str(cfg.model.backbone)
        if key not in counted:
            counted[key] = mmpse.cost(build(cfg), torch.zeros(1, 3, 224, 224))
        cost = dict(flops=model.metadata.flops, params=model.metadata.parameters)
        assert counted[key] == cost
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
