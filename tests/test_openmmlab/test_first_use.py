"""What a first use of ``mmpse prune`` stumbles over: few images, a second try, a busy machine."""

import json
import math

import pytest
from mmengine.config import Config
from tiny_tasks import without_onnx, write_task
from torch import nn

import mmpse
from mmpse.command import one_line
from mmpse.openmmlab.models.losses import images_in, one_by_one, preprocessed, training_batches
from mmpse.openmmlab.pruning import job, measure
from mmpse.openmmlab.pruning.choosing import Judgement, verdict, winner
from mmpse.openmmlab.pruning.reach import in_words
from mmpse.openmmlab.pruning.report import cells, footnote, summary
from mmpse.openmmlab.pruning.steps import PruneError, Steps
from mmpse.openmmlab.pruning.subject import is_hopeless
from mmpse.space.budget import BudgetError


def few(task, digits, folder, images):
    """Config and checkpoint of a task that trains on so many images."""
    config, checkpoint = write_task(task, digits, folder)
    text = config.read_text()
    begin = text.index('indices=[')
    end = text.index(']', begin)
    config.write_text(f'{text[:begin]}indices=[*range({images})]{text[end + 1 :]}')
    return config, checkpoint


@pytest.mark.parametrize(('images', 'size', 'batches'), [(40, 5, 8), (19, 4, 5), (1, 1, 1)])
def test_few_images_are_many_parts(images, size, batches, digits, tmp_path):
    config, checkpoint = few('classification', digits, tmp_path, images)
    loader = Config.fromfile(config).train_dataloader
    found = training_batches(loader, 128, 'mmpretrain')
    assert len(found) == batches and len(found[0]['inputs']) == size
    ready = preprocessed(mmpse.build(config, checkpoint), found)
    parts = one_by_one(ready)
    assert images_in(ready) == len(parts) == images
    assert all(len(part['inputs']) == len(part['data_samples']) == 1 for part in parts)


def test_why_a_candidate_is_taken_is_said_in_one_line():
    def said(gain, error):
        judged = [Judgement('uniform', (8,), 2.0, 0.0, 0.0)]
        judged.append(Judgement('sensitivity 1', (16,), 2.0 - gain, gain, error))
        return verdict(judged, winner(judged), 64)

    kept = said(0.1, 0.2)
    assert kept.startswith(
        'kept uniform: sensitivity 1 is not better by more than a standard error'
    )
    assert '0.1000 lower, standard error 0.2000, on 64 images' in kept
    assert said(0.3, 0.2).startswith('sensitivity 1 is better than uniform: its loss is 0.3000')
    unknown = said(0.3, math.inf)
    assert unknown.startswith('kept uniform') and 'standard error unknown' in unknown


def test_a_pruning_on_six_images_that_detects_nothing_afterwards(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, 'SECONDS', 0.1)
    without_onnx(monkeypatch)
    found = [{'coco/bbox_mAP': 0.4, 'coco/bbox_mAP_l': -1.0, 'coco/zebra_precision': None}, {}]
    monkeypatch.setattr(job, 'metrics_of', lambda *_: found.pop(0))
    task = few('classification', digits, tmp_path, 6)
    settings = dict(flops='50%', finetune=False, out=tmp_path / 'out')
    table = mmpse.prune(*task, **settings).table  # the cut model is not evaluated twice
    assert table['after']['coco/bbox_mAP'] == 0 and table['after']['coco/bbox_mAP_l'] == -1
    assert table['after']['coco/zebra_precision'] is None
    mmpse.prune(*task, **settings, resume=True)

    judged = json.loads((tmp_path / 'out/steps/judged.json').read_text())
    assert all(math.isfinite(row['error']) for row in judged)
    report = json.loads((tmp_path / 'out/report.json').read_text())
    assert report['busy']['latency_ms'] >= 1
    log = (tmp_path / 'out/prune.log').read_text()
    assert log.count('weights: ') == 2  # resuming goes on with it
    assert 'cut: nothing is detected: coco/bbox_mAP are taken as 0' in log
    assert 'inf' not in log.replace('INFO', '').replace('info', '') and 'Initialization' not in log
    assert 'on 2 images' in log and ' M FLOPs, ' in log


