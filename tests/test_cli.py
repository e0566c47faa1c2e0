"""The command: what it prints, and one line for each thing that a user may get wrong."""

import errno
import json
import os
import subprocess
import sys

import pytest
from tiny_tasks import without_onnx, write_task

from mmpse import api, cli, files
from mmpse.openmmlab.deploy.latency import latency_cost, read_latency
from mmpse.openmmlab.pruning.subject import examine
from mmpse.resources.timing import Latencies

COMMANDS = 'prune', 'units', 'train', 'test', 'search', 'transfer', 'export', 'latency'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('tasks')


@pytest.fixture(scope='module')
def classifier(digits, folder):
    return write_task('classification', digits, folder)


@pytest.fixture(scope='module')
def detector(digits, folder):
    return write_task('detection', digits, folder)


def refused(*arguments) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    line = ended.value.code  # Python prints a text to stderr, and exits with 1
    assert isinstance(line, str) and '\n' not in line, line
    return line


def test_help_names_all_commands():
    command = [sys.executable, '-m', 'mmpse', '--help']
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(f' {name} ' in ended.stdout for name in COMMANDS)


@pytest.mark.parametrize('command', [name for name in COMMANDS if name not in ('prune', 'units')])
def test_the_tools_are_commands(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, '--help'])
    assert ended.value.code == 0
    assert f'usage: mmpse {command} ' in capsys.readouterr().out


def test_a_training_is_no_search(classifier):
    line = refused('search', classifier[0])
    assert 'is no config of a search' in line and '`mmpse train` trains by it' in line


def test_latency_is_measured_into_a_file_for_searches(classifier, tmp_path, capsys, monkeypatch):
    def measure(calls, rounds, track):
        return Latencies({number: [1e-3] * rounds for number in calls})

    monkeypatch.setattr('mmpse.openmmlab.deploy.latency.measure_latencies', measure)
    out = tmp_path / 'latency.json'
    cli.main(['latency', str(classifier[0]), '-o', str(out)])
    assert 'latency.json: 32 subnets took 1 to 1 ms' in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content['of']['input_shape'] == [3, 32, 32] and len(content['measured']) == 32
    space = examine(classifier[0], None).space
    cost = latency_cost(space, read_latency(out, space, (3, 32, 32)))
    ends = cost(space.array([space.tinynet, space.fullnet]))
    assert ends == pytest.approx([1000, 1000], rel=0.01)


def test_latency_into_a_folder_is_told_before_anything_is_measured(classifier, tmp_path):
    line = refused('latency', classifier[0], '-o', tmp_path)
    assert line.startswith('IsADirectoryError') and str(tmp_path) in line


def test_units_are_listed_with_what_writes_and_reads_them(detector, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '160')
    cli.main(['units', str(detector[0]), '--keep', 'neck.*'])
    lines = capsys.readouterr().out.splitlines()
    unit = next(line for line in lines if line.startswith('│ backbone.layer1.0.conv1 '))
    assert [cell.strip() for cell in unit.split('│')[1:-1]] == [
        'backbone.layer1.0.conv1',
        'backbone.layer1.0.conv1',
        'backbone.layer1.0.conv2',
        '16',
        '8',
    ]
    kept = next(line for line in lines if line.startswith('│ neck.fpn_convs.0.conv '))
    assert kept.split('│')[-2].strip() == 'kept'
    assert any('bbox_head.retina_cls,' in line and 'an output' in line for line in lines)


def test_dry_run_shows_what_is_reachable_and_writes_nothing(detector, tmp_path, capsys):
    out = tmp_path / 'out'
    cli.main(['prune', *map(str, detector), '--flops', '40%', '--dry-run', '-o', str(out)])
    said = capsys.readouterr().out
    rows = [line.split('│')[1:-1] for line in said.splitlines() if 'M (' in line]
    assert [row[0].strip() for row in rows] == ['lowest', 'uniform', 'full']
    shares = [int(row[1].partition('(')[2].partition('%')[0]) for row in rows]
    assert shares[0] < 38 <= shares[1] <= 40 and shares[2] == 100
    assert 'bbox_head.retina_cls' in said and 'it is an output' in said
    assert not out.exists()


def test_the_checkpoint_of_another_model(classifier, detector, tmp_path):
    line = refused('prune', classifier[0], detector[1], '--flops', '50%', '-o', tmp_path / 'out')
    assert line.startswith('CheckpointError') and 'detection.pth' in line
    assert 'lacks head of the ImageClassifier' in line and 'has neck, bbox_head instead' in line


def test_a_budget_below_what_is_reachable(detector, tmp_path):
    line = refused('prune', *detector, '--flops', '1%', '--keep', 'neck.*', '-o', tmp_path / 'out')
    assert line.startswith('BudgetError: no subnet of this RetinaNet has at most')
    assert 'they reach from' in line and '(100%)' in line
    assert 'bbox_head.retina_cls, bbox_head.retina_reg (it is an output of the model)' in line
    assert 'neck.lateral_convs.0.conv' in line and 'no other width (--keep, --divisor)' in line


def test_a_budget_above_the_model(detector, tmp_path):
    line = refused('prune', *detector, '--params', '5M', '-o', tmp_path / 'out')
    assert 'there is nothing to prune' in line


def test_a_budget_that_is_no_amount(detector, tmp_path):
    line = refused('prune', *detector, '--flops', 'half', '-o', tmp_path / 'out')
    assert "'half' is not an amount of flops" in line


