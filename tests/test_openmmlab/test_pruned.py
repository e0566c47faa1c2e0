"""Whole models of OpenMMLab: watched through their heads, and built as their subnets."""

import copy
import multiprocessing

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from timm.models.byobnet import MobileOneBlock
from timm.utils.model import reparameterize_model
from torch import nn

from mmpse.errors import UserError
from mmpse.openmmlab.configs.pruned import pruned_changes
from mmpse.openmmlab.models.outputs import image_channels, parts_of, raw_outputs
from mmpse.openmmlab.models.pruned import Pruned, look
from mmpse.registry import MODELS
from mmpse.slim.cutting import cut_
from mmpse.space import SubnetError

CLASSIFIER = ConfigDict(
    type='mmpretrain.ImageClassifier',
    data_preprocessor=dict(mean=[0.0] * 3, std=[1.0] * 3),
    backbone=dict(
        type='mmpretrain.ResNet',
        depth=18,
        base_channels=8,
        stem_channels=8,
        norm_cfg=dict(type='BN'),
    ),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmpretrain.LinearClsHead',
        num_classes=3,
        in_channels=64,
        loss=dict(type='mmpretrain.CrossEntropyLoss'),
        topk=(1,),
    ),
)


@pytest.fixture(scope='module')
def full():
    return MODELS.build(copy.deepcopy(CLASSIFIER)).eval()


@pytest.fixture(scope='module')
def subnet(full):
    return look(full)[0].space(model='ImageClassifier').uniform(0.5)


def pruned(subnet, **changes):
    rest = Config(dict(model=copy.deepcopy(CLASSIFIER)))
    rest.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    architecture = rest.model.pop('type')
    return Pruned(architecture, subnet, **rest.model).eval()