def test_a_try_that_came_to_nothing_does_not_block_the_folder(digits, tmp_path):
    task, out = write_task('classification', digits, tmp_path), tmp_path / 'out'
    with pytest.raises(BudgetError):
        mmpse.prune(*task, flops='1%', out=out)
    with pytest.raises(PruneError, match="^keep .--keep.: 'nek'"):
        mmpse.prune(*task, flops='50%', keep=['nek'], out=out)
    with pytest.raises(ValueError, match='epochs=0 must be'):
        mmpse.prune(*task, flops='50%', epochs=0, out=out)
    assert not out.exists()

    Steps(out, resume=False).claim(dict(seed=0))
    (out / 'prune.log').touch()
    (out / 'steps/latency.json').write_text('{}')
    for resume in (False, True):
        again = Steps(out, resume)
        again.claim(dict(seed=1 + resume))
        assert not (out / 'steps/latency.json').exists()
    again.once('before', dict)
    with pytest.raises(PruneError, match='is not empty'):
        Steps(out, resume=False)
    with pytest.raises(PruneError, match='seed=2, not 3'):
        Steps(out, resume=True).check(dict(seed=3))


def test_latency_of_a_busy_machine_has_a_mark(tmp_path):
    stage = dict(flops=251e9, params=4e6, latency_ms=7.0, onnxruntime_ms=3.0, mAP=0.5, mAP_s=-1)
    stage['zebra'] = None  # a class that the data does not have
    table = dict(before=stage, after=stage)
    busy = dict(latency_ms=6.2, onnxruntime_ms=1.0)
    rows = {row[0]: row[1:] for row in cells(table, busy)[1]}
    assert rows['latency, PyTorch (ms) *'] == ['7', '7', '100.0%']
    assert 'latency, onnxruntime (ms)' in rows and rows['mAP'][-1] == '+0'
    assert rows['mAP_s'] == rows['zebra'] == ['n/a', 'n/a', '-']
    assert rows['FLOPs (G multiply-adds)'][0] == '251'
    note = footnote(busy, tmp_path)
    assert '6.2 times' in note and f'rm {tmp_path}/measured.json' in note and '--resume' in note
    assert summary(table, busy, tmp_path).endswith(note)
    assert footnote(dict(latency_ms=1.1), tmp_path) == ''


def test_measuring_ends_in_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr('time.perf_counter', lambda: now[0])

    def call(seconds):
        now[0] += seconds

    times = measure.timed(dict(before=lambda: call(20), after=lambda: call(10)))
    assert times['before'] == [20] and now[0] == 4 * 30


def test_amounts_have_units():
    resources = dict(flops=477835776, params=300000, latency=1080, input_shape=[3, 64, 64])
    assert in_words(resources) == '478 M FLOPs, 0.3 M parameters, 1.08 ms'
    assert in_words(dict(flops=251e9)) == '251 G FLOPs'


def test_a_model_that_guesses():
    model = nn.Module()
    model.num_classes = 10
    assert is_hopeless({'coco/bbox_mAP': 0.001, 'coco/bbox_mAP_50': 0.02}, model)
    assert is_hopeless({}, model) and is_hopeless({'accuracy/top1': 10.4}, model)
    for metrics in ({'coco/bbox_mAP': 0.1}, {'accuracy/top1': 40}, {'aAcc': 3, 'mIoU': 30}):
        assert not is_hopeless(metrics, model)


def test_a_missing_file_is_said_to_be_looked_for_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = FileNotFoundError(2, 'No such file or directory', 'data/coco/train.json')
    assert f"'data/coco/train.json'; relative paths are looked for in {tmp_path}" in one_line(error)
    error = FileNotFoundError(2, 'No such file or directory', '/data/train.json')
    assert 'relative' not in one_line(error)
