"""What is exported: a trained model, full or cut, with the statistics that it needs."""

import json

import pytest
import torch
from tiny_tasks import write_task

import mmpse
from mmpse.cli import main
from mmpse.deploy import fingerprint, read_metadata
from mmpse.openmmlab.configs.datasets import all_training
from mmpse.openmmlab.configs.files import load_config, write_config
from mmpse.openmmlab.configs.pruned import pruned_changes
from mmpse.openmmlab.deploy.trained import IMAGES, trained_model
from mmpse.openmmlab.errors import CheckpointError
from mmpse.openmmlab.models.losses import training_batches
from mmpse.openmmlab.models.recalibration import recalibrate
from mmpse.space import SubnetError


@pytest.fixture(scope='module')
def task(digits, tmp_path_factory):
    return write_task('classification', digits, tmp_path_factory.mktemp('task'))


@pytest.fixture(scope='module')
def half(task):
    return mmpse.units(mmpse.build(*task)).space(model='ImageClassifier').uniform(0.5)


@pytest.fixture(scope='module')
def cut(task, half):
    """The cut model with statistics of its own."""
    model = mmpse.build(*task)
    cut = mmpse.cut(model, mmpse.units(model), half)
    loader = all_training(load_config(task[0]))
    recalibrate(cut, training_batches(loader, IMAGES, 'mmpretrain'))
    return cut


def assert_same(model, expected):
    for (name, value), (other, reference) in zip(
        model.state_dict().items(), expected.state_dict().items(), strict=True
    ):
        assert name == other and torch.equal(value, reference), name


def test_the_full_model(task):
    model, subnet = trained_model(*task)
    assert subnet is None and not model.training
    assert_same(model, mmpse.build(*task))


def test_full_weights_are_cut_and_recalibrated(task, half, cut):
    model, subnet = trained_model(*task, half)
    assert subnet == half
    assert_same(model, cut)


def test_a_supernets_weights_need_a_subnet(task, half, cut, tmp_path):
    content = torch.load(task[1], weights_only=True)
    content['meta']['mmpse_supernet'] = {}
    torch.save(content, tmp_path / 'supernet.pth')
    with pytest.raises(CheckpointError, match='of a supernet.*, or name a subnet to cut it to'):
        trained_model(task[0], tmp_path / 'supernet.pth')
    assert_same(trained_model(task[0], tmp_path / 'supernet.pth', half.to_dict())[0], cut)


def test_weights_of_the_subnet_are_left_as_they_are(task, half, cut, tmp_path):
    for buffer in (state := cut.state_dict()).values():
        if buffer.is_floating_point():
            buffer.add_(0)
    torch.save(dict(state_dict=state), tmp_path / 'cut.pth')
    assert_same(trained_model(task[0], tmp_path / 'cut.pth', half)[0], cut)
    config = tmp_path / 'pruned.py'
    cfg = load_config(task[0])
    write_config(config, task[0], pruned_changes(cfg, half), 'The pruned model.')
    model, subnet = trained_model(config, tmp_path / 'cut.pth')
    assert subnet == half
    assert_same(model, cut)


def test_a_backbone_alone_is_no_trained_model(task, tmp_path):
    state = torch.load(task[1], weights_only=True)['state_dict']
    backbone = {key: value for key, value in state.items() if key.startswith('backbone.')}
    torch.save(dict(state_dict=backbone), tmp_path / 'backbone.pth')
    with pytest.raises(CheckpointError, match='it lacks head of the ImageClassifier'):
        trained_model(task[0], tmp_path / 'backbone.pth')


def test_a_head_of_other_classes_is_told_with_both_shapes(task, tmp_path):
    state = torch.load(task[1], weights_only=True)['state_dict']
    for key in ('head.fc.weight', 'head.fc.bias'):
        state[key] = torch.cat([state[key], state[key][:2]])
    torch.save(dict(state_dict=state), tmp_path / 'twelve.pth')
    with pytest.raises(CheckpointError, match=r'fc.weight is \(12, \d+\), expected \(10, \d+\)'):
        trained_model(task[0], tmp_path / 'twelve.pth')


def test_a_subnet_of_another_model(task, half):
    content = half.to_dict()
    content['widths'] = dict(content['widths'], other=8)
    with pytest.raises(SubnetError, match=r"the widths do not fit the units: .*\['other'\]"):
        trained_model(*task, content)


def test_the_command_exports_a_subnet(task, half, tmp_path, capsys):
    path, out = half.save(tmp_path / 'half.json'), tmp_path / 'model.onnx'
    arguments = map(str, (*task, '--subnet', path, '--input-shape', 3, 32, 32, '-o', out))
    main(['export', *arguments])
    assert 'scores (1, 10)' in capsys.readouterr().out
    widths = json.loads(path.read_text())['widths']
    assert read_metadata(out)['subnet'] == fingerprint(widths)
