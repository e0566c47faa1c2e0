"""Every private or patched thing of upstream, used for real: a failure here names what moved."""

import builtins
import importlib
import re
import subprocess
import sys

import mmengine
import pytest
import torch
from mmdet.utils import reduce_mean
from mmengine import dist
from mmengine.config import Config
from mmengine.model import BaseModel, BaseModule, ModuleList
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

import mmpse
from mmpse.errors import UserError
from mmpse.openmmlab import compat


@pytest.mark.parametrize(
    'package, version', [('torch', '2.5.1+cpu'), ('torch', '1.13.1'), ('mmengine', '0.9.1')]
)
def test_older_versions_are_refused_by_name(package, version, monkeypatch):
    if package == 'mmengine':
        monkeypatch.setattr(mmengine, '__version__', version)
    else:
        monkeypatch.setattr(compat.metadata, 'version', lambda _: version)
    with pytest.raises(UserError, match=rf'{package} .* or newer, found {re.escape(version)}'):
        compat.check_versions()


@pytest.mark.parametrize('version', ['2.6.0', '2.11.0+cu130', '3.0.0a0+git1234', '2.12rc1'])
def test_newer_versions_are_not(version, monkeypatch):
    monkeypatch.setattr(compat.metadata, 'version', lambda _: version)
    compat.check_versions()


def test_it_is_imported_without_torch():
    code = 'import sys, mmpse.space, mmpse.openmmlab.compat; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_config_names_are_found_also_after_a_reload():
    for _ in range(2):
        importlib.reload(mmpse)
    bases = dict(
        mmpse='mmpse::_base_/models/mobilenet-v2.py',
        mmseg='mmseg::_base_/models/fcn_r50-d8.py',
        mmdet='mmdet::_base_/models/retinanet_r50_fpn.py',
    )
    scopes = {
        name: Config.fromstring(f'_base_ = {base!r}', '.py').model.get('_scope_')
        for name, base in bases.items()
    }
    assert scopes == dict(mmpse='mmpretrain', mmseg='mmseg', mmdet='mmdet')  # its own base's
    assert compat.config_path(bases['mmdet']).endswith('_base_/models/retinanet_r50_fpn.py')
    with pytest.raises(FileNotFoundError):
        compat.config_path('mmdet::_base_/no_such_file.py')


def test_new_style_configs_are_told_from_old_ones(tmp_path):
    texts = {
        'import math\nx = math.pi': False,
        '_base_ = []\nx = 1': False,
        'from mmengine.hooks import EMAHook\nx = dict(type=EMAHook)': True,
        'from mmengine.config import read_base\nwith read_base():\n    from .a import *': True,
    }
    for text, new in texts.items():
        (tmp_path / 'config.py').write_text(text)
        assert compat.is_new_style(str(tmp_path / 'config.py')) == new


