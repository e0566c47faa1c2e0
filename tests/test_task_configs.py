"""The detectors' and segmentors' configs train and validate, on data in the real formats.

They run as a user would run them: from a folder with `data/` and `work_dirs/` in it, whose files
have the names that the configs read. Only the images are small, and so are the scales they are
resized to.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from task_data import HEIGHT, WIDTH, write_ade20k, write_cityscapes, write_coco, write_voc

from mmpse.models import find_backbone
from mmpse.registry import MODELS

CROP = (64, 128)
TASKS = ('detection', 'segmentation')
STEPS = ('supernet', 'search', 'finetune')  # of pruning on the task itself
CONFIGS = [
    path
    for task in TASKS
    for path in sorted((ROOT / 'configs' / task).glob('*.py'))
    if not path.stem.startswith(STEPS)
]
FAST = (
    'retinanet_mobilenet-v2-w1p5-300m_fpn_1x_coco',
    'pspnet_mobilenet-v2-w1p5-300m-d8_4xb2-80k_cityscapes-512x1024',
)


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
    cfg.default_hooks.checkpoint = None


def write_backbone(backbone: dict) -> dict[str, torch.Tensor]:
    """The subnet file and the retrained classifier's checkpoint that a config reads, if missing.

    Returns:
        The weights of the backbone.
    """
    retrain = Config.fromfile(
        ROOT / 'configs/retrain' / f'{Path(backbone.init_cfg.checkpoint).parent.name}.py'
    )
    assert retrain.model.backbone.subnet == backbone.subnet
    if not Path(backbone.subnet).exists():
        supernet = MODELS.build(dict(retrain.model.backbone, subnet=None))
        share = 1.0 if 'full' in backbone.subnet else 0.4
        Path(backbone.subnet).parent.mkdir(parents=True, exist_ok=True)
        supernet.search_space.uniform(share).save(backbone.subnet)
    checkpoint = Path(backbone.init_cfg.checkpoint)
    if not checkpoint.exists():
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            classifier = MODELS.build(retrain.model)
        for name, value in classifier.state_dict().items():
            if name.endswith('running_mean'):
                value.normal_()
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(state_dict=classifier.state_dict()), checkpoint)
    state = torch.load(checkpoint, weights_only=True)['state_dict']
    return {k.removeprefix('backbone.'): v for k, v in state.items() if k.startswith('backbone.')}


@pytest.mark.parametrize(
    'path',
    [pytest.param(p, marks=[] if p.stem in FAST else [pytest.mark.slow]) for p in CONFIGS],
    ids=lambda path: path.stem,
)
def test_two_iterations_and_a_validation(path, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    cfg = Config.fromfile(path)
    shrink(cfg)
    cfg.work_dir = str(tmp_path)
    if cfg.train_cfg.type == 'EpochBasedTrainLoop':
        cfg.train_cfg.max_epochs = 1
    else:
        cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.train_dataloader.batch_size = 2  # 4 images with boxes: two iterations an epoch
    retrained = write_backbone(cfg.model.backbone)

    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    backbone = find_backbone(runner.model)
    own = backbone.state_dict()
    assert own.keys() <= retrained.keys()
    for name, value in own.items():
        assert torch.equal(value, retrained[name]), name
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.train()
    assert runner.iter == 2
    losses = runner.message_hub.get_scalar('train/loss')
    assert np.isfinite(losses.data[0]).all()
    changed = {n for n, v in runner.model.state_dict().items() if not torch.equal(v, before[n])}
    trained = {n for n, p in runner.model.named_parameters() if p.requires_grad}
    assert trained & changed and any(n.startswith('backbone.') for n in changed)
    assert set(changed) <= trained | {n for n in before if 'running' in n or 'num_batches' in n}
    metric = 'coco/bbox_mAP' if 'detection' in path.parts else 'mIoU'
    assert np.isfinite(runner.message_hub.get_scalar(f'val/{metric}').data[0]).all()
