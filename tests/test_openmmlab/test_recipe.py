"""Fine-tuning recipes of stock configs: as configs inherit them, and as a runner trains by them."""

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, PARAM_SCHEDULERS, DefaultScope
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmpse.openmmlab.pruning.recipe import finetune

RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
RTMDET = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
YOLOX = 'mmdet::yolox/yolox_s_8xb8-300e_coco.py'
TOOD = 'mmdet::tood/tood_r50_fpn_1x_coco.py'
FCN = 'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'
CIFAR = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
STOCK = {  # length, unit, learning rate after a quarter of the config's
    RETINANET: (3, 'epoch', 0.3 * 0.01),
    RTMDET: (75, 'epoch', 0.3 * 0.004),
    YOLOX: (75, 'epoch', 0.3 * 0.01),
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': (3, 'epoch', 0.3 * 0.02),
    'mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py': (1, 'epoch', 0.3 * 0.01),
    FCN: (10000, 'iteration', 0.3 * 0.01),
    'mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py': (20000, 'iteration', 0.3 * 0.01),
    CIFAR: (50, 'epoch', 0.3 * 0.1),
    'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py': (75, 'epoch', 0.3 * 0.045),
}


def stock(name: str) -> Config:
    return Config.fromstring(f'_base_ = {name!r}', '.py')


def inherited(name: str, changes: dict) -> Config:
    """What a config is that has a stock one as its base and sets the changes."""
    text = ''.join(f'{key} = {value!r}\n' for key, value in changes.items())
    return Config.fromstring(f'_base_ = {name!r}\n{text}', '.py')


def hook(cfg: Config, kind: str) -> dict | None:
    found = [hook for hook in cfg.get('custom_hooks') or [] if hook.type == kind]
    return found[0] if found else None


@pytest.mark.parametrize('name', STOCK)
def test_stock_configs_inherit_their_recipe(name):
    old = stock(name)
    recipe = finetune(old)
    new = inherited(name, recipe.changes)
    total, unit, lr = STOCK[name]
    assert new.optim_wrapper.optimizer.lr == pytest.approx(lr)
    assert new.train_cfg['max_epochs' if unit == 'epoch' else 'max_iters'] == total
    assert old.to_dict() == stock(name).to_dict()  # left as it was

    # the rest of the optimizer, and of the config
    changed = {'train_cfg', 'optim_wrapper', 'param_scheduler', 'custom_hooks', 'default_hooks'}
    assert {key for key in new if new.get(key) != old.get(key)} <= changed
    new.optim_wrapper.optimizer.lr = old.optim_wrapper.optimizer.lr
    assert new.optim_wrapper == old.optim_wrapper

    # hooks can be built; one schedule for all of the training
    with DefaultScope.overwrite_default_scope(new.default_scope):
        for one in new.get('custom_hooks') or []:
            HOOKS.build({key: value for key, value in one.items() if key != 'priority'})
        assert len(new.param_scheduler) == 1
        build_scheduler(new.param_scheduler[0], epoch_length=10)
    assert f'{total} {unit}' in recipe.text and '\n' not in recipe.text


@pytest.mark.parametrize(
    ('epochs', 'factor'), [(1, 0.1), (3, 0.1), (30, 0.1), (75, 0.3), (150, 1), (300, 1), (600, 1)]
)
def test_the_shorter_the_lower_is_the_learning_rate(epochs, factor):
    optimizer = finetune(stock(RTMDET), epochs).changes['optim_wrapper']['optimizer']
    assert optimizer['lr'] == pytest.approx(0.004 * factor)
    between = finetune(stock(RTMDET), 112).changes['optim_wrapper']['optimizer']['lr']
    assert 0.3 < between / 0.004 < 1


def test_the_peak_of_one_cycle():
    cfg = stock(CIFAR)
    cfg.param_scheduler = [dict(type='OneCycleLR', eta_max=0.4, by_epoch=True)]
    assert finetune(cfg, 100).changes['optim_wrapper']['optimizer']['lr'] == pytest.approx(0.4)


def test_epochs_of_a_config_that_counts_iterations():
    recipe = finetune(stock(FCN), epochs=8, steps_per_epoch=372)
    assert recipe.changes['train_cfg'] == dict(max_iters=2976)
    assert recipe.changes['optim_wrapper']['optimizer']['lr'] == pytest.approx(0.001)