def test_no_budget(detector):
    assert '--flops 50%' in refused('prune', *detector)


@pytest.mark.parametrize(
    ('option', 'amount', 'said'),
    [('flops', '50', 'did you mean --flops 50%?'), ('latency', '60', "expected '5ms'")],
)
def test_an_amount_that_is_meant_otherwise(option, amount, said):
    """Nothing is looked at: there is no such config."""
    assert said in refused('prune', 'none.py', 'none.pth', f'--{option}', amount)


def test_options_are_not_abbreviated(capsys):
    with pytest.raises(SystemExit):
        cli.main(['prune', 'none.py', 'none.pth', '--flop', '50%'])
    assert 'unrecognized arguments: --flop' in capsys.readouterr().err


def test_a_way_to_choose_that_does_not_exist(detector):
    line = refused('prune', *detector, '--flops', '50%', '--how', 'magic')
    assert '--how magic' in line and 'sensitivity' in line


def test_a_folder_that_is_not_empty(detector, tmp_path):
    (tmp_path / 'notes.txt').touch()
    line = refused('prune', *detector, '--flops', '50%', '-o', tmp_path)
    assert 'is not empty' in line and '--resume' in line


def test_a_checkpoint_that_is_missing(detector, tmp_path):
    line = refused('prune', detector[0], 'none.pth', '--flops', '50%', '-o', tmp_path / 'out')
    assert 'none.pth' in line


def test_a_config_that_is_missing(detector, tmp_path):
    line = refused('prune', 'none.py', detector[1], '--flops', '50%', '-o', tmp_path / 'out')
    assert line == 'ConfigError: there is no config none.py'


def test_a_metric_that_nobody_knows(classifier, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(classifier[0].read_text().replace("type='Accuracy'", "type='Acuracy'"))
    line = refused('prune', config, classifier[1], '--flops', '50%', '-o', tmp_path / 'out')
    assert line.startswith('ConfigError: cannot build the val_evaluator of') and 'Acuracy' in line


def test_a_unit_to_keep_that_does_not_exist(detector, tmp_path):
    line = refused('prune', *detector, '--flops', '50%', '--keep', 'nek.*', '-o', tmp_path / 'out')
    assert "'nek.*'" in line and 'matches no unit' in line


def test_a_disk_that_is_full(classifier, tmp_path, monkeypatch):
    """In the middle: what was done is kept, nothing is there by half, and --resume goes on."""
    command = ['prune', *classifier, '--flops', '50%', '--how', 'uniform', '--no-finetune']
    stock = os.replace

    def replace(new, path):
        if path.name == 'cut.pth':
            raise OSError(errno.ENOSPC, 'No space left on device', str(path))
        stock(new, path)

    without_onnx(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(files.os, 'replace', replace)
        line = refused(*command, '-o', tmp_path / 'out')
    assert 'No space left on device' in line and 'out/steps/cut.pth' in line and '--resume' in line
    there = {path.name for path in (tmp_path / 'out').rglob('*')}
    assert {'sorted.pth', 'choice.json'} <= there and not any('.tmp' in name for name in there)
    before = (tmp_path / 'out/steps/sorted.pth').read_bytes()
    cli.main([*map(str, command), '-o', str(tmp_path / 'out'), '--resume'])
    assert (tmp_path / 'out/pruned.pth').exists()
    assert (tmp_path / 'out/steps/sorted.pth').read_bytes() == before


@pytest.mark.parametrize('command', ['prune', 'train'])
def test_a_folder_that_cannot_be(command, classifier, tmp_path):
    (tmp_path / 'file').touch()
    place = tmp_path / 'file/out'
    if command == 'prune':
        line = refused('prune', *classifier, '--flops', '50%', '-o', place)
    else:
        line = refused(command, classifier[0], '--work-dir', place)
    assert line.startswith('NotADirectoryError') and str(place) in line


def test_ctrl_c_names_resume(detector, monkeypatch, capsys):
    def prune(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, 'prune', prune)
    with pytest.raises(SystemExit):
        cli.main(['prune', *map(str, detector), '--flops', '50%'])
    assert capsys.readouterr().err == 'interrupted; the same command with --resume goes on\n'


@pytest.mark.parametrize('options', [[], ['--amp']])
def test_a_config_that_trains_by_half(classifier, tmp_path, options):
    config = tmp_path / 'config.py'
    config.write_text(f'_base_ = {str(classifier[0])!r}\noptim_wrapper = None\n')
    line = refused('train', config, '--work-dir', tmp_path, *options)
    assert line == (
        f'ConfigError: {config} has train_dataloader, train_cfg, but no optim_wrapper: MMEngine '
        'takes all of them or none; add what is missing, or set train_dataloader and train_cfg to '
        'None'
    )


def test_a_config_without_a_model(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text('train_cfg = dict(by_epoch=True, max_epochs=1)\n')
    line = refused('train', config, '--work-dir', tmp_path)
    assert line == f'ConfigError: {config} has no model; give a whole config'


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (['--input-shape', '3', '0', '32'], 'input_shape (--input-shape) is (3, 0, 32), expected'),
        (['--seed', '-1'], 'seed (--seed) is -1, expected 0 to 4294967295'),
    ],
)
def test_a_number_out_of_range(classifier, tmp_path, options, said):
    out = tmp_path / 'out'
    assert said in refused('prune', *classifier, '--flops', '50%', *options, '-o', out)
    assert not out.exists()
