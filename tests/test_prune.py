"""From a trained model to half of it, by one command."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mmengine.fileio.backends import LocalBackend
from tiny_tasks import without_onnx, write_task

import mmpse
from mmpse import cli
from mmpse.api import PruneError
from mmpse.openmmlab.models.outputs import raw_outputs
from mmpse.openmmlab.pruning import measure
from mmpse.slim.watch import tensors_in
from mmpse.space import Subnet

METRICS = dict(classification='accuracy/top1', detection='coco/bbox_mAP', segmentation='mIoU')
SHAPES = dict(classification=(3, 32, 32), detection=(3, 128, 128), segmentation=(3, 128, 128))


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(measure, 'SECONDS', 0.2)


@pytest.mark.slow
@pytest.mark.parametrize('task', METRICS)
def test_one_command(task, digits, tmp_path, monkeypatch, capsys):
    if task != 'classification':
        without_onnx(monkeypatch)
    config, checkpoint = write_task(task, digits, tmp_path)
    out, shape = tmp_path / 'pruned', SHAPES[task]
    options = ['--how', 'uniform'] if task == 'segmentation' else []
    cli.main(f'prune {config} {checkpoint} --flops 50% --epochs 1 -o {out}'.split() + options)
    assert METRICS[task] in capsys.readouterr().out

    report = json.loads((out / 'report.json').read_text())
    full, cut = mmpse.build(config), mmpse.build(out / 'pruned.py', out / 'pruned.pth')
    costs = [mmpse.cost(model, torch.zeros(1, *shape)) for model in (full, cut)]
    for name, expected in (('before', costs[0]), ('cut', costs[1]), ('after', costs[1])):
        stage = report[name]
        assert {key: stage[key] for key in expected} == expected
        assert stage['latency_ms'] > 0 and METRICS[task] in stage
        assert ('onnxruntime_ms' in stage) == (task == 'classification')
    assert 0.45 < costs[1]['flops'] / costs[0]['flops'] <= 0.5
    assert report['after']['bytes'] == pytest.approx((out / 'pruned.pth').stat().st_size, abs=2000)
    assert report['widths'] == dict(Subnet.load(out / 'subnet.json'))

    page = (out / 'report.html').read_text()
    assert all(unit in page for unit in report['widths'])
    assert page.count('<img') >= (4 if task == 'classification' else 12)
    assert 'Cannot be shown' not in page


def test_a_supernet_is_no_trained_model(digits, tmp_path):
    config, checkpoint = write_task('classification', digits, tmp_path)
    content = torch.load(checkpoint, weights_only=False)
    for name, tensor in content['state_dict'].items():
        if name.endswith('num_batches_tracked'):
            tensor.fill_(-1)  # as SupernetHook marks it; published, it has nothing else
    torch.save(content, checkpoint)
    with pytest.raises(PruneError, match='is the checkpoint of a supernet.*mmpse search'):
        mmpse.prune(config, checkpoint, flops='50%', out=tmp_path / 'out')


@pytest.mark.slow
def test_latency_is_a_budget_as_any(digits, tmp_path, monkeypatch):
    without_onnx(monkeypatch)
    monkeypatch.setattr('mmpse.openmmlab.deploy.latency.EXPECTED', 0.0)  # it is missed
    config, checkpoint = write_task('classification', digits, tmp_path)
    out = tmp_path / 'pruned'
    mmpse.prune(config, checkpoint, latency='95%', how='uniform', finetune=False, out=out)
    page, log = ((out / name).read_text() for name in ('report.html', 'prune.log'))
    assert ' ms (100%)' in page and 'Cannot be shown' not in page
    # what is wrong is said at once, again at the end, and in the reports
    note = json.loads((out / 'report.json').read_text())['notes'][0]
    assert note.startswith('Attention: the latency of subnets is predicted with a mean error of')
    assert note in page and log.splitlines()[-1] == note
    assert log.count(note.removeprefix('Attention: ').removesuffix('.')) == 2


def test_a_pruned_model_is_pruned_from_the_full_one(digits, tmp_path):
    config, checkpoint = write_task('classification', digits, tmp_path)
    out = tmp_path / 'out'
    mmpse.prune(config, checkpoint, flops='50%', how='uniform', finetune=False, out=out)
    with pytest.raises(PruneError, match=r'pruned\.py is of a pruned model; prune the model'):
        mmpse.prune(out / 'pruned.py', out / 'pruned.pth', flops='50%', out=tmp_path / 'again')


@pytest.mark.slow
def test_a_fine_tuning_that_diverges(digits, tmp_path):
    config, checkpoint = write_task('segmentation', digits, tmp_path)
    config.write_text(config.read_text().replace('lr=0.01', 'lr=1e30').replace('=1.0', '=1e30'))
    with pytest.raises(PruneError, match=r'the training diverged.*cut\.pth'):
        mmpse.prune(config, checkpoint, flops='50%', how='uniform', out=tmp_path / 'out')
    assert not (tmp_path / 'out/pruned.pth').exists()


def test_the_config_that_it_writes_needs_no_import():
    """What is pruned is a registered model wherever mmpse is."""
    code = (
        'import mmpse; from mmpse.registry import MODELS; '
        " print(MODELS.get('mmpse.Pruned').__name__)"
    )
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert ended.stdout.strip().endswith('Pruned'), ended.stderr


@pytest.mark.slow
def test_what_it_writes_is_what_it_returns(digits, tmp_path, monkeypatch):
    without_onnx(monkeypatch)
    config, checkpoint = write_task('classification', digits, tmp_path)
    text = config.read_text()
    begin, end = text.index('val_dataloader ='), text.index('train_cfg =')
    config.write_text((text[:begin] + text[end:]).replace('val_cfg = dict()\n', ''))
    result = mmpse.prune(
        config, checkpoint, params='40%', how='uniform', finetune=False, out=tmp_path / 'out'
    )

    # the config has no validation data: there is no metric, and the page says so
    assert set(result.table['after']) == {'flops', 'params', 'bytes', 'latency_ms'}
    assert 'no metric can be shown' in (tmp_path / 'out/report.html').read_text()
    assert 'no metric can be shown' in (tmp_path / 'out/prune.log').read_text()

    model = mmpse.build(tmp_path / 'out/pruned.py', tmp_path / 'out/pruned.pth')
    images = torch.randn(2, *SHAPES['classification'])
    with torch.no_grad():
        for one, other in zip(
            tensors_in(raw_outputs(model, images)),
            tensors_in(raw_outputs(result.model, images)),
            strict=True,
        ):
            torch.testing.assert_close(one, other)
    assert sum(p.numel() for p in model.parameters()) == result.table['after']['params']

    # once more with --resume: nothing is done again, and the result is the same
    files = {path: path.stat().st_mtime_ns for path in Path(tmp_path, 'out/steps').rglob('*.*')}
    again = mmpse.prune(
        config,
        checkpoint,
        params='40%',
        how='uniform',
        finetune=False,
        out=tmp_path / 'out',
        resume=True,
    )
    assert again.table == result.table and again.subnet == result.subnet
    assert files == {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
def test_a_disk_that_is_full_in_the_fine_tuning(digits, tmp_path, monkeypatch):
    """MMEngine leaves a checkpoint by half; the folder is moved to where there is space."""
    without_onnx(monkeypatch)
    config, checkpoint = write_task('classification', digits, tmp_path)
    options = dict(flops='50%', how='uniform', epochs=2)
    whole = mmpse.prune(config, checkpoint, out=tmp_path / 'whole', **options)
    stock = LocalBackend.put

    def put(self, content, path):
        if str(path).endswith('epoch_2.pth'):
            stock(self, content[:1000], path)
            raise OSError(errno.ENOSPC, 'No space left on device')
        stock(self, content, path)

    with monkeypatch.context() as patched, pytest.raises(OSError, match='No space left'):
        patched.setattr(LocalBackend, 'put', put)
        mmpse.prune(config, checkpoint, out=tmp_path / 'full', **options)
    run = (tmp_path / 'full').rename(tmp_path / 'moved') / 'steps/finetune'
    assert (run / 'epoch_2.pth').stat().st_size == 1000
    assert (run / 'last_checkpoint').read_text().endswith('epoch_1.pth')
    written = (run / 'epoch_1.pth').stat().st_mtime_ns

    resumed = mmpse.prune(config, checkpoint, out=tmp_path / 'moved', resume=True, **options)
    assert (run / 'epoch_1.pth').stat().st_mtime_ns == written  # it is not trained again
    expected = whole.model.state_dict()
    assert all(torch.equal(expected[k], x) for k, x in resumed.model.state_dict().items())

    # what is done may be moved, too
    (tmp_path / 'moved').rename(tmp_path / 'again')
    again = mmpse.prune(config, checkpoint, out=tmp_path / 'again', resume=True, **options)
    assert again.table == resumed.table


@pytest.mark.slow
def test_the_first_of_two_processes_decides_and_both_train(digits, tmp_path):
    config, checkpoint = write_task('classification', digits, tmp_path)
    config.write_text(config.read_text().replace("log_level = 'WARNING'", "log_level = 'INFO'"))
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', '2']
    command += ['--master-port', '29553', '-m', 'mmpse', 'prune', str(config), str(checkpoint)]
    command += ['--flops', '50%', '--epochs', '1', '--launcher', 'pytorch', '-o', 'two']
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    report = json.loads((tmp_path / 'two/report.json').read_text())
    assert report['after']['flops'] < 0.55 * report['before']['flops']
    log = ''.join(p.read_text() for p in (tmp_path / 'two/steps/finetune').glob('*/*.log'))
    assert 'Distributed launcher: pytorch' in log and 'GPU number: 2' in log
