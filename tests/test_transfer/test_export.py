"""Exported backbones compute the same, elsewhere; checkpoints of what is exported."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config

from mmpse.models import SlimmableMobileNetV2, SlimmableResNet, SlimmableVGG
from mmpse.openmmlab.configs.files import build_model
from mmpse.openmmlab.errors import CheckpointError
from mmpse.transfer import (
    ExportError,
    PlainBackbone,
    backbone_of,
    export_plain,
    load_model,
)

SHAPE = (3, 64, 96)


def backbone(family=SlimmableResNet, **kwargs):
    """A static subnet whose normalisations do something."""
    arguments = {k: v for k, v in kwargs.items() if k in ('depth', 'deep_stem', 'widen_factor')}
    subnet = family(**arguments).search_space.uniform(0.5)
    model = family(subnet=subnet, **kwargs)
    model.eval()  # returns nothing
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model


def saved(config, tmp_path):
    """A config file, and a checkpoint of random weights for it."""
    Config(config).dump(tmp_path / 'config.py')
    with torch.no_grad():
        model = build_model(Config(config))
        for name, buffer in model.named_buffers():
            if name.endswith('running_var'):
                buffer.uniform_(0.5, 2)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    return str(tmp_path / 'config.py'), str(tmp_path / 'model.pth')


def config_of(scope, **model):
    subnet = SlimmableResNet(depth=18).search_space.uniform(0.5)
    stock = dict(type='mmpse.SlimmableResNet', depth=18, subnet=subnet.to_dict())
    model['backbone'] = dict(stock, **model.get('backbone', {}))
    return dict(
        default_scope=scope,
        custom_imports=dict(imports=['mmpse']),
        model=dict(model, type='mmpse.FitToBackbone'),
    )


def classifier():
    return config_of(
        'mmpretrain',
        architecture='mmpretrain.ImageClassifier',
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=7, in_channels=1),
    )


def detector():
    return config_of(
        'mmdet',
        architecture='mmdet.FCOS',
        data_preprocessor=dict(type='mmdet.DetDataPreprocessor'),
        backbone=dict(out_indices=(1, 2, 3)),
        neck=dict(type='mmdet.FPN', in_channels=[1, 1, 1], out_channels=8, num_outs=3),
        bbox_head=dict(
            type='mmdet.FCOSHead',
            num_classes=3,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
            strides=[8, 16, 32],
            norm_cfg=None,
        ),
    )


def flat(value):
    return [value] if isinstance(value, torch.Tensor) else [x for item in value for x in flat(item)]


def test_the_tool(tmp_path):
    path, checkpoint = saved(detector(), tmp_path)
    out = tmp_path / 'backbone.json'
    command = [sys.executable, 'tools/export.py', path, checkpoint, '-o', str(out)]
    command += ['--input-shape', *map(str, SHAPE)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'checked against PyTorch' in result.stdout
    assert 'feature_2 (1, 256, 2, 3)' in result.stdout
    plain = PlainBackbone(out)
    plain.load_state_dict(torch.load(out.with_suffix('.pth'), weights_only=True))


def test_models_without_a_backbone():
    with pytest.raises(ExportError, match='Linear has no backbone'):
        backbone_of(torch.nn.Linear(1, 1))


# Plain PyTorch

BACKBONES = {
    'ResNet-18': lambda: backbone(depth=18, out_indices=(0, 3)),
    'ResNetV1d-50': lambda: backbone(
        depth=50, deep_stem=True, avg_down=True, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1)
    ),
    'MobileNetV2': lambda: backbone(SlimmableMobileNetV2, widen_factor=0.5, out_indices=(2, 4, 7)),
    'VGG-11': lambda: backbone(
        SlimmableVGG, depth=11, norm_cfg=dict(type='BN'), out_indices=(2, 4)
    ),
}


@pytest.mark.parametrize('name', BACKBONES)
def test_plain_backbone(name, tmp_path):
    model = BACKBONES[name]()
    export_plain(model, tmp_path / 'backbone.json', SHAPE)
    plain = PlainBackbone(tmp_path / 'backbone.json').eval()
    state = torch.load(tmp_path / 'backbone.pth', weights_only=True)
    plain.load_state_dict(state)
    model.load_state_dict(state)  # the names of the weights are the same
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        for found, feature in zip(plain(x), flat(model(x)), strict=True):
            torch.testing.assert_close(found, feature)
    widths = json.loads((tmp_path / 'backbone.json').read_text())['subnet']['widths']
    assert widths == dict(model.subnet)


def test_plain_backbone_trains(tmp_path):
    model = BACKBONES['MobileNetV2']()
    export_plain(model, tmp_path / 'backbone.json', SHAPE)
    plain = PlainBackbone(tmp_path / 'backbone.json')
    plain.load_state_dict(torch.load(tmp_path / 'backbone.pth', weights_only=True))
    x = torch.randn(4, *SHAPE)
    for network in (plain, model):
        network.train()
        sum(feature.square().mean() for feature in network(x)).backward()
    gradients = dict(model.named_parameters())
    for key, parameter in plain.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key].grad)


def test_plain_backbone_loads_where_there_is_only_pytorch(tmp_path):
    """The documented code, in a process that cannot import anything else."""
    model = BACKBONES['ResNet-18']()
    export_plain(model, tmp_path / 'backbone.json', SHAPE)
    x = torch.randn(1, *SHAPE)
    with torch.no_grad():
        torch.save(model(x), tmp_path / 'features.pt')
    torch.save(x, tmp_path / 'x.pt')
    text = (ROOT / 'docs/transfer.md').read_text()
    code = next(block for block in text.split('```python\n') if 'PlainBackbone(nn.Module)' in block)
    code = code.split('```')[0]
    assert inspect.getsource(PlainBackbone.forward) in code
    assert inspect.getsource(PlainBackbone.__init__) in code
    script = (
        'import sys\n'
        "for name in ('mmpse', 'mmcv', 'mmengine', 'mmpretrain', 'timm', 'torchvision'):\n"
        '    sys.modules[name] = None\n'
        f'{code}\n'
        "expected = torch.load('features.pt')\n"
        'with torch.no_grad():\n'
        "    for found, feature in zip(backbone(torch.load('x.pt')), expected, strict=True):\n"
        '        torch.testing.assert_close(found, feature)\n'
    )
    subprocess.run([sys.executable, '-c', script], cwd=tmp_path, check=True)


class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return (self.conv(x) * 2,)


def test_operations_that_are_no_layers(tmp_path):
    with pytest.raises(ExportError, match='only layers and sums can be written'):
        export_plain(Scaled(), tmp_path / 'backbone.json', SHAPE)
    assert not list(tmp_path.iterdir())


def test_layers_that_torch_does_not_have(tmp_path):
    model = BACKBONES['ResNet-18']()
    model.relu = type('Odd', (torch.nn.Module,), dict(forward=lambda self, x: x.relu()))()
    with pytest.raises(ExportError, match='relu is a Odd, which torch.nn does not have'):
        export_plain(model, tmp_path / 'backbone.json', SHAPE)
    assert not list(tmp_path.iterdir())


# Checkpoints


def test_checkpoints_that_do_not_belong_to_the_config(tmp_path):
    config, checkpoint = saved(classifier(), tmp_path)
    state = torch.load(checkpoint)['state_dict']
    for change, message in (
        ({'backbone.layer1.0.conv1.weight': torch.zeros(3, 3, 3, 3)}, 'of another subnet'),
        ({'head.more': torch.zeros(1)}, r'0 weights are missing \(\), 1 have no place'),
    ):
        torch.save(dict(state_dict=dict(state, **change)), checkpoint)
        with pytest.raises(ExportError, match=message):
            load_model(config, checkpoint)
    state.pop('head.fc.bias')
    torch.save(dict(state_dict=state), checkpoint)
    with pytest.raises(ExportError, match=r'1 weights are missing \(head.fc.bias\)'):
        load_model(config, checkpoint)
    torch.save(dict(state_dict=state, mmpse_supernet={}), checkpoint)
    with pytest.raises(ExportError, match='the checkpoint of a supernet'):
        load_model(config, checkpoint)
    Path(checkpoint).write_bytes(b'cut')
    with pytest.raises(CheckpointError, match='cannot read the checkpoint'):
        load_model(config, checkpoint)
