"""A config whose fine-tuning could not begin says so before anything is chosen."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData
from mmpretrain.models import BaseClassifier
from mmpretrain.structures import DataSample
from torch import nn

from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.errors import ConfigError
from mmpse.openmmlab.models.losses import batch_losses
from mmpse.openmmlab.pruning.recipe import finetune
from mmpse.openmmlab.pruning.steps import PruneError
from mmpse.openmmlab.pruning.trainable import check_losses_in_training, check_trainable

CIFAR = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'


def check(changes: str) -> None:
    cfg = Config.fromstring(f'_base_ = {CIFAR!r}\n{changes}', '.py')
    check_trainable(cfg, finetune(cfg), nn.Linear(2, 3))


@pytest.mark.parametrize(
    ('changes', 'problem'),
    [
        ("custom_hooks = [dict(type='NoHook')]", r'custom_hooks\[0\] has the type NoHook, which'),
        (
            "custom_hooks = [dict(type='SyncBuffersHook', each=1)]",
            "SyncBuffersHook .* 'each'; mend",
        ),
        ('default_hooks = dict(logger=dict(intervals=2))', 'default_hooks.logger: LoggerHook'),
        (
            "custom_hooks = [dict(type='EMAHook', momentun=1e-3)]",
            r"custom_hooks\[0\] cannot be built .*Average.* 'momentun'",
        ),
        ("custom_hooks = [dict(type='EMAHook', ema_type='NoAverage')]", 'cannot be .*NoAverage'),
        (
            'default_hooks = dict(checkpoint=dict(intervall=1))',
            'default_hooks.checkpoint: CheckpointHook got unexpected arguments intervall',
        ),
        (
            "optim_wrapper = dict(optimizer=dict(_delete_=True, type='Missing', lr=0.1))",
            'optim_wrapper.optimizer has the type Missing',
        ),
        ('optim_wrapper = dict(optimizer=dict(nesterovv=True))', "SGD.*'nesterovv'"),
        ("train_cfg = dict(type='EpochBasedTrainLoop')", 'train_cfg has both type and by_epoch'),
        ("train_cfg = dict(_delete_=True, type='NoLoop', max_epochs=9)", 'train_cfg has the type'),
        ("val_cfg = dict(type='NoLoop')", 'val_cfg has the type NoLoop, which is not there'),
        ("visualizer = dict(type='NoVisualizer')", 'visualizer has the type NoVisualizer, which'),
        ("optim_wrapper = dict(constructor='NoConstructor')", 'cannot be built .*NoConstructor'),
    ],
)
def test_what_is_wrong_with_a_fine_tuning_is_told_in_a_sentence(changes, problem):
    with pytest.raises(PruneError, match=problem):
        check(changes)


def test_hooks_with_priorities_and_none_are_fine():
    check(
        'default_hooks = dict(visualization=None, checkpoint=dict(meta=dict(version=1)))\n'
        "custom_hooks = [dict(type='EMAHook', priority='ABOVE_NORMAL', momentum=1e-3)]"
    )


def test_a_config_that_validates_by_half():
    with pytest.raises(ConfigError, match='has val_dataloader, val_evaluator, but no val_cfg'):
        check('val_cfg = None')


class Untrainable(BaseClassifier):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        if self.training:
            raise NotImplementedError('no training in distillation mode')
        return dict(loss=inputs.mean())


def test_a_model_that_refuses_its_training_has_its_losses_in_eval_mode_only():
    model = Untrainable().eval()
    batch = dict(inputs=torch.rand(2, 3, 4, 4), data_samples=None)
    assert batch_losses(model, [dict(inputs=batch['inputs'], data_samples=[])]).shape == (1,)
    with pytest.raises(PruneError, match='a training step of Untrainable fails .*distillation'):
        check_losses_in_training(model, batch)
    assert not model.training


def test_a_training_step_is_tried_on_a_copy():
    model = build_model(load_config(CIFAR)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    samples = [DataSample().set_gt_label(k) for k in range(2)]
    batch = dict(inputs=[torch.randint(256, (3, 32, 32)) for _ in samples], data_samples=samples)
    drawn = torch.get_rng_state()
    check_losses_in_training(model, batch)
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn) and not model.training


def test_a_model_that_asks_how_long_it_has_been_trained():
    """Without a runner nobody tells YOLOX's preprocessor."""
    MessageHub.get_current_instance().runtime_info.clear()
    model = build_model(load_config('mmdet::yolox/yolox_nano_8xb8-300e_coco.py'))
    objects = InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([0]))
    sample = DetDataSample(gt_instances=objects, metainfo=dict(img_shape=(64, 64)))
    images = [torch.randint(256, (3, 64, 64)) for _ in range(2)]
    check_losses_in_training(model, dict(inputs=images, data_samples=[sample, sample.clone()]))
