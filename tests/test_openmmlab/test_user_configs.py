"""Reading a user's config, and writing one that inherits from it."""

import os
import shutil
from pathlib import Path

import pytest
from mmengine.config import Config

from mmpse.openmmlab.configs.files import base_name, importing, load_config, write_config
from mmpse.openmmlab.configs.source import python_source
from mmpse.openmmlab.errors import ConfigError

RETINA = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
OLD = """
custom_hooks = None
custom_imports = None
train_pipeline = [dict(type='Resize', scale=(32, 32), keep_ratio=True)]
model = dict(
    type='Toy',
    backbone=dict(type='ToyNet', depth=18, norm_cfg=None, out_indices=None, stages=dict(a=1, b=2)),
    head=dict(type='ToyHead', loss=dict(type='Loss', weight=1.0)))
"""
NEW = """
from mmengine.model import BaseModel, Sequential
from torch import nn

model = dict(
    type=Sequential, head=dict(type=nn.Linear, in_features=4), norm=dict(type='BN', eps=1e-3))
hooks = [dict(type=BaseModel)]
nothing = None
settings = dict(x=1)
"""
CHANGES = dict(
    model=dict(
        type='New',
        backbone=dict(
            norm_cfg=dict(type='BN'), stages=dict(_delete_=True, c=3), out_indices=(0, 1)
        ),
        head=dict(loss=dict(weight=float('inf'), extra=dict(deep=dict(_delete_=True, x=1)))),
    ),
    custom_hooks=[dict(type='Hook', n=4)],
    load_from='weights.pth',
    widths={'layer1.0': 16, 'layer2.1': 32},
)


@pytest.fixture
def old(tmp_path) -> Path:
    path = tmp_path / 'user' / 'my-net.v2.py'
    path.parent.mkdir()
    path.write_text(OLD)
    return path


@pytest.fixture
def new_style(tmp_path) -> Path:
    path = tmp_path / 'user' / 'lazy' / 'base.py'
    path.parent.mkdir(parents=True)
    path.write_text(NEW)
    return path


# Writing


def check_changes(cfg: Config) -> None:
    backbone = cfg.model.backbone
    assert backbone.to_dict() == dict(
        type='ToyNet', depth=18, norm_cfg=dict(type='BN'), out_indices=(0, 1), stages=dict(c=3)
    )
    loss = dict(type='Loss', weight=float('inf'), extra=dict(deep=dict(x=1)))
    assert cfg.model.head.to_dict() == dict(type='ToyHead', loss=loss)
    assert cfg.custom_hooks == [dict(type='Hook', n=4)] and cfg.load_from == 'weights.pth'
    assert cfg.widths == {'layer1.0': 16, 'layer2.1': 32}
    assert cfg.train_pipeline[0].scale == (32, 32)


def test_changes_are_merged_into_what_is_inherited(old, tmp_path):
    out = tmp_path / 'elsewhere' / 'deep' / 'out.py'
    check_changes(write_config(out, old, CHANGES, 'A network.'))
    text = out.read_text()
    assert text.startswith("# A network.\n_base_ = '../../user/my-net.v2.py'\n")
    assert 'depth' not in text  # the changes alone
    check_changes(Config.fromfile(out))
    shutil.move(tmp_path, moved := tmp_path.with_name('moved'))
    check_changes(Config.fromfile(moved / 'elsewhere/deep/out.py'))
    assert [p.name for p in (moved / 'elsewhere/deep').iterdir()] == ['out.py']


def test_a_config_can_be_inherited_from_again(old, tmp_path):
    write_config(tmp_path / 'first.py', old, CHANGES, 'First.')
    cfg = write_config(tmp_path / 'sub/second.py', tmp_path / 'first.py', dict(load_from=None), '2')
    assert cfg.load_from is None and cfg.model.backbone.stages == dict(c=3)


def test_a_file_of_an_installed_package_is_named_by_the_package(tmp_path):
    path = load_config(RETINA).filename
    for given in (RETINA, path, Path(path), load_config(path)):
        assert load_config(given).to_dict() == load_config(RETINA).to_dict()
        write_config(tmp_path / 'out.py', given, dict(load_from=None), 'A detector.')
        assert f'_base_ = {RETINA!r}' in (tmp_path / 'out.py').read_text()
    assert base_name(os.path.relpath(path)) == RETINA


def test_a_config_in_memory_is_written_as_a_whole(old, tmp_path):
    cfg = load_config(old)
    write_config(tmp_path / 'a.py', cfg, {}, 'Its file says the same.')
    assert '_base_' in (tmp_path / 'a.py').read_text()
    cfg.model.backbone.depth = 50  # as --cfg-options do
    for config in (cfg, Config(cfg.to_dict())):
        new = write_config(tmp_path / 'b.py', config, dict(load_from='x.pth'), 'Changed.')
        assert '_base_' not in (tmp_path / 'b.py').read_text()
        assert new.to_dict() == dict(cfg.to_dict(), load_from='x.pth')


@pytest.mark.parametrize('file, inherits', [('base.py', True), ('base-v2.py', False)])
def test_new_style_configs(file, inherits, new_style, tmp_path):
    """Old-style ones cannot inherit from them, and a name with a hyphen cannot be imported."""
    base = new_style.rename(new_style.with_name(file))
    changes = dict(
        model=dict(head=dict(in_features=8), norm=dict(_delete_=True, type='GN'), tail=dict(a=1)),
        hooks=[],
        widths={'a.b': 2},
        nothing=dict(x=1),
        settings=dict(_delete_=True, y=2),
    )
    out = tmp_path / 'out' / 'sub' / 'new.py'
    new = write_config(out, base, changes, 'A network.')
    text = out.read_text()
    assert ('from ...user.lazy.base import *' in text) == inherits
    types = dict(linear='torch.nn.modules.linear.Linear', model='mmengine.model.Sequential')
    model = new.to_dict()['model']
    assert model.pop('type') == types['model']
    assert model.pop('head')['in_features'] == 8
    assert model == dict(norm=dict(type='GN'), tail=dict(a=1))
    assert new.hooks == [] and new.widths == {'a.b': 2}
    assert new.nothing == dict(x=1) and new.settings == dict(y=2)
    again = write_config(out.with_name('again.py'), out, dict(model=dict(tail=None)), 'Again.')
    assert again.model.tail is None and again.model.norm == dict(type='GN')