def test_phases_of_training_keep_their_share():
    cfg = inherited(RTMDET, finetune(stock(RTMDET), 30).changes)
    assert hook(cfg, 'PipelineSwitchHook').switch_epoch == 28  # of 280 of 300
    assert hook(cfg, 'PipelineSwitchHook').switch_pipeline
    assert cfg.train_cfg.dynamic_intervals == [(28, 1)] and cfg.train_cfg.val_interval == 10
    assert hook(cfg, 'EMAHook').momentum == pytest.approx(0.002)  # 0.0002 of ten times as long
    assert cfg.default_hooks.checkpoint.interval == 7  # of 10: at least four
    assert cfg.default_hooks.checkpoint.max_keep_ckpts == 3
    cfg = stock(RTMDET)
    cfg.custom_hooks[0].begin_iter = 1000  # iterations, in a config that counts epochs
    assert finetune(cfg, 30).changes['custom_hooks'][0]['begin_iter'] == 100
    # the shortest training is all last phase
    cfg = inherited(RTMDET, finetune(stock(RTMDET), 1).changes)
    assert hook(cfg, 'PipelineSwitchHook').switch_epoch == 0

    cfg = inherited(YOLOX, finetune(stock(YOLOX), 30).changes)
    assert hook(cfg, 'YOLOXModeSwitchHook').num_last_epochs == 2  # 1.5
    assert hook(cfg, 'SyncNormHook') == hook(stock(YOLOX), 'SyncNormHook')
    cfg = stock(YOLOX)
    del cfg.custom_hooks[0].num_last_epochs  # 15 by default
    (switch, *_) = finetune(cfg, 60).changes['custom_hooks']
    assert switch['num_last_epochs'] == 3


def test_what_an_untrained_model_needs_is_left_out():
    recipe = finetune(stock(TOOD))
    cfg = inherited(TOOD, recipe.changes)
    assert cfg.model.train_cfg.initial_epoch == 0  # of 4 of 12, and the fine-tuning has 3
    assert cfg.model.train_cfg.assigner == stock(TOOD).model.train_cfg.assigner
    assert 'without the first phase of the config, initial_epoch=4' in recipe.text


def test_switches_that_fall_into_one_epoch_are_joined():
    cfg = stock(CIFAR)
    schedule = [
        dict(action_epoch=151, batch_augments=None),
        dict(action_epoch=100, train_pipeline=[dict(type='PackInputs')], batch_augments={}),
    ]
    cfg.custom_hooks = [dict(type='SwitchRecipeHook', schedule=schedule)]
    (switch,) = finetune(cfg, 2).changes['custom_hooks']
    pipeline = [dict(type='PackInputs')]
    assert switch['schedule'] == [
        dict(action_epoch=1, train_pipeline=pipeline, batch_augments={}),
        dict(action_epoch=2, batch_augments=None),
    ]
    (switch,) = finetune(cfg, 1).changes['custom_hooks']
    assert switch['schedule'] == [
        dict(action_epoch=1, train_pipeline=pipeline, batch_augments=None)
    ]


def test_nothing_is_chosen_by_validation():
    cfg = stock(RETINANET)
    cfg.default_hooks.checkpoint.save_best = 'auto'
    cfg.custom_hooks = [
        dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP'),
        dict(type='CheckInvalidLossHook', interval=50),
    ]
    recipe = finetune(cfg)
    assert recipe.changes['default_hooks'] == dict(checkpoint=dict(save_best=None))
    assert recipe.changes['custom_hooks'] == cfg.to_dict()['custom_hooks'][1:]
    assert 'no EarlyStoppingHook' in recipe.text


def test_the_last_checkpoint_is_the_result():
    cfg = stock(RETINANET)
    cfg.default_hooks.checkpoint.update(save_last=False, save_begin=8, out_dir='elsewhere')
    changes = finetune(cfg).changes['default_hooks']
    assert changes == dict(checkpoint=dict(save_last=True, save_begin=0, out_dir=None))
    cfg.default_hooks.checkpoint = None  # the config saves none
    changes = finetune(cfg, 8).changes['default_hooks']
    assert changes == dict(checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=True))


def test_hooks_among_the_default_ones_are_shortened_too():
    cfg = stock(RETINANET)
    cfg.default_hooks.average = dict(type='EMAHook', momentum=0.01, begin_epoch=8)
    cfg.default_hooks.stop = dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP')
    recipe = finetune(cfg)  # 3 of 12 epochs
    assert recipe.changes['default_hooks'] == dict(
        average=dict(type='EMAHook', momentum=0.04, begin_epoch=2), stop=None
    )
    assert 'no EarlyStoppingHook' in recipe.text


def test_a_rate_that_the_runner_scales_is_said_to_be():
    cfg = stock(RETINANET)
    assert 'auto_scale_lr' not in finetune(cfg).text
    cfg.auto_scale_lr.enable = True
    assert 'auto_scale_lr scales the rate' in finetune(cfg).text


def test_what_a_hook_counts_that_is_not_known_is_said():
    class FreezeHook(Hook):
        def __init__(self, freeze_epochs):
            pass

    cfg = stock(RETINANET)
    cfg.custom_hooks = [dict(type=FreezeHook, freeze_epochs=4)]
    assert 'FreezeHook.freeze_epochs=4 as in the config' in finetune(cfg).text


