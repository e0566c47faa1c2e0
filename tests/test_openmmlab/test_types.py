"""A type in a config is what the registry says, not how it is written."""

import mmdet.models
import mmpretrain.models
import pytest
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from mmpse.openmmlab.models.pruned import Pruned
from mmpse.openmmlab.models.warm_start import WarmStart
from mmpse.openmmlab.search.loops import EvolutionSearchLoop, RandomSearchLoop
from mmpse.openmmlab.search.resume import is_search
from mmpse.openmmlab.types import find_type, is_type
from mmpse.registry import WEIGHT_INITIALIZERS


@pytest.mark.parametrize('scope', ['mmdet', 'mmpretrain'])
@pytest.mark.parametrize('written', ['mmdet.RetinaNet', mmdet.models.RetinaNet])
@pytest.mark.parametrize('expected', ['mmdet.RetinaNet', mmdet.models.RetinaNet])
def test_a_name_with_its_scope_is_the_class(scope, written, expected):
    with DefaultScope.overwrite_default_scope(scope):
        assert is_type(dict(type=written), expected)
        assert is_type(written, expected)
        assert not is_type(dict(type=written), 'mmdet.FasterRCNN')


def test_a_name_without_scope_is_of_the_default_scope():
    for scope, package in (('mmdet', mmdet.models), ('mmpretrain', mmpretrain.models)):
        with DefaultScope.overwrite_default_scope(scope):
            assert find_type(ConfigDict(type='ResNet')) is package.ResNet
            assert is_type('ResNet', f'{scope}.ResNet')
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert not is_type('ResNet', mmpretrain.models.ResNet)


def test_a_whole_path_is_the_class(scope):
    assert is_type(dict(type='mmdet.models.RetinaNet'), mmdet.models.RetinaNet)


def test_subclasses_are_of_the_type(scope):
    assert is_type('mmdet.RetinaNet', mmdet.models.SingleStageDetector)
    assert not is_type('mmdet.SingleStageDetector', mmdet.models.RetinaNet)
    assert is_type(dict(type='BN'), nn.BatchNorm2d) and not is_type('GN', nn.BatchNorm2d)


def test_functions_and_one_of_several(scope):
    assert is_type('mmpse.Pruned', Pruned)
    assert is_type('GN', (nn.BatchNorm2d, 'GN'))


@pytest.mark.parametrize('config', [None, {}, dict(a=1), 'NoSuch', 'nopackage.NoSuch'])
def test_what_stands_for_nothing_is_of_no_type(scope, config):
    assert find_type(config) is None
    assert not is_type(config, 'mmdet.RetinaNet') and not is_type('GN', config)


def test_own_names_need_no_scope_where_mmpse_is_the_scope():
    with DefaultScope.overwrite_default_scope('mmpse'):
        assert is_type('WarmStart', WarmStart, WEIGHT_INITIALIZERS)


@pytest.mark.parametrize(
    'loop', [EvolutionSearchLoop, 'mmpse.EvolutionSearchLoop', RandomSearchLoop]
)
def test_searches_are_told_from_trainings(loop):
    assert is_search(ConfigDict(train_cfg=dict(type=loop)))


def test_trainings_are_no_searches():
    for train_cfg in (dict(type='EpochBasedTrainLoop', max_epochs=1), dict(by_epoch=True)):
        assert not is_search(ConfigDict(train_cfg=train_cfg))


def test_new_style_configs_import_everything_that_is_registered():
    """As of OpenMMLab's own packages: ``from mmpse.engine import SupernetHook``."""
    import pickle

    from mmpse import engine, models, registry

    for package, names in ((engine, ('HOOKS', 'LOOPS', 'OPTIM_WRAPPERS')), (models, ('MODELS',))):
        for name in names:
            getattr(registry, name).import_from_location()
            for key, kind in getattr(registry, name).module_dict.items():
                if not kind.__module__.startswith('mmpse.'):  # another test's
                    continue
                assert getattr(package, key) is kind, key
                assert pickle.loads(pickle.dumps(kind)) is kind
