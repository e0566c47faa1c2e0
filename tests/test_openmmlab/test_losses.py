"""The batches that widths are chosen on."""

import copy
import random

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.structures import InstanceData

from mmpse.errors import UserError
from mmpse.openmmlab.compat import config_path
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.models.losses import (
    batch_losses,
    label_loss,
    last_phase_,
    preprocessed,
    training_batches,
)


class Numbers:
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return self.images

    def __getitem__(self, k):
        return k


def loader(images, size):
    return dict(
        batch_size=size,
        drop_last=True,
        dataset=dict(type=Numbers, images=images),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )


@pytest.mark.parametrize(
    'images, size, sizes',
    [
        (1, 8, [1]),
        (5, 8, [3, 2]),
        (17, 8, [3, 3, 3, 3, 3, 2]),
        (3, 1, [1] * 3),
        (129, 64, [16] * 8),
        (300, 8, [8] * 16),
        (300, 12, [12] * 11),
    ],
)
def test_no_image_is_left_alone_however_few_there_are(images, size, sizes):
    batches = training_batches(loader(images, size), 128, None)
    assert [len(batch) for batch in batches] == sizes
    assert sum(batches, []) == list(range(sum(sizes)))


def test_settings_of_workers_do_not_matter():
    config = dict(
        loader(4, 2),
        num_workers=2,
        persistent_workers=True,
        prefetch_factor=4,
        multiprocessing_context='spawn',
        timeout=60,
    )
    assert sum(training_batches(config, 4, None), []) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    'dataset',
    [
        dict(type=Numbers, images=0),
        # MMEngine's own fails as it packs its images
        dict(type=BaseDataset, metainfo=dict(classes=('a',))),
    ],
)
def test_no_images(dataset, tmp_path):
    if dataset['type'] is BaseDataset:
        (tmp_path / 'none.json').write_text('{"metainfo": {}, "data_list": []}')
        dataset['ann_file'] = str(tmp_path / 'none.json')
    with pytest.raises(UserError, match='a dataset has no images: .* has found none'):
        training_batches(dict(loader(1, 8), dataset=dataset), 128, None)


class Phased(BaseModel):
    """Loses something else in its first epochs, as TOOD."""

    def forward(self, inputs, data_samples, mode):
        epoch = MessageHub.get_current_instance().get_info('epoch')
        return dict(loss=torch.tensor(1.0 if epoch < 4 else 2.0))


def test_views_of_images_are_refused():
    batch = dict(inputs=[torch.zeros(2, 3, 4, 4)] * 2)
    with pytest.raises(UserError, match='images of Phased come as a list, not as one tensor'):
        preprocessed(Phased(), [batch])


def test_yolox_is_judged_with_the_loss_of_its_last_phase():
    cfg = Config.fromfile(config_path('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'))
    model = build_model(cfg)
    last_phase_(model, Config(dict(model=cfg.model)))
    assert not model.bbox_head.use_l1  # no hook, no such phase
    last_phase_(model, cfg)
    assert model.bbox_head.use_l1


def test_a_classifier_is_judged_by_the_last_loss_that_it_switches_to():
    hook = dict(
        type='SwitchRecipeHook',
        schedule=[
            dict(action_epoch=9, loss=dict(type='LabelSmoothLoss', label_smooth_val=0.2)),
            dict(action_epoch=4, loss=dict(type='CrossEntropyLoss', loss_weight=2.0)),
            dict(action_epoch=10, batch_augments=None),
        ],
    )
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='LeNet5', num_classes=-1),
        head=dict(type='LinearClsHead', num_classes=4, in_channels=84),
    )
    cfg = Config(dict(model=model, default_scope='mmpretrain', custom_hooks=[hook]))
    model = build_model(cfg)
    last_phase_(model, cfg)
    assert model.head.loss_module.label_smooth_val == 0.2


@pytest.mark.parametrize('info', [{}, dict(epoch=1, iter=30)])
def test_losses_are_those_at_the_end_of_a_training(info, monkeypatch):
    """Whether none was run in this process, or another one that was short."""
    hub = MessageHub.get_current_instance()
    monkeypatch.setattr(hub, '_runtime_info', dict(info))
    batch = dict(inputs=torch.zeros(1), data_samples=[])
    assert batch_losses(Phased(), [batch]).tolist() == [2.0]
    assert hub.runtime_info == info


