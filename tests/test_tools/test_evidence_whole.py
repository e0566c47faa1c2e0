"""Whole models pruned by every method: what is run, and what is left of it."""

import json
from types import SimpleNamespace

import pytest
import torch
from evidence import tools  # noqa: F401  a fixture
from mmengine.config import Config
from mmpretrain.structures import DataSample
from torch import nn

import mmpse
from mmpse.openmmlab.configs.building import build_model


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The commands of whole.py, which are noted and leave files as if they had run."""
    import whole

    monkeypatch.chdir(tmp_path)
    commands = []

    def run_python(*words):
        words = list(map(str, words))
        commands.append(words)
        if '-o' in words:
            out = tmp_path / words[words.index('-o') + 1]
            out.mkdir(parents=True)
            stage = {'flops': 50, 'latency_ms': 1.0, 'coco/bbox_mAP': 0.3}
            report = dict(before=dict(stage, flops=100), cut=stage, after=stage)
            (out / 'report.json').write_text(json.dumps(report))
            (out / 'subnet.json').write_text('{"widths": {}}')
        elif '--out' in words:
            out = tmp_path / words[words.index('--out') + 1]
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text('{"coco/bbox_mAP": 0.25}')
        else:  # a training
            folder = tmp_path / words[words.index('--work-dir') + 1]
            folder.mkdir(parents=True)
            (folder / 'epoch_1.pth').touch()
            (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
        return 2.0, 1.0

    monkeypatch.setattr(whole, 'run_python', run_python)
    return commands


def test_a_result_is_made_once(ran):
    import whole
    from records import records
    from runs import Run

    run = Run('retinanet-r18_bccd', '10%', 'sensitivity', 1)
    whole.measure(run)
    train, prune, test = ran
    assert 'configs/bccd/retinanet_resnet18-w0p5_fpn96_bccd.py' in train
    assert prune[:3] == ['-m', 'mmpse', 'prune']
    assert prune[prune.index('--flops') + 1] == '10%' and prune[prune.index('--seed') + 1] == '1'
    assert test[0] == 'tools/test.py'
    (record,) = records()
    assert record['test'] == 0.25 and record['val'] == 0.3 and record['flops'] == 0.5
    assert record['cpu_seconds'] == 1.0 and str(run) in record['command']
    whole.measure(run)
    assert len(ran) == 3


def test_rivals_and_latency_have_their_own_words(ran):
    import whole
    from runs import Run

    whole.measure(Run('retinanet-r18_bccd', '10%', 'torch-pruning', 0))
    rival = ran[1]
    assert rival[0].endswith('rivals.py') and rival[1].startswith('configs/bccd/')
    assert rival[rival.index('--importance') + 1] == 'norm'
    whole.measure(Run('rtmdet-tiny_bccd', 'latency 50%', 'uniform', 0))
    prune = ran[4]
    assert prune[prune.index('--latency') + 1] == '50%' and '--flops' not in prune


def test_at_equal_time_the_seconds_of_the_search_are_trained(ran, tmp_path):
    import whole
    from records import RECORDS
    from runs import Run

    run = Run('retinanet-r18_bccd', '10%', 'uniform-longer', 1)
    with pytest.raises(SystemExit, match='not there yet'):
        whole.measure(run)
    steps = {'fine-tuning': 16, 'report': 4}  # of 40 s, 8 epochs take 32
    for how, seconds in dict(uniform=40, search=61).items():
        path = tmp_path / RECORDS / f'{run._replace(how=how, seed=0)}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dict(cpu_seconds=seconds, steps=steps, epochs=8)))
    whole.measure(run)
    (words,) = (words for words in ran if '--epochs' in words)
    assert words[words.index('--how') + 1] == 'uniform'
    assert words[words.index('--epochs') + 1] == '13'
    assert json.loads((tmp_path / RECORDS / f'{run}.json').read_text())['epochs'] == 13


def test_where_everything_counts_the_training_of_the_full_model_is_trained_too(ran, monkeypatch):
    import whole
    from records import RECORDS
    from runs import MODELS, Run

    monkeypatch.setitem(MODELS, 'net', MODELS['retinanet-r18_bccd'])
    config = Config(dict(train_cfg=dict(max_epochs=16)))
    monkeypatch.setattr(Config, 'fromfile', lambda _: config)
    run = Run('net', '10%', 'scratch-longer', 1)
    # an epoch of the full model takes 4 s, one of the small model 0.5 s
    for budget, how, seconds, epochs in (
        ('100%', 'unpruned', 40, 8),
        ('10%', 'sensitivity', 20, 8),
        ('10%', 'scratch', 10, 8),
        ('10%', 'uniform', 12, 8),
        ('10%', 'uniform-longer', 17, 18),
    ):
        path = RECORDS / f'{run._replace(budget=budget, how=how, seed=0)}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        steps = {'fine-tuning': 8, 'report': 2}
        row = dict(name='net', how=how, cpu_seconds=seconds, steps=steps, epochs=epochs)
        path.write_text(json.dumps(row))
    assert whole.epochs_of(run) == 8 + (16 * 4 + 20 - 10) / 0.5


def test_every_model_has_its_records_apart():
    from runs import MODELS, runs

    names = [str(run) for name in MODELS for run in runs(name)]
    assert len(set(names)) == len(names)
    assert 'retinanet-r18_bccd_10_uniform_2' in names
    assert 'rtmdet-tiny_bccd_latency-50_uniform_0' in names


def conv(inputs, outputs, kernel=3, **settings):
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **settings)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Inverted(nn.Module):
    """A block of a MobileNetV2: wider, depthwise, narrower, and added to its input."""

    def __init__(self, width, hidden):
        super().__init__()
        depthwise = conv(hidden, hidden, groups=hidden)
        self.layers = nn.Sequential(conv(width, hidden, 1), depthwise, conv(hidden, width, 1))

    def forward(self, x):
        return x + self.layers(x)


def flops_of(model):
    return mmpse.cost(model, torch.zeros(1, 3, 12, 12))['flops']


def rival_of(model):
    images = torch.zeros(1, 3, 12, 12)
    return SimpleNamespace(
        subject=SimpleNamespace(layout=mmpse.units(model, images), images=images),
        order=SimpleNamespace(divisor=8),
        importance='norm',
        most=0.8,
        flops=flops_of,
    )


def test_torch_pruning_stops_within_the_budget():
    pytest.importorskip('torch_pruning')
    import rivals

    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 32), conv(32, 64), nn.Conv2d(64, 5, 1)).eval()
    rival, limit = rival_of(model), 0.4 * flops_of(model)
    rivals.prune(rival, model, limit)
    widths = [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert 0.5 * limit < flops_of(model) <= limit
    assert widths[2] == 5 and all(width % 8 == 0 for width in widths[:2])
    assert model(torch.randn(1, 3, 12, 12)).shape == (1, 5, 12, 12)
    with pytest.raises(RuntimeError, match='Torch-Pruning stops at'):
        rivals.prune(rival, model, 1)


def test_torch_pruning_prunes_what_depthwise_layers_hold():
    pytest.importorskip('torch_pruning')
    import rivals

    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 16), Inverted(16, 96), Inverted(16, 96), nn.Conv2d(16, 5, 1))
    model.eval()
    limit = 0.25 * flops_of(model)  # out of reach of what lies around the hidden channels
    rivals.prune(rival_of(model), model, limit)
    assert flops_of(model) <= limit
    for block in model[1:3]:
        expand, depthwise, project = (layer[0] for layer in block.layers)
        hidden = depthwise.groups
        assert hidden == depthwise.out_channels == expand.out_channels == project.in_channels
        assert hidden < 96 and hidden % 8 == 0
    assert model(torch.randn(1, 3, 12, 12)).shape == (1, 5, 12, 12)


def test_fastnas_stops_within_the_budget():
    pytest.importorskip('modelopt.torch.prune')
    import rivals

    backbone = dict(type='ResNet_CIFAR', depth=18, base_channels=16, stem_channels=16)
    head = dict(type='LinearClsHead', num_classes=3, in_channels=128)
    neck = dict(type='GlobalAveragePooling')
    model = dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)
    torch.manual_seed(0)
    model = build_model(Config(dict(model=model, default_scope='mmpretrain'))).eval()
    images = torch.randn(8, 3, 32, 32)
    labels = [DataSample().set_gt_label(k % 3) for k in range(8)]
    batches = [dict(inputs=images, data_samples=labels)]
    rival = SimpleNamespace(
        subject=SimpleNamespace(images=images[:1]),
        images=SimpleNamespace(fit=batches, judging=batches),
        order=SimpleNamespace(divisor=8, limits=dict(flops='30%')),
    )
    full = mmpse.cost(model, images[:1])['flops']
    pruned = rivals.fastnas(rival, model)
    assert 0.1 * full < mmpse.cost(pruned, images[:1])['flops'] <= 0.3 * full
    widths = [m.out_channels for m in pruned.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 8 == 0 for width in widths)


def test_a_resumed_run_is_compared_to_the_last_bit():
    from resumed import same

    one = dict(report={'after': 1}, weights={'x': torch.ones(2)})
    assert all(same(one, dict(one, weights={'x': torch.ones(2)})).values())
    other = dict(one, weights={'x': torch.ones(2) + 1e-6})
    assert same(one, other) == dict(report=True, weights=False)
