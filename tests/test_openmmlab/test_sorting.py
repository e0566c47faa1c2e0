"""Sorting a user's model by what its channels do on training images."""

import pytest
import torch
from mmengine.config import Config
from tiny_tasks import write_task

import mmpse
from mmpse.openmmlab.models.losses import preprocessed, training_batches
from mmpse.openmmlab.models.outputs import raw_outputs
from mmpse.openmmlab.models.pruned import look
from mmpse.openmmlab.models.sorting import sort_by
from mmpse.openmmlab.pruning.job import Pruning
from mmpse.slim import IMPORTANCES


@pytest.mark.parametrize('by', IMPORTANCES)
def test_a_detector_predicts_the_same_by_every_importance(by, digits, tmp_path):
    config, checkpoint = write_task('detection', digits, tmp_path)
    cfg, model = Config.fromfile(config), mmpse.build(config, checkpoint)
    batches = preprocessed(model, training_batches(cfg.train_dataloader, 8, cfg.default_scope))
    layout, images = look(model)
    frozen = next(model.parameters()).requires_grad_(False)  # as frozen stages are
    images = torch.randn(images.shape)
    with torch.no_grad():
        before = torch.cat([x.flatten() for level in raw_outputs(model, images) for x in level])
        weights = {key: value.clone() for key, value in model.state_dict().items()}
    sort_by(model, layout, by, batches)
    with torch.no_grad():
        after = torch.cat([x.flatten() for level in raw_outputs(model, images) for x in level])
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert any(not torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert not frozen.requires_grad and all(p.grad is None for p in model.parameters())


def test_a_resumed_pruning_keeps_the_order_that_it_has(digits, tmp_path, monkeypatch):
    """Rounding on another machine could give another one, which the weights do not have."""
    task = write_task('classification', digits, tmp_path)
    settings = dict(flops='50%', how='uniform', finetune=False, out=tmp_path / 'out')
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Pruning, 'choose', lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        mmpse.prune(*task, **settings)
    monkeypatch.setattr('mmpse.openmmlab.pruning.job.sort_by', None)
    result = mmpse.prune(*task, **settings, resume=True)
    whole = torch.load(tmp_path / 'out/steps/sorted.pth', weights_only=False)['state_dict']
    for key, value in result.model.state_dict().items():
        if value.dim() == 4:
            assert torch.equal(value, whole[key][tuple(map(slice, value.shape))])