BACKBONE = dict(depth=18, base_channels=8, stem_channels=8, frozen_stages=-1, init_cfg=None)
NECK = dict(in_channels=[8, 16, 32, 64], out_channels=16)
HEAD = dict(in_channels=16, feat_channels=16, stacked_convs=1, norm_cfg=None)
ATTENTION = dict(embed_dims=16, num_heads=2)
FFN = dict(embed_dims=16, feedforward_channels=16)
DETECTORS = {  # stock config -> what makes it small
    'fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco': dict(
        neck=NECK, bbox_head=HEAD
    ),
    'vfnet/vfnet_r50_fpn_1x_coco': dict(neck=NECK, bbox_head=HEAD),
    'dino/dino-4scale_r50_8xb2-12e_coco': dict(
        neck=dict(in_channels=[16, 32, 64], out_channels=16, norm_cfg=None),
        encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=ATTENTION, ffn_cfg=FFN)),
        decoder=dict(
            num_layers=1,
            layer_cfg=dict(self_attn_cfg=ATTENTION, cross_attn_cfg=ATTENTION, ffn_cfg=FFN),
        ),
        positional_encoding=dict(num_feats=8),
        num_queries=8,
        bbox_head=dict(embed_dims=16),
    ),
}


@pytest.mark.parametrize('name', DETECTORS)
def test_a_detector_loses_what_it_loses_in_training(name):
    """Heads put out other boxes than in tests, or more."""
    cfg = Config.fromfile(config_path(f'mmdet::{name}.py'))
    cfg.merge_from_dict(dict(model=dict(DETECTORS[name], backbone=BACKBONE)))
    model = build_model(cfg)
    size = (64, 64)
    sample = DetDataSample(metainfo=dict(img_shape=size, batch_input_shape=size, pad_shape=size))
    boxes = torch.tensor([[4.0, 4.0, 40.0, 36.0]])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([1]))
    images = torch.randn(1, 3, *size)
    model.train()
    assert model.backbone.norm_eval  # nothing else has statistics here
    torch.manual_seed(0)
    expected, _ = model.parse_losses(model.loss(images, [copy.deepcopy(sample)]))

    model.eval()
    (found,) = batch_losses(model, [dict(inputs=images, data_samples=[sample])])
    torch.testing.assert_close(found.float(), expected.detach())
    assert not any(module.training for module in model.modules())


class Sharing(BaseModel):
    """Its decoder holds the branches of its head while it is trained, as DDQ's."""

    def __init__(self):
        super().__init__()
        self.decoder, self.head = torch.nn.Sequential(), torch.nn.Linear(4, 2)

    def forward(self, inputs, data_samples, mode):
        if self.training:
            self.decoder.branches = self.head
        return dict(loss=self.head(inputs).sum())


def test_a_model_has_no_other_parts_afterwards():
    model = Sharing().eval()
    before = list(model.state_dict())
    batch_losses(model, [dict(inputs=torch.ones(1, 4), data_samples=[])])
    assert list(model.state_dict()) == before


class Counting(BaseModel):
    """Its loss keeps count in every way that mmdet's do, and draws from every generator."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
        self.register_buffer('sums', torch.ones(2))  # written into, as GHM's
        self.register_buffer('share', torch.ones(2))  # another tensor each time, as of EQL v2
        self.history = []  # as of Dynamic R-CNN
        self.beta = 1.0

    def forward(self, inputs, data_samples, mode):
        self.history.append(len(self.history))
        self.beta /= 2
        self.sums[0] += 1
        self.share = self.share / self.sums
        self.seen = True
        drawn = random.random() + np.random.rand() + torch.rand(1)
        factor = drawn * self.sums.sum() * self.share.sum() * self.beta * len(self.history)
        return dict(loss=self.layer(inputs).square().sum() * factor)


def test_what_a_loss_counts_and_draws_is_the_same_every_time():
    model, batch = Counting().eval(), dict(inputs=torch.ones(1, 4), data_samples=[])
    held = {**vars(model), **model._buffers}
    generators = drawn_state()
    (loss,) = batch_losses(model, [batch])
    assert drawn_state() == generators
    random.random(), np.random.rand(), torch.rand(1)
    assert batch_losses(model, [batch]) == loss

    label_loss(model, batch).backward()  # though the counts are as before, as in 'taylor'
    assert model.layer.weight.grad.any()
    assert model.sums.tolist() == model.share.tolist() == [1.0, 1.0]
    assert model.history == [] and model.beta == 1.0
    assert {**vars(model), **model._buffers}.keys() == held.keys()


def drawn_state():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


class Dropping(BaseModel):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4)
        self.dropout = torch.nn.Dropout(0.5)
        self.attention = torch.nn.MultiheadAttention(4, 1, dropout=0.5)

    def forward(self, inputs, data_samples, mode):
        x = self.dropout(self.norm(inputs))
        return dict(loss=self.attention(x, x, x)[0].square().mean() + self.training)


def test_nothing_is_dropped_and_statistics_stay():
    model = Dropping().eval()
    x = torch.randn(8, 4)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    (loss,) = batch_losses(model, [dict(inputs=x, data_samples=[])])
    torch.testing.assert_close(loss.float(), model(x, [], 'loss')['loss'] + 1)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
