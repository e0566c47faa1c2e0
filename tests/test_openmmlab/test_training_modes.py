"""One masked pass = n sliced passes, in every way a model can be trained."""

import copy

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from search_runs import fresh_name, log_of

from mmpse.errors import UserError
from mmpse.openmmlab.checkpoints.supernet import supernet_state

MODES = {
    'channels_last': dict(custom_hooks=[dict(type='mmpse.ChannelsLastHook')]),
    'accumulation': dict(optim_wrapper=dict(accumulative_counts=2)),
    'clipping': dict(optim_wrapper=dict(clip_grad=dict(max_norm=0.1))),
    'EMA': dict(custom_hooks=[dict(type='EMAHook', momentum=0.5, update_buffers=True)]),
    'distillation': dict(hook=dict(distillation=dict(weight=0.5))),
    'serial': dict(optim_wrapper=dict(accumulative_counts=4), hook=dict(serial=True)),
}


def build(cfg, work_dir, hook=None, custom_hooks=(), optim_wrapper=None, max_epochs=1, **options):
    """A runner with two batches an epoch."""
    cfg = copy.deepcopy(cfg)
    cfg.custom_hooks = [*custom_hooks, dict(type='mmpse.SupernetHook', n=4) | (hook or {})]
    cfg.optim_wrapper.update(optim_wrapper or {})
    cfg.train_cfg.max_epochs = max_epochs
    cfg.default_hooks.checkpoint.interval = 1
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = fresh_name()
    cfg.update(options)
    return Runner.from_cfg(cfg)


def in_float64(runner):
    runner.model.double()
    runner.model.data_preprocessor.float()
    runner.model.backbone.register_forward_pre_hook(lambda module, args: (args[0].double(),))
    for hook in runner.hooks:  # EMAHook copies the model before the run
        if type(hook).__name__ == 'SupernetHook':
            return hook


def assert_both_executions_train_alike(cfg, tmp_path, mode):
    weights = []
    for execution in ('masked', 'sliced'):
        arguments = dict(mode, hook=dict(mode.get('hook', {}), execution=execution))
        runner = build(cfg, tmp_path / execution, **arguments)
        in_float64(runner)
        runner.train()
        state = torch.load(tmp_path / execution / 'epoch_1.pth', weights_only=False)
        weights.append(state['state_dict'] | state.get('ema_state_dict', {}))
    assert weights[0].keys() == weights[1].keys()
    moved = 0
    for key, value in weights[0].items():
        assert torch.allclose(value, weights[1][key], rtol=1e-5, atol=1e-7), key
        moved += 'bn.weight' in key and bool((value != 1).any())
    assert moved
    return weights[0]


@pytest.mark.parametrize('name', MODES)
def test_both_executions_train_alike(supernet_cfg, tmp_path, name):
    weights = assert_both_executions_train_alike(supernet_cfg, tmp_path, MODES[name])
    assert ('module.head.fc.bias' in weights) == (name == 'EMA')


@pytest.mark.slow
def test_both_executions_train_alike_compiled(supernet_cfg, tmp_path):
    compiled = dict(compile=dict(backend='eager'))  # traced as torch.compile does, run as it is
    assert_both_executions_train_alike(supernet_cfg, tmp_path, compiled)


def test_bfloat16_gradients_are_the_float32_ones_roughly(supernet_cfg, tmp_path):
    gradients = {}
    sgd = dict(type='SGD', lr=1.0)
    for wrapper in ('OptimWrapper', 'mmpse.BFloat16OptimWrapper'):
        for execution in ('masked', 'sliced'):
            runner = build(
                supernet_cfg,
                tmp_path,
                dict(execution=execution, distillation=dict()),
                [dict(type='mmpse.ChannelsLastHook')],
                param_scheduler=None,
            )
            runner.cfg.optim_wrapper = runner.optim_wrapper = dict(type=wrapper, optimizer=sgd)
            step = FirstStep()
            runner.register_hook(step)
            runner.train()
            gradients[wrapper, execution] = step.gradient
    exact = gradients['OptimWrapper', 'masked']
    assert cosine(gradients['OptimWrapper', 'sliced'], exact) > 0.9999
    for execution in ('masked', 'sliced'):
        rough = gradients['mmpse.BFloat16OptimWrapper', execution]
        # the early layers' gradients pass through normalisations over 8 values, and bfloat16 has
        # 8 bits: only the late ones can be compared
        late = [name for name in exact if name.startswith(('head', 'backbone.conv2'))]
        assert 0.9 < cosine(rough, {name: exact[name] for name in late}) < 0.99999
        # casts made in the teacher's pass, which has no gradients, are not taken by the subnets
        assert all(rough[name].any() for name in exact if exact[name].any())


class FirstStep(Hook):
    """Keeps the gradient of the first step of SGD with a learning rate of 1."""

    priority = 'LOWEST'
    gradient = None

    def before_train(self, runner):
        self.before = copy.deepcopy(runner.model.state_dict())

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.gradient is None:
            self.gradient = {
                name: self.before[name] - p.detach() for name, p in runner.model.named_parameters()
            }


