"""How searches judge a subnet, against judging it by hand, and on every task."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import set_random_seed
from search_runs import log_of, search
from tiny_tasks import write_task

from mmpse.openmmlab.search.judge import Judge, Verdict
from mmpse.registry import MODELS
from mmpse.search.archive import read_archive
from mmpse.space import Subnet


@pytest.fixture
def cfg(small_search):
    return small_search


@pytest.mark.parametrize('memory_format', [None, 'channels_last'])
def test_judging_equals_recalibrating_and_testing_the_cut_model(cfg, memory_format):
    """The model that best_subnet.json builds, recalibrated and tested by hand."""
    if memory_format:
        cfg.custom_hooks = [dict(type='mmpse.ChannelsLastHook')]
    runner = search(cfg, **{'train_cfg.generations': 1})
    loop = runner.train_loop
    best = Subnet.load(f'{cfg.work_dir}/best_subnet.json')

    pruned = dict(cfg.model, type='mmpse.Pruned', architecture=cfg.model.type)
    pruned['subnet'] = f'{cfg.work_dir}/best_subnet.json'
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(pruned)
    state = torch.load(cfg.load_from, weights_only=False)['state_dict']
    model.load_state_dict(state)
    assert model.backbone.conv1.out_channels == best['backbone.conv1'] < 8

    set_random_seed(loop.seed)
    batches = [b for _, b in zip(range(2), loop.dataloader, strict=False)]
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    right = total = loss = 0
    with torch.no_grad():
        for batch in batches:
            model(model.data_preprocessor(batch, True)['inputs'])
        model.eval()
        for batch in runner.val_loop.dataloader:
            scores = model(model.data_preprocessor(batch)['inputs'])
            labels = torch.cat([s.gt_label for s in batch['data_samples']])
            right += (scores.argmax(1) == labels).sum().item()
            loss += torch.nn.functional.cross_entropy(scores, labels, reduction='sum').item()
            total += len(labels)
    assert best.source['score'] == pytest.approx(100 * right / total, abs=1e-4)
    assert best.source['loss'] == pytest.approx(loss / total, rel=1e-4)

    mine = {row.widths: row for row in read_archive(f'{cfg.work_dir}/archive.db')}
    parts = mine[tuple(best.values())].parts
    assert len(parts) == 11 and np.isfinite(parts).all()


def test_the_supernet_is_as_it_was_after_judging(cfg):
    loop = search(cfg, **{'train_cfg.generations': 1}).train_loop
    state = torch.load(cfg.load_from, weights_only=False)['state_dict']
    after = loop.supernet.model.state_dict()
    assert state.keys() == after.keys()
    assert all(torch.equal(state[key], after[key]) for key in state)


@pytest.mark.parametrize('fp16', [False, True])
def test_mixed_precision_recalibrates_and_evaluates(cfg, monkeypatch, fp16):
    seen, judge = set(), Judge.__call__

    def watched(self, subnet):
        backbone = self.model.backbone
        hook = backbone.register_forward_hook(
            lambda module, args, features: seen.add((module.bn1.training, features[0].dtype))
        )
        verdict = judge(self, subnet)
        hook.remove()
        return verdict

    monkeypatch.setattr(Judge, '__call__', watched)
    search(cfg, **{'val_cfg.fp16': fp16, 'train_cfg.generations': 1})
    dtype = torch.bfloat16 if fp16 else torch.float32
    assert seen == {(True, dtype), (False, dtype)}  # recalibrated, evaluated


def test_cudnn_does_not_tune_for_every_subnet(cfg, monkeypatch):
    monkeypatch.setattr(Judge, '__call__', lambda s, n: Verdict(1.0, None))
    cfg.env_cfg = dict(cudnn_benchmark=True)
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
    assert Subnet.load(f'{cfg.work_dir}/best_subnet.json').source['score'] == 14.0


def test_supernet_whose_scores_are_never_numbers(cfg, monkeypatch):
    monkeypatch.setattr(Judge, '__call__', lambda s, n: Verdict(-np.inf, None))
    with pytest.raises(FloatingPointError, match='not a number for the fullnet .*trained?'):
        search(cfg)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('task', 'metric'), [('detection', 'coco/bbox_mAP'), ('segmentation', 'mIoU')]
)
def test_detectors_and_segmentors_are_searched_by_their_own_metric(task, metric, digits, tmp_path):
    config, checkpoint = write_task(task, digits, tmp_path)
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.load_from, cfg.log_level = str(tmp_path / 'work'), str(checkpoint), 'INFO'
    cfg.train_dataloader.batch_size = 4
    cfg.train_cfg = dict(
        type='mmpse.UniformSearchLoop',
        budget=dict(flops='100%'),
        window=0.9,
        metric=metric,
        calibration=1,
    )
    runner = search(cfg)
    rows = read_archive(f'{cfg.work_dir}/archive.db')
    assert len(rows) > 2 and all(np.isfinite(row.score) and row.loss is None for row in rows)
    best = Subnet.load(f'{cfg.work_dir}/best_subnet.json')
    assert best.source['metric'] == metric
    assert 'Average Precision' not in log_of(runner) and 'per class' not in log_of(runner)
