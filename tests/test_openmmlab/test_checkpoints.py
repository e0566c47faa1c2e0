"""Any checkpoint of a model into that model, or one sentence that says why not."""

import argparse
import os
import pickle
from collections import OrderedDict

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmpretrain.models import MobileNetV2, ResNet
from safetensors.torch import save_file
from timm import create_model
from torch import nn
from torchvision.models import mobilenet_v2, resnet18

from mmpse.openmmlab.checkpoints.files import read_checkpoint, save_checkpoint
from mmpse.openmmlab.checkpoints.loading import load_weights
from mmpse.openmmlab.errors import CheckpointError


def tower(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)) for _ in range(blocks))
    )


class Backbone(nn.Module):
    def __init__(self, width=4, blocks=2, stages=2):
        super().__init__()
        for k in range(stages):
            self.add_module(f'layer{k + 1}', tower(width, blocks))


class Detector(BaseModel):
    """A toy of the shape of OpenMMLab's."""

    def __init__(self, classes=3, neck=True, **backbone):
        super().__init__()
        self.backbone = Backbone(**backbone)
        if neck:
            self.neck = tower(4, 1)
        self.bbox_head = nn.ModuleDict(dict(conv=nn.Conv2d(4, 4, 1), cls=nn.Conv2d(4, classes, 1)))

    def forward(self, inputs):
        return inputs


def differing(model: nn.Module, state: dict) -> set[str]:
    return {k for k, v in model.state_dict().items() if not torch.equal(v, state.get(k, v + 1))}


@pytest.fixture
def state():
    torch.manual_seed(1)
    model = Detector()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            nn.init.normal_(tensor)
    return model.state_dict()


def add(prefix: str, state: dict) -> dict:
    return {prefix + key: value for key, value in state.items()}


WRITERS = dict(
    bare=lambda s: s,
    mmengine=lambda s: dict(meta=dict(epoch=1), state_dict=s, optimizer={}),
    torchvision=lambda s: dict(model=s, args=argparse.Namespace(lr=0.1), epoch=3),
    lightning=lambda s: dict(
        state_dict=add('model.', s) | {'criterion.weight': torch.ones(3)}, callbacks={}
    ),
    compiled=lambda s: dict(state_dict=add('_orig_mod.', s)),
    compiled_parts=lambda s: {k.replace('backbone.', 'backbone._orig_mod.'): s[k] for k in s},
    parallel=lambda s: dict(state_dict=add('module.', s)),
    all_of_them=lambda s: dict(state_dict=add('net.module._orig_mod.', s)),
    student=lambda s: dict(state_dict=add('student.', s) | {'projector.weight': torch.ones(2)}),
    without_counters=lambda s: {k: v for k, v in s.items() if 'num_batches' not in k},
)


@pytest.mark.parametrize('writer', WRITERS)
def test_what_other_tools_write(writer, state, tmp_path):
    torch.save(WRITERS[writer](state), tmp_path / 'weights.pth')
    model = Detector()
    report = load_weights(model, tmp_path / 'weights.pth')
    assert {k for k in differing(model, state) if 'num_batches' not in k} == set()
    assert report.random == () and 'weights.pth' in str(report)
    assert report.tensors >= len(state) - 5
    extra = dict(lightning=('criterion',), student=('projector',))
    assert report.unused == extra.get(writer, ())


def test_safetensors_and_content(state, tmp_path):
    save_file(state, tmp_path / 'weights.safetensors')
    for given in (str(tmp_path / 'weights.safetensors'), state, OrderedDict(state)):
        model = Detector()
        load_weights(model, given)
        assert not differing(model, state)


def test_url(state, tmp_path, monkeypatch):
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path))
    calls = []

    def download(url, path):
        calls.append(url)
        save_file(state, path) if path.endswith('safetensors') else torch.save(state, path)

    monkeypatch.setattr('torch.hub.download_url_to_file', download)
    for url in ('https://example.org/a/weights.pth?x=1', 'http://example.org/w.safetensors') * 2:
        model = Detector()
        load_weights(model, url)
        assert not differing(model, state)
    assert len(calls) == 2


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ('evil',)


