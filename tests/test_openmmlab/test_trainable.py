"""A config whose fine-tuning could not begin says so before anything is chosen."""

import pytest
from mmengine.config import Config
from torch import nn

from mmpse.openmmlab.pruning.recipe import finetune
from mmpse.openmmlab.pruning.steps import PruneError
from mmpse.openmmlab.pruning.trainable import check_trainable

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
            "optim_wrapper = dict(optimizer=dict(_delete_=True, type='Missing', lr=0.1))",
            'optim_wrapper.optimizer has the type Missing',
        ),
        ('optim_wrapper = dict(optimizer=dict(nesterovv=True))', "SGD.*'nesterovv'"),
        ("train_cfg = dict(type='EpochBasedTrainLoop')", 'train_cfg has both type and by_epoch'),
        ("train_cfg = dict(_delete_=True, type='NoLoop', max_epochs=9)", 'train_cfg has the type'),
        ("optim_wrapper = dict(constructor='NoConstructor')", 'cannot be built .*NoConstructor'),
    ],
)
def test_what_is_wrong_with_a_fine_tuning_is_told_in_a_sentence(changes, problem):
    with pytest.raises(PruneError, match=problem):
        check(changes)


def test_hooks_with_priorities_and_none_are_fine():
    check(
        'default_hooks = dict(visualization=None)\n'
        "custom_hooks = [dict(type='EMAHook', priority='ABOVE_NORMAL', momentum=1e-3)]"
    )
