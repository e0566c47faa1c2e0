"""Shared by all tests: seeds, a device, a scope, the embedded data, a small supernet config."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from tiny_tasks import write_task

import mmpse  # noqa: F401
from mmpse.datasets import prepare_digits

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def no_scope_is_left():
    """A runner sets the scope of the whole process for good."""
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture
def buggy():
    """A function that mmpse might have, and that is wrong: it raises a ``KeyError``."""
    ours = {'__name__': 'mmpse.buggy'}
    exec("def buggy(*_, **__): raise KeyError('conv1')", ours)
    return ours['buggy']


@pytest.fixture
def device(monkeypatch) -> torch.device:
    """Where the test's tensors and modules are made: ``MMPSE_TEST_DEVICE``, the CPU by default.

    A GPU computes as exactly here as a CPU does: no TF32, and the same sums in each run.
    """
    device = torch.device(os.environ.get('MMPSE_TEST_DEVICE', 'cpu'))
    for setting, value in dict(allow_tf32=False, deterministic=True, benchmark=False).items():
        monkeypatch.setattr(torch.backends.cudnn, setting, value)
    with device:
        yield device


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def scope():
    """Resolve names in configs as mmpretrain's runner does."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@pytest.fixture(scope='session')
def digits(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('data') / 'digits'
    prepare_digits(root)
    return root


@pytest.fixture
def supernet_cfg(digits, tmp_path) -> Config:
    """The quickstart's supernet config made tiny: narrow, and few batches."""
    return small(ROOT / 'configs/quickstart/supernet_mobilenet-v2_digits.py', digits, tmp_path)


@pytest.fixture
def search_cfg(digits, tmp_path) -> Config:
    return small(ROOT / 'configs/quickstart/search_mobilenet-v2_digits.py', digits, tmp_path)


@pytest.fixture(scope='session')
def supernet_checkpoint(tmp_path_factory) -> Path:
    """Of a small supernet with a loss record, once a test has trained it for an epoch."""
    return tmp_path_factory.mktemp('supernet') / 'epoch_1.pth'


@pytest.fixture
def trained_search_cfg(supernet_cfg, search_cfg, supernet_checkpoint) -> Config:
    """A search of 18 subnets in that supernet."""
    if not supernet_checkpoint.exists():
        supernet_cfg.work_dir = str(supernet_checkpoint.parent)
        supernet_cfg.train_cfg.max_epochs = 1
        Runner.from_cfg(supernet_cfg).train()
    search_cfg.load_from = str(supernet_checkpoint)
    search_cfg.train_cfg.update(population=6, generations=3, parents=2, mutants=3, calibration=2)
    return search_cfg


@pytest.fixture(scope='session')
def small_supernet(tmp_path_factory, digits):
    """The folder of a supernet with a loss record: ``config.py`` and ``epoch_2.pth``."""
    folder = tmp_path_factory.mktemp('small_supernet')
    config, _ = write_task('classification', digits, folder)
    cfg = Config.fromfile(config)
    cfg.model.backbone.update(base_channels=8, stem_channels=8)
    cfg.model.head.in_channels = 64
    for loader, images in ((cfg.train_dataloader, 48), (cfg.val_dataloader, 32)):
        # a list would take long to print, and garbage is collected before data are serialised
        loader.dataset.update(indices=images, serialize_data=False)
    cfg.dump(folder / 'config.py')
    cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
    cfg.work_dir, cfg.experiment_name = str(folder), 'small_supernet'
    cfg.train_cfg.max_epochs = 2
    cfg.train_dataloader.update(batch_size=12)
    cfg.randomness = dict(seed=0)
    hook = dict(n=4, execution='sliced', divisor=2, input_shape=(3, 32, 32))
    cfg.custom_hooks = [dict(type='mmpse.SupernetHook', **hook)]
    Runner.from_cfg(cfg).train()
    return folder


@pytest.fixture
def small_search(small_supernet, tmp_path):
    """A search of 18 subnets in it."""
    cfg = Config.fromfile(small_supernet / 'config.py')
    cfg.load_from, cfg.work_dir = str(small_supernet / 'epoch_2.pth'), str(tmp_path / 'search')
    cfg.randomness = dict(seed=0)
    cfg.train_dataloader.update(batch_size=24)
    cfg.train_cfg = dict(
        type='mmpse.EvolutionSearchLoop',
        budget=dict(flops='50%'),
        input_shape=(3, 32, 32),
        metric='accuracy/top1',
        population=6,
        generations=3,
        parents=2,
        mutants=3,
        calibration=2,
    )
    return cfg


def small(path: Path, digits: Path, tmp_path: Path) -> Config:
    cfg = Config.fromfile(path)
    cfg.work_dir = str(tmp_path / path.stem)
    cfg.model.backbone.widen_factor = 0.35
    cfg.log_level = 'WARNING'
    cfg.launcher = 'none'
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.5, by_epoch=False, end=6)]
    for name in ('train_dataloader', 'val_dataloader'):
        if cfg.get(name) is not None:
            cfg[name].update(batch_size=32)
            cfg[name].dataset.update(data_root=str(digits), indices=64)
    return cfg