def cosine(a, b):
    flat = [torch.cat([g[name].flatten() for name in b]) for g in (a, b)]
    return torch.nn.functional.cosine_similarity(*flat, dim=0).item()


def test_auto_execution_changes_nothing_and_is_kept(supernet_cfg, tmp_path):
    class Random(Hook):
        """Draws from every generator when the first iteration has begun."""

        priority = 'LOWEST'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 0:
                buffers = torch.cat([b.double().flatten() for b in runner.model.buffers()])
                assert all(p.grad is None for p in runner.model.parameters())
                self.seen = torch.rand(3).tolist() + [buffers.sum().item()]

    def train(name, execution, **options):
        runner = build(
            supernet_cfg, tmp_path / name, dict(execution=execution), max_epochs=2, **options
        )
        runner.register_hook(random := Random())
        runner.train()
        hook = next(h for h in runner.hooks if type(h).__name__ == 'SupernetHook')
        return runner.model.state_dict(), getattr(random, 'seen', None), hook

    weights, seen, hook = train('auto', 'auto')
    chosen = hook.execution
    assert chosen in ('sliced', 'masked')
    named, seen_without, other = train('named', chosen)
    assert seen == seen_without
    assert all(torch.equal(weights[key], named[key]) for key in weights)
    assert hook.record.state_dict()['loss'].tolist() == other.record.state_dict()['loss'].tolist()

    checkpoint = tmp_path / 'auto/epoch_1.pth'
    state = torch.load(checkpoint, weights_only=False)
    assert supernet_state(state)['execution'] == chosen
    kept = {'sliced': 'masked', 'masked': 'sliced'}[chosen]
    supernet_state(state)['execution'] = kept
    torch.save(state, checkpoint)
    (tmp_path / 'auto/last_checkpoint').write_text(str(checkpoint))
    assert train('auto', 'auto', resume=True)[2].execution == kept


@pytest.mark.parametrize('full', [('sliced',), ('masked',), ('sliced', 'masked')])
def test_auto_execution_takes_what_fits_into_memory(supernet_cfg, tmp_path, full):
    runner = build(supernet_cfg, tmp_path, dict(execution='auto'), log_level='INFO')
    hook = next(h for h in runner.hooks if type(h).__name__ == 'SupernetHook')

    def limited(module, args):
        if hasattr(hook, 'supernet') and hook.supernet.execution in full:
            raise torch.OutOfMemoryError('CUDA out of memory')

    runner.model.backbone.register_forward_pre_hook(limited)
    if len(full) == 2:
        with pytest.raises(MemoryError, match='32 images does not fit .* smaller train_dataloader'):
            runner.train()
        return
    runner.train()
    assert {hook.execution, *full} == {'sliced', 'masked'}
    assert f'{full[0]} out of memory' in log_of(runner)


def test_subnets_with_too_few_images_for_a_batchnorm_are_told_so(supernet_cfg, tmp_path):
    supernet_cfg.train_dataloader.batch_size = 4
    runner = build(supernet_cfg, tmp_path, dict(execution='auto'))
    hook = next(h for h in runner.hooks if type(h).__name__ == 'SupernetHook')
    pooled = torch.nn.BatchNorm2d(3)  # as a PSPNet has, of its pooled images

    def normalise(module, args):
        if module.training and hasattr(hook, 'execution'):
            pooled(args[0][:1].mean((2, 3), keepdim=True))

    runner.model.backbone.register_forward_pre_hook(normalise)
    with pytest.raises(UserError, match='4 subnets share a batch of 4 images, too few'):
        runner.train()


def test_auto_execution_with_gradient_checkpointing_is_masked(supernet_cfg, tmp_path):
    supernet_cfg.model.backbone.with_cp = True
    runner = build(supernet_cfg, tmp_path, dict(execution='auto'))
    runner.train()
    hook = next(h for h in runner.hooks if type(h).__name__ == 'SupernetHook')
    assert hook.execution == 'masked'
    assert hook.supernet.active_subnets == ()


def test_speed_is_logged(supernet_cfg, tmp_path):
    runner = build(
        supernet_cfg,
        tmp_path,
        dict(serial=True),
        optim_wrapper=dict(accumulative_counts=4),
    )
    runner.train()
    hub = runner.message_hub
    seconds = hub.get_scalar('train/time').current()
    assert hub.get_scalar('train/images_per_s').current() == pytest.approx(32 / seconds)
    assert hub.get_scalar('train/subnet_images_per_s').current() == pytest.approx(128 / seconds)
    written = (tmp_path / runner.timestamp / 'vis_data/scalars.json').read_text()
    for name in ('loss_fullnet', 'loss_tinynet', 'loss_sampled', 'subnet_images_per_s'):
        assert f'"{name}"' in written