class Model(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layers = ModuleList([Layer(), Layer()])

    def forward(self, inputs, mode='tensor'):
        return inputs, mode


class Layer(BaseModule):
    def __init__(self) -> None:
        super().__init__(init_cfg=dict(type='Constant', val=3.0, layer='Linear'))
        self.linear = nn.Linear(2, 2)


def test_what_a_runner_keeps_to_itself(tmp_path):
    runner = Runner(
        model=Model(),
        work_dir=str(tmp_path),
        load_from='weights.pth',
        resume=True,
        randomness=dict(seed=7),
        default_scope=None,
    )
    assert compat.load_path(runner) == 'weights.pth'
    assert compat.randomness(runner)['seed'] == 7
    assert compat.is_resuming(runner) and compat.take_over_resuming(runner)
    assert not compat.is_resuming(runner)
    wrapper = OptimWrapper(torch.optim.SGD(Model().parameters(), 0.1), accumulative_counts=4)
    assert compat.accumulative_counts(wrapper) == 4


def test_forward_by_mode_takes_what_preprocessors_give():
    for data in (dict(inputs=1), (1,), [1]):
        assert compat.forward_by_mode(Model(), data, 'predict') == (1, 'predict')


def test_weights_that_are_marked_are_not_initialised():
    model, fresh = Model(), Model()
    before = model.layers[1].linear.weight.clone()
    compat.mark_initialised(model, 'read from a file')
    model.init_weights()
    fresh.init_weights()
    assert torch.equal(model.layers[1].linear.weight, before)
    assert (fresh.layers[1].linear.weight == 3).all()


def test_a_process_is_alone_or_an_error_says_that_it_is_not(monkeypatch):
    for name, value in dict(
        is_initialized=True, get_rank=1, get_world_size=2, get_backend='gloo'
    ).items():
        monkeypatch.setattr(torch.distributed, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.distributed.distributed_c10d, '_get_default_group', lambda: None)
    assert (dist.get_rank(), dist.get_world_size()) == (1, 2)
    with compat.alone():
        assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
        assert dist.collect_results(['mine'], 1) == ['mine']  # as metrics gather theirs
        assert dist.all_gather_object('mine') == ['mine']
        assert reduce_mean(torch.tensor(3.0)) == 3  # as mmdet's losses average what they count
    assert (dist.get_rank(), dist.get_world_size()) == (1, 2)
    monkeypatch.setattr(dist, 'get_world_size', lambda: 2)  # a version that asks something else
    with pytest.raises(UserError, match='is_initialized'):
        with compat.alone():
            raise AssertionError('subnets would be judged wrongly')
    assert dist.utils.is_distributed()


def test_coco_metric_keeps_its_decimals():
    """Boxes that overlap by thirds: no figure has three decimals."""
    from mmdet.evaluation import CocoMetric

    metric = CocoMetric()
    metric.dataset_meta = dict(classes=('a',))
    for k in range(7):
        box = [0.0, 0.0, 30.0, 30.0 - 2.3 * k]
        metric.process(
            {},
            [
                dict(
                    img_id=k,
                    ori_shape=(64, 64),
                    pred_instances=dict(
                        bboxes=torch.tensor([box]),
                        scores=torch.tensor([1 - k / 10]),
                        labels=torch.tensor([0]),
                    ),
                    gt_instances=None,
                    instances=[dict(bbox=[0.0, 0.0, 30.0, 30.0], bbox_label=0, ignore_flag=0)],
                )
            ],
        )
    results = list(metric.results)
    rounded = metric.evaluate(7)['coco/bbox_mAP']
    metric.results = results
    with compat.unrounded([CocoMetric]):
        exact = metric.evaluate(7)['coco/bbox_mAP']
    assert round(exact, 3) == rounded != exact
    assert round is builtins.round and not hasattr(sys.modules[CocoMetric.__module__], 'round')


def test_published_weights_have_an_address():
    assert compat.published_weights('resnet50_8xb32_in1k').startswith('https://')


def test_torchs_own_operators():
    x = torch.randn(4, 3, 2, 2, requires_grad=True)
    y, grad = x.clamp(-0.5, 0.5), torch.randn_like(x)
    (want,) = torch.autograd.grad(y, x, grad)
    assert torch.equal(compat.clamp_backward(grad, y.detach(), -0.5, 0.5), want)


def test_many_compilations_are_allowed():
    with compat.compiling_many():
        assert torch._dynamo.config.recompile_limit == 1024


def test_deformable_attention_passes_marks_on_as_it_does():
    from mmcv.ops import multi_scale_deform_attn as module

    stock = module.multi_scale_deformable_attn_pytorch
    shapes = torch.tensor([[4, 4], [2, 2]])

    def parts(generator):
        value = torch.rand(3, 20, 2, 5, generator=generator)  # images, positions, heads, channels
        places = torch.rand(3, 7, 2, 2, 4, 2, generator=generator)
        return value, places, torch.rand(3, 7, 2, 2, 4, generator=generator)

    for part, at in ((0, (1, slice(None), 1, 3)), (2, (2, slice(None), 0))):
        tensors = parts(torch.Generator().manual_seed(0))
        tensors[part][at] = torch.nan
        value, places, weights = tensors
        expected = stock(value, shapes, places, weights).isnan()
        with compat.deformable_attention_unsampled():
            found = module.multi_scale_deformable_attn_pytorch(value, shapes, places, weights)
        assert expected.any() and torch.equal(found.isnan(), expected)
        assert not found[~expected].any()
    assert module.multi_scale_deformable_attn_pytorch is stock