def test_code_in_a_checkpoint_is_never_run(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for new in (True, False):  # and the format before PyTorch 1.6
        torch.save(
            dict(state_dict=state, hook=Evil(), log=HistoryBuffer([1.0], [1])),
            'evil.pth',
            _use_new_zipfile_serialization=new,
        )
        model = Detector()
        load_weights(model, 'evil.pth')
        assert not differing(model, state)
        assert not os.path.exists('evil')
    with open('evil.pth', 'wb') as file:
        pickle.dump(Evil(), file)
    with pytest.raises(CheckpointError, match='evil.pth'):
        load_weights(model, 'evil.pth')
    assert not os.path.exists('evil')


def test_a_model_saved_as_a_whole(state, tmp_path):
    whole = Detector()
    whole.load_state_dict(state)
    for name, content in dict(model=whole, inside=dict(model=whole, epoch=1)).items():
        torch.save(content, tmp_path / f'{name}.pth')
        model = Detector()
        report = load_weights(model, tmp_path / f'{name}.pth')
        assert not differing(model, state)
        assert 'saved as a whole' in str(report)


def test_averaged_weights_are_mentioned(state):
    assert '(EMA)' in str(load_weights(Detector(), dict(state_dict=state, ema_state_dict=state)))
    report = load_weights(Detector(), dict(model=state, model_ema=add('module.', state)))
    assert 'not the averaged ones (its model_ema)' in str(report)


def test_the_meaning_of_classes_is_kept(state):
    meta = dict(classes=('a', 'b'), palette=torch.tensor([[1, 2, 3]]).numpy())
    report = load_weights(Detector(), dict(state_dict=state, meta=dict(dataset_meta=meta)))
    assert report.dataset_meta == dict(classes=('a', 'b'), palette=[[1, 2, 3]])
    report = load_weights(Detector(), dict(state_dict=state, meta=dict(CLASSES=('a',))))
    assert report.dataset_meta == dict(classes=('a',))
    assert load_weights(Detector(), state).dataset_meta is None


# Parts


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'model.backbone.', 'encoder_q.'])
def test_a_backbone_alone_names_what_starts_at_random(prefix, state):
    backbone = {k[9:]: v for k, v in state.items() if k.startswith('backbone.')}
    weights = add(prefix, backbone) | {'fc.weight': torch.ones(1)}
    model = Detector()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    report = load_weights(model, weights)
    assert report.random == ('neck', 'bbox_head') and report.unused == ('fc',)
    for key, value in model.state_dict().items():
        assert torch.equal(value, (state if key.startswith('backbone.') else before)[key])


def test_a_detector_of_other_classes_gives_all_but_their_layer(state):
    """Issue: its neck and head were left out without a word."""
    model = Detector(classes=7)
    report = load_weights(model, state)
    assert report.random == ('bbox_head.cls',) and report.unused == ('bbox_head.cls',)
    assert differing(model, state) == {'bbox_head.cls.weight', 'bbox_head.cls.bias'}


def test_another_kind_of_neck_is_not_mixed_with_ours(state):
    state['neck.1.0.weight'] = torch.ones(4, 4, 1, 1)
    model = Detector()
    report = load_weights(model, state)
    assert report.random == ('neck',) and report.unused == ('neck',)
    neck = {k for k in state if k.startswith('neck.0.') and 'num_batches' not in k}
    assert differing(model, state) == neck


def test_a_tensor_of_the_model_itself_is_taken(state):
    detector, trained = Detector(), Detector()
    for model in detector, trained:  # as of Deformable DETR
        model.level_embed = nn.Parameter(torch.randn(4))
        model.level_embed_2 = nn.Parameter(torch.randn(4))
    report = load_weights(detector, trained.state_dict())
    assert report.random == report.unused == ()
    assert not differing(detector, trained.state_dict())
    wider = dict(trained.state_dict(), level_embed=torch.zeros(5))
    assert load_weights(detector, wider).random == ('level_embed',)


def test_what_two_parts_share_is_saved_twice(state):
    """The decoder of DDQ gets branches of its head when it is trained."""
    head = {k.removeprefix('bbox_head.'): v for k, v in state.items() if 'bbox_head' in k}
    trained = state | {f'neck.{k}': v.clone() for k, v in head.items()}
    report = load_weights(Detector(), trained)
    assert report.random == () and report.unused == ('neck.conv', 'neck.cls')
    trained['neck.conv.weight'] = torch.zeros(4, 4, 1, 1)
    assert load_weights(Detector(), trained).random == ('neck',)  # another neck


def test_more_stages_than_the_backbone_has_do_no_harm(state):
    """C4 detectors use the first three stages of a ResNet."""
    report = load_weights(Detector(stages=1), state)
    assert report.random == () and report.unused == ('backbone.layer2',)


@pytest.mark.parametrize(
    'other, message',
    [
        (dict(width=6), r'of another shape \(backbone.layer1.0.0.weight is \(6, 6, 1, 1\), expec'),
        (dict(blocks=3), r'12 unexpected \(backbone.layer1.2.0.weight, .* and 9 more\)'),
        (dict(blocks=1), r'12 missing \(backbone.layer1.1.0.weight'),
        (dict(stages=1), r'12 missing \(backbone.layer2.0.0.weight'),
    ],
)
def test_another_models_checkpoint(other, message):
    model = Detector()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=f'r101.pth is not a .* of this Detector: .*{message}'
    ):
        load_weights(model, Detector(**other).state_dict(), 'r101.pth')
    assert not differing(model, before)