def test_classes_in_changes_become_their_paths(old, tmp_path):
    from mmengine.hooks import EMAHook

    new = write_config(tmp_path / 'new.py', old, dict(custom_hooks=[dict(type=EMAHook)]), 'EMA.')
    assert new.custom_hooks == [dict(type='mmengine.hooks.ema_hook.EMAHook')]


def test_what_cannot_be_written_leaves_no_file(old, tmp_path):
    for base, changes, message in (
        (old, dict(model=dict(x=[0, object()])), r'model.x.1 is a object'),
        (old, dict(note='{{ fileBasename }}'), r'read back differently \(note\)'),
        (tmp_path / 'none.py', {}, 'there is no config .*none.py'),
    ):
        with pytest.raises(ConfigError, match=message):
            write_config(tmp_path / 'new.py', base, changes, 'Impossible.')
    with pytest.raises(ConfigError, match='give another file to write'):
        write_config(old, old, {}, 'Itself.')
    assert old.read_text() == OLD and not list(tmp_path.glob('*.py'))


@pytest.mark.parametrize(
    'given, imports, failing',
    [
        ('None', ['mmpse'], False),
        ('{}', ['mmpse'], False),
        ("dict(imports='math')", ['math', 'mmpse'], False),
        ("dict(imports=['mmpse', 'math'])", ['mmpse', 'math'], False),
        ("dict(imports=['nowhere'], allow_failed_imports=True)", ['nowhere', 'mmpse'], True),
    ],
)
def test_one_import_more(given, imports, failing, tmp_path):
    (tmp_path / 'old.py').write_text(f"model = dict(type='Toy')\ncustom_imports = {given}")
    cfg = load_config(tmp_path / 'old.py')
    new = write_config(tmp_path / 'new.py', tmp_path / 'old.py', importing(cfg), 'Imports.')
    assert new.custom_imports == dict(imports=imports, allow_failed_imports=failing)


def test_source_is_read_by_python_and_by_people():
    values = dict(
        nested=dict(a=[dict(type='A', x=(1,)), dict(type='B', y=None)], **{'from': 1}),
        widths={f'layer{k}.conv': 8 * k for k in range(40)},
        numbers=list(range(100)),
        empty=({}, [], ()),
        long=['a' * 60, 'b' * 60, dict(c='c' * 60)],
        odd={0: 1e-9, None: float('-inf'), 'it\'s "quoted"\n': True},
    )
    text = python_source(values)
    assert eval(text) == values
    assert max(map(len, text.splitlines())) <= 100


# Reading


def test_errors_are_one_sentence_that_says_what_to_do(tmp_path, monkeypatch):
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    toy = "model = dict(type='Toy')\n"
    write('my_net.py', 'x = 1')
    imports = "custom_imports = dict(imports=['{}'], allow_failed_imports=False)"
    cases = [
        (tmp_path / 'none.py', 'there is no config .*none.py'),
        ('mmdet::retinanet/none.py', 'none.py.* does not exist'),
        ('mmnone::retinanet/none.py', 'does not support to load mmnone'),
        (write('empty.py', 'x = 1'), 'empty.py has no model; give the config of a classifier'),
        (write('wrong.py', 'model = dict('), r'cannot read the config .*wrong.py \(SyntaxError'),
        (write('a.py', toy + imports.format('nowhere.x')), 'no module nowhere, .*: install it'),
        (write('b.py', toy + imports.format('my_net')), f'my_net, .*: set PYTHONPATH={tmp_path}$'),
        (
            write('c.py', 'from my_net import Net\nmodel = dict(type=Net)'),
            f'PYTHONPATH={tmp_path}$',
        ),
        (write('d.py', 'from torch import Nothing\nmodel = dict(type=Nothing)'), 'Nothing'),
    ]
    for config, message in cases:
        with pytest.raises(ConfigError, match=message) as error:
            load_config(config)
        assert '\n' not in str(error.value) and len(str(error.value)) < 450
    monkeypatch.syspath_prepend(tmp_path)
    assert load_config(tmp_path / 'b.py').model.type == 'Toy'


@pytest.mark.parametrize('package', ['mmseg', 'mmdet'])
def test_a_package_that_is_not_installed_is_named(package, old, monkeypatch):
    """Another config than one of its own can still be read."""
    import importlib.metadata
    import importlib.util

    find_spec, distribution = importlib.util.find_spec, importlib.metadata.distribution

    def without(find):
        def found(name, *args):
            if name.split('.')[0] == package:
                if find is find_spec:
                    return None
                raise importlib.metadata.PackageNotFoundError(name)
            return find(name, *args)

        return found

    monkeypatch.setattr(importlib.util, 'find_spec', without(find_spec))
    monkeypatch.setattr('mmpse.openmmlab.configs.files.find_spec', without(find_spec))
    monkeypatch.setattr(importlib.metadata, 'distribution', without(distribution))
    with pytest.raises(ConfigError, match=f'no module {package}, .*: pip install onedl-{package}'):
        load_config(f'{package}::_base_/default_runtime.py')
    assert load_config(old).model.type == 'Toy'