def test_mixed_precision_without_a_gpu(monkeypatch):
    cfg = stock(RETINANET)
    cfg.optim_wrapper.update(
        type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16', clip_grad=dict(max_norm=35)
    )
    monkeypatch.setattr('mmpse.openmmlab.pruning.recipe.is_cuda_available', lambda: True)
    assert finetune(cfg).changes['optim_wrapper'].keys() == {'optimizer'}
    monkeypatch.setattr('mmpse.openmmlab.pruning.recipe.is_cuda_available', lambda: False)
    recipe = finetune(cfg)
    text = cfg.pretty_text + '\n'
    merged = Config.fromstring(text, '.py')
    merged.merge_from_dict(recipe.changes)
    assert merged.optim_wrapper == dict(
        type='OptimWrapper',
        optimizer=dict(cfg.optim_wrapper.optimizer, lr=0.003),
        clip_grad=dict(max_norm=35),
        _scope_='mmdet',
    )
    assert 'float32' in recipe.text
    cfg.optim_wrapper.type = 'mmpse.BFloat16OptimWrapper'
    assert finetune(cfg).changes['optim_wrapper'].keys() == {'optimizer'}


def test_bad_input():
    cfg = stock(RETINANET)
    for epochs in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f'epochs={epochs} must be a whole number'):
            finetune(cfg, epochs)
    del cfg.optim_wrapper.optimizer.lr
    with pytest.raises(ValueError, match='no optim_wrapper.optimizer.lr'):
        finetune(cfg)
    with pytest.raises(ValueError, match='neither train_cfg.max_epochs nor train_cfg.max_iters'):
        finetune(Config(dict(train_cfg=None)))


# The schedule


def build_scheduler(config: dict, epoch_length: int):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = OptimWrapper(torch.optim.SGD([weight], lr=1.0))
    return PARAM_SCHEDULERS.build(
        config, default_args=dict(optimizer=optimizer, epoch_length=epoch_length)
    )


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, mode):
        return dict(loss=(self.weight - torch.stack(x).mean()) ** 2)


class Eight(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(x=torch.ones(1))


class Rates(Hook):
    def __init__(self):
        self.rates = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates += runner.optim_wrapper.get_lr()['lr']


def config(epochs: int = 40, by_epoch: bool = True) -> Config:
    length = dict(max_epochs=epochs) if by_epoch else dict(max_iters=epochs)
    return Config(
        dict(
            default_scope='mmengine',
            train_cfg=dict(by_epoch=by_epoch, **length),
            train_dataloader=dict(
                batch_size=2,
                dataset=Eight(),
                # by iteration MMEngine sleeps two seconds whenever a finite sampler has run out
                sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler'),
            ),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            param_scheduler=dict(type='MultiStepLR', milestones=[30]),
        )
    )


def rates(cfg: Config, changes: dict, folder, **options) -> list[float]:
    """Learning rate of every iteration of a run."""
    cfg.merge_from_dict(changes)
    seen = Rates()
    runner = Runner(
        model=Model(),
        work_dir=str(folder),
        experiment_name=f'{folder.name}-{len(list(folder.parent.iterdir()))}',
        log_level='ERROR',
        custom_hooks=[seen],
        **{key: cfg[key] for key in cfg if key != 'default_scope'},
        **options,
    )
    runner.train()
    return seen.rates


def test_one_warmup_and_one_cosine(tmp_path):
    """20 epochs of 4 iterations, a warm-up over one epoch."""
    found = rates(config(), finetune(config(), 20).changes, tmp_path / 'run')
    expected = [0.1 * min(1, (t + 1) / 4) * (1 + math.cos(math.pi * t / 80)) / 2 for t in range(80)]
    assert found == pytest.approx(expected)


def test_by_iteration(tmp_path):
    cfg = config(400, by_epoch=False)
    found = rates(cfg, finetune(cfg).changes, tmp_path / 'run')
    assert len(found) == 100 and max(found) == found[4] == pytest.approx(0.03, rel=0.01)
    assert found[-1] < 1e-4


def test_a_warmup_shorter_than_an_iteration_is_none(tmp_path):
    found = rates(config(), finetune(config(), 1).changes, tmp_path / 'run')
    assert found[0] == pytest.approx(0.01) and len(found) == 4


def test_a_resumed_run_goes_on_with_the_schedule(tmp_path):
    cfg = config()
    changes = finetune(cfg, 4).changes
    whole = rates(config(), changes, tmp_path / 'whole')
    rest = rates(
        config(),
        changes,
        tmp_path / 'rest',
        resume=True,
        load_from=str(tmp_path / 'whole/epoch_3.pth'),
    )
    assert rest == whole[12:]