def test_what_is_no_checkpoint(tmp_path, state):
    (tmp_path / 'text.pth').write_text('hello')
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / 'script.pth')
    cases = [
        (tmp_path / 'none.pth', 'there is no such file'),
        (tmp_path / 'text.pth', r'text.pth \(.*\); give a file that torch.save'),
        (tmp_path / 'script.pth', 'TorchScript'),
        (dict(epoch=1, state_dict={}), 'holds no weights: .*got a mapping of nothing'),
        (dict(a=1, b='x'), 'got a mapping of a, b; save model.state_dict'),
        (add('q.', state) | add('k.', Detector().state_dict()), r'more than once \(k., q.\)'),
        (dict(x=torch.ones(1)), 'no name is in both; it has x, the model backbone.layer1'),
    ]
    for given, message in cases:
        with pytest.raises(CheckpointError, match=message) as error:
            load_weights(Detector(), given)
        assert '\n' not in str(error.value)


# Names of other libraries


class Classifier(BaseModel):
    def __init__(self, backbone, features, classes=1000):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Module()
        self.head.fc = nn.Linear(features, classes)

    def forward(self, inputs):
        return self.head.fc(self.backbone(inputs)[-1].mean((2, 3)))


SOURCES = dict(
    resnet_torchvision=(lambda: Classifier(ResNet(18), 512), resnet18),
    resnet_timm=(lambda: Classifier(ResNet(18), 512), lambda: create_model('resnet18')),
    mobilenet_torchvision=(
        lambda: Classifier(MobileNetV2(out_indices=(7,)), 1280),
        mobilenet_v2,
    ),
    mobilenet_timm=(
        lambda: Classifier(MobileNetV2(out_indices=(7,)), 1280),
        lambda: create_model('mobilenetv2_100'),
    ),
)


@pytest.mark.parametrize('name', SOURCES)
def test_layouts_of_torchvision_and_timm(name):
    build, other = SOURCES[name]
    model, source = build().eval(), other().eval()
    x = torch.randn(1, 3, 64, 64)
    for prefix in ('', 'model.'):  # as Lightning adds
        report = load_weights(build(), add(prefix, source.state_dict()))
        assert report.random == () and report.unused == () and 'named as in t' in str(report)
        assert (prefix in str(report)) or not prefix
    load_weights(model, source.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model(x), source(x), rtol=1e-4, atol=1e-4)
    smaller = Classifier(build().backbone, model.head.fc.in_features, classes=10)
    assert load_weights(smaller, source.state_dict()).random == ('head',)
    bare = build().backbone
    assert load_weights(bare, source.state_dict()).random == ()
    torch.testing.assert_close(bare.state_dict(), model.backbone.state_dict())


def test_backbones_of_mmdet_and_mmseg_take_public_names():
    import mmdet.models
    import mmseg.models

    public = mobilenet_v2().state_dict()
    backbone = mmdet.models.backbones.MobileNetV2(out_indices=(7,))
    assert load_weights(backbone, public).random == ()
    deep = create_model('resnet50d').state_dict()
    model = Detector()
    model.backbone = mmseg.models.backbones.ResNetV1d(depth=50)
    assert load_weights(model, deep).random == ('neck', 'bbox_head')
    assert torch.equal(model.backbone.stem[0].weight, deep['conv1.0.weight'])
    with pytest.raises(CheckpointError, match="timm's ResNet with a deep stem.*unexpected"):
        load_weights(model, create_model('resnet101d').state_dict())


# Saving


def test_saved_checkpoint(state, tmp_path):
    model = Detector()
    model.load_state_dict(state)
    big = torch.zeros(10_000_000)
    model.neck[0][0].weight.data = big[:16].view(4, 4, 1, 1)  # as what was cut may be
    meta = dict(classes=('a', 'b'), palette=torch.ones(2, 3).numpy())
    path = tmp_path / 'new' / 'pruned.pth'
    save_checkpoint(path, model, meta)
    assert path.stat().st_size < 100_000 and [p.name for p in path.parent.iterdir()] == [path.name]
    content = torch.load(path, weights_only=True)
    assert content.keys() == {'meta', 'state_dict'}
    assert content['meta']['dataset_meta'] == dict(classes=('a', 'b'), palette=[[1.0] * 3] * 2)
    other = Detector()
    assert load_weights(other, path).dataset_meta == content['meta']['dataset_meta']
    assert not differing(other, model.state_dict())
    assert read_checkpoint(path)['meta'] == content['meta']
    with pytest.raises(ValueError, match='dataset_meta.hook is a object'):
        save_checkpoint(tmp_path / 'bad.pth', model, dict(hook=object()))
    assert not (tmp_path / 'bad.pth').exists()
