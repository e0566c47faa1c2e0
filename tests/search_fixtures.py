"""A search of a tiny ResNet's supernet, which is trained once for all tests."""

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from tiny_tasks import write_task


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
