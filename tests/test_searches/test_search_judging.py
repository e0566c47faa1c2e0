"""How searches judge a subnet, against judging it by hand, and on every task."""

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.runner import Runner
from search_runs import log_of, search

from mmpse.openmmlab.search.archive import read_archive
from mmpse.openmmlab.search.judge import Judge, Verdict
from mmpse.space import Subnet


@pytest.fixture
def cfg(trained_search_cfg):
    return trained_search_cfg


def test_judging_equals_recalibrating_and_testing_by_hand(cfg):
    runner = search(cfg)
    loop = runner.train_loop
    row = read_archive(f'{cfg.work_dir}/archive.db')[3]
    from mmengine.runner import set_random_seed

    from mmpse.models import SlimmableMobileNetV2

    subnet = loop.space.subnet(row.widths)
    state = torch.load(cfg.load_from, weights_only=False)['state_dict']
    backbone = SlimmableMobileNetV2(widen_factor=0.35, subnet=subnet)
    backbone.load_state_dict({k[9:]: v for k, v in state.items() if k.startswith('backbone.')})
    set_random_seed(loop.seed)
    batches = [b for _, b in zip(range(2), loop.dataloader, strict=False)]
    images = [torch.stack(b['inputs']).float().sub(127.5).div(127.5) for b in batches]
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    backbone.train()
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    with torch.no_grad():
        for image in images:
            backbone(image)
        backbone.eval()
        weight = state['head.fc.weight'][:, : subnet['conv2']]
        right = total = loss = 0
        for batch in runner.val_loop.dataloader:
            x = torch.stack(batch['inputs']).float().sub(127.5).div(127.5)
            score = backbone(x)[0].mean((2, 3)) @ weight.t() + state['head.fc.bias']
            labels = torch.cat([s.gt_label for s in batch['data_samples']])
            right += (score.argmax(1) == labels).sum().item()
            loss += torch.nn.functional.cross_entropy(score, labels, reduction='sum').item()
            total += len(labels)
    assert row.score == pytest.approx(100 * right / total, abs=1e-4)
    assert row.loss == pytest.approx(loss / total, rel=1e-4)


@pytest.mark.parametrize('fp16', [False, True])
def test_mixed_precision_recalibrates_and_evaluates(cfg, monkeypatch, fp16):
    seen, slice_model = set(), Judge.slice

    def watched(judge, subnet):
        model = slice_model(judge, subnet)
        norm = model.backbone.conv1.bn
        model.backbone.register_forward_hook(
            lambda module, args, features: seen.add((norm.training, features[0].dtype))
        )
        return model

    monkeypatch.setattr(Judge, 'slice', watched)
    search(cfg, **{'val_cfg.fp16': fp16})
    dtype = torch.bfloat16 if fp16 else torch.float32
    assert seen == {(True, dtype), (False, dtype)}  # recalibrated, evaluated


def test_cudnn_does_not_tune_for_every_subnet(cfg, monkeypatch):
    monkeypatch.setattr(Judge, '__call__', lambda s, n: Verdict(1.0, None))
    cfg.env_cfg.cudnn_benchmark = True
    try:
        log = log_of(search(cfg, log_level='INFO', **{'train_cfg.generations': 1}))
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = False
    assert 'cudnn_benchmark is switched off: every subnet has other widths' in log


def test_score_that_is_not_a_number_ranks_last(cfg, monkeypatch):
    judge, count = Judge.evaluate, []

    def sometimes(self, model):
        count.append(model)
        self.evaluator.metrics[0].compute_metrics = lambda results: dict(
            top1=float('nan') if len(count) % 2 else float(len(count))
        )
        return judge(self, model)

    monkeypatch.setattr(Judge, 'evaluate', sometimes)
    search(cfg, **{'train_cfg.generations': 2})
    rows = read_archive(f'{cfg.work_dir}/archive.db')
    assert [row.score for row in rows[:4]] == [-np.inf, 2.0, -np.inf, 4.0]
    assert Subnet.load(f'{cfg.work_dir}/best_subnet.json').source['score'] == 12.0


def test_supernet_whose_scores_are_never_numbers(cfg, monkeypatch):
    monkeypatch.setattr(Judge, '__call__', lambda s, n: Verdict(-np.inf, None))
    with pytest.raises(FloatingPointError, match='not a number for any of the first 6 .*trained?'):
        search(cfg)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'metric'),
    [('retinanet_mobilenet-v2_digits', 'coco/bbox_mAP'), ('fpn_mobilenet-v2_digits', 'mIoU')],
)
def test_detectors_and_segmentors_are_searched_by_their_own_metric(name, metric, digits, tmp_path):
    cfg = Config.fromfile(ROOT / f'configs/quickstart/{name}.py')
    cfg.work_dir, cfg.log_level, cfg.launcher = str(tmp_path / name), 'WARNING', 'none'
    cfg.model.backbone.update(widen_factor=0.35, ratios=[0.5, 1.0], subnet=None, init_cfg=None)
    if 'ann_file' in cfg.test_evaluator:
        cfg.test_evaluator.ann_file = str(digits / 'scenes/annotations/test.json')
    cfg.model.test_cfg.update(score_thr=0.0)  # what is not trained is sure of nothing
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.batch_size = 4
        loader.dataset.update(data_root=str(digits), indices=8)
    cfg.update(val_dataloader=cfg.test_dataloader, val_evaluator=cfg.test_evaluator, val_cfg=dict())
    cfg.update(test_dataloader=None, test_evaluator=None, test_cfg=None, param_scheduler=None)
    shared = dict(input_shape=(3, 128, 128), metric=metric, calibration=1)
    budget = dict(budget=dict(flops='100%'), window=0.9)
    cfg.train_cfg = dict(type='mmpse.UniformSearchLoop', **budget, **shared)
    cfg.load_from = str(tmp_path / 'supernet.pth')
    cfg.experiment_name = name
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    torch.save(dict(state_dict=runner.model.state_dict()), cfg.load_from)
    runner.train()
    rows = read_archive(f'{cfg.work_dir}/archive.db')
    assert len(rows) > 1 and all(np.isfinite(row.score) and row.loss is None for row in rows)
    best = Subnet.load(f'{cfg.work_dir}/best_subnet.json')
    assert best.source['metric'] == metric