@pytest.mark.parametrize(
    'backbone',
    [
        dict(
            type='mmpretrain.RepVGG',
            arch=dict(
                num_blocks=[1, 1, 2, 1],
                width_factor=[0.25] * 4,
                group_layer_map=None,
                se_cfg=None,
                stem_channels=16,
            ),
            out_indices=(3,),
        ),
        dict(
            type='mmpretrain.MobileOne',
            arch=dict(
                num_blocks=[1, 2, 1, 1],
                width_factor=[0.25, 0.5, 0.25, 0.25],
                num_conv_branches=[2] * 4,
                num_se_blocks=[0, 0, 1, 1],
            ),
            out_indices=(3,),
        ),
    ],
    ids=lambda backbone: backbone['type'],
)
def test_branches_of_a_cut_model_become_one_layer(backbone):
    model = MODELS.build(backbone)
    model.eval()  # MobileOne's train() returns nothing
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    layout, images = look(model)
    widths = {name: max(unit.width // 2, unit.step) for name, unit in layout.units.items()}
    cut_(model, layout, {**widths, next(iter(widths)): 8})  # the inputs are not the outputs
    (expected,) = model(images.normal_())
    model.switch_to_deploy()
    (found,) = model(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert len(list(model.parameters())) < 40


def test_branches_of_cut_timm_blocks_become_one_layer():
    blocks = MobileOneBlock(16, 16, group_size=1), MobileOneBlock(16, 32, kernel_size=1)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), *blocks, nn.Conv2d(32, 4, 1)).eval()
    layout, images = look(model)
    cut_(model, layout, {name: max(u.width // 2, u.step) for name, u in layout.units.items()})
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_var.fill_(9)
    expected = model(images.normal_())
    found = reparameterize_model(model)(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_units_of_all_parts_are_found(full):
    layout, images = look(full)
    assert images.shape == (1, 3, 64, 64)
    assert parts_of(full) == ['backbone', 'head']
    assert 'backbone.layer4.1.conv1' in layout.units
    assert layout.fixed == {'head.fc': 'it is an output of the model'}


def test_a_file_is_enough_to_build_a_subnet(full, subnet, tmp_path):
    path = subnet.save(tmp_path / 'subnet.json')
    static = pruned(str(path))
    assert type(static) is type(full)
    assert static.backbone.layer4[1].conv1.out_channels == 32
    assert static.head.fc.in_features == 32


def test_full_and_own_weights_load(full, subnet):
    static = pruned(subnet)
    static.load_state_dict(full.state_dict())
    cut, whole = (m.backbone.layer4[1].conv2.weight for m in (static, full))
    assert torch.equal(cut, whole[:32, :32])
    again = pruned(subnet)
    again.load_state_dict(static.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(raw_outputs(again, x), raw_outputs(static, x))


def test_full_weights_load_where_a_runner_makes_synchronised_norms_plain(full, subnet):
    static = pruned(subnet, **{'backbone.norm_cfg': dict(type='SyncBN')})
    static = revert_sync_batchnorm(static)  # as a runner of one process does
    state = {key: torch.randn_like(value.float()) for key, value in full.state_dict().items()}
    static.load_state_dict(state)
    key = 'backbone.layer4.1.bn1.weight'
    assert torch.equal(static.state_dict()[key], state[key][:32])


def test_without_a_subnet_it_is_the_full_model(full):
    assert pruned(None).state_dict().keys() == full.state_dict().keys()
    assert pruned(None).head.fc.in_features == 64


def test_registry_builds_it(subnet):
    rest = copy.deepcopy(CLASSIFIER)
    architecture = rest.pop('type')
    built = MODELS.build(
        dict(type='mmpse.Pruned', architecture=architecture, subnet=subnet, **rest)
    )
    assert built.backbone.layer4[1].conv1.out_channels == 32


def test_a_subnet_of_another_model_is_refused(subnet):
    with pytest.raises(SubnetError, match='does not fit the subnet'):
        pruned(
            subnet, **{'backbone.depth': 34, 'backbone.base_channels': 16, 'head.in_channels': 128}
        )


def test_a_forward_that_fails_is_one_line():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            raise KeyError('tokens')

    with pytest.raises(UserError, match=r"Odd fails on images of .* \(KeyError: 'tokens'\)"):
        look(Odd())


@pytest.mark.parametrize('name', ['raw_outputs', 'find_units'])
def test_a_bug_of_ours_keeps_its_traceback(full, monkeypatch, buggy, name):
    monkeypatch.setattr(f'mmpse.openmmlab.models.pruned.{name}', buggy)
    with pytest.raises(KeyError, match='conv1') as raised:
        look(full)
    assert raised.traceback[-1].name == 'buggy'


def test_a_model_is_tried_on_larger_images(full):
    model = copy.deepcopy(full)
    model.head.fc = nn.Linear(64 * 4 * 4, 3)  # of images of 128 pixels, flattened
    model.neck = nn.Identity()
    model.head.pre_logits = lambda feats: feats[-1].flatten(1)
    layout, images = look(model)
    assert images.shape[2:] == (128, 128)
    assert layout.layers['head.fc'].inputs[0].repeat == 16


def test_a_model_is_tried_on_larger_images_where_a_layer_minds_as_it_computes(full):
    model = copy.deepcopy(full)
    stock = model.backbone.layer4.forward

    def picky(x):  # as a deformable convolution; one that computes nothing takes any image
        if x.any() and x.shape[-1] < 8:
            raise RuntimeError('input image is smaller than kernel')
        return stock(x)

    model.backbone.conv1.bias = nn.Parameter(torch.ones(8))
    model.backbone.layer4.forward = picky
    assert look(model)[1].shape[2:] == (128, 128)


class Auxiliary(nn.Module):
    """With a head that runs in training alone, and maybe fails there."""

    def __init__(self, failing=None):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)
        self.auxiliary = nn.Sequential(nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
        self.failing = failing

    def forward(self, x):
        x = self.stem(x)
        if not self.training:
            return self.head(x)
        if self.failing is not None:
            self.failing()
        return self.head(x), self.auxiliary(x)


def test_heads_that_run_in_training_alone_are_seen():
    model = Auxiliary().train()
    layout, images = look(model)
    assert not layout.unseen and set(layout.units) == {'stem', 'auxiliary.0'}
    cut_(model, layout, {'stem': 6, 'auxiliary.0': 3})
    shapes = [y.shape[1] for y in model(torch.randn(2, 3, 8, 8))]
    assert shapes == [4, 4] and model.training
    assert model.auxiliary[1].running_mean.shape == (3,)


def test_heads_that_fail_on_images_alone_keep_their_width(buggy):
    def labels_missing():
        raise KeyError('labels')

    layout, _ = look(Auxiliary(labels_missing))
    assert set(layout.units) == {'stem'} and 'auxiliary.0' in layout.unseen
    with pytest.raises(KeyError, match='conv1'):  # of ours
        look(Auxiliary(buggy))


def test_images_of_other_channels(full):
    model = copy.deepcopy(full)
    model.data_preprocessor = nn.Identity()
    model.backbone.conv1 = nn.Conv2d(5, 8, 7, 2, 3)
    assert image_channels(model)[0] == 5
    assert look(model)[1].shape[1] == 5


def _forward_sum(model, queue):
    with torch.no_grad():
        queue.put(float(model(torch.ones(1, 3, 64, 64)).sum()))


@pytest.mark.slow
def test_a_subnet_goes_to_a_spawned_process(full, subnet):
    static = pruned(subnet)
    static.load_state_dict(full.state_dict())
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    process = context.Process(target=_forward_sum, args=(static, queue))
    process.start()
    found = queue.get(timeout=120)
    process.join()
    with torch.no_grad():
        assert found == pytest.approx(float(static(torch.ones(1, 3, 64, 64)).sum()), rel=1e-5)


def test_its_config_does_not_train_in_the_folder_of_the_full_model(subnet):
    cfg = Config(dict(model=copy.deepcopy(CLASSIFIER), default_scope='mmpretrain'))
    assert 'work_dir' not in pruned_changes(cfg, subnet)
    cfg.work_dir = 'work_dirs/full'
    assert pruned_changes(cfg, subnet)['work_dir'] is None


def test_its_config_freezes_nothing_in_lists_either(subnet):
    """One that inherits replaces a list: it has the other changes of its items, too."""
    part = dict(frozen_stages=1, norm_cfg=dict(type='BN', requires_grad=False), depth=18)
    part['init_cfg'] = dict(type='Pretrained', checkpoint='weights.pth')
    changed = dict(frozen_stages=-1, norm_cfg=dict(type='BN', requires_grad=True), depth=18)
    changed['init_cfg'] = None
    for many in (list, tuple):
        parts = many([part, dict(backbone=many([part])), 'x'])
        cfg = Config(dict(model=dict(type='A', parts=parts, teacher=part)))
        model = pruned_changes(cfg, subnet, thaw=True)['model']
        assert model['parts'] == many([changed, dict(backbone=many([changed])), 'x'])
        assert 'teacher' not in model
        kept = pruned_changes(cfg, subnet)['model']['parts'][0]
        assert kept == dict(part, init_cfg=None)
