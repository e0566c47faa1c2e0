"""What a model loses with one unit cut, measured with and without reuse."""

import itertools

import pytest
import torch
from mmengine.registry import DefaultScope
from tiny_tasks import write_task
from torch import nn

from mmpse.openmmlab.configs.datasets import all_training
from mmpse.openmmlab.models.losses import (
    batch_losses,
    preprocessed,
    training_batches,
)
from mmpse.openmmlab.models.outputs import raw_outputs
from mmpse.openmmlab.pruning.choosing import measure_sensitivity
from mmpse.openmmlab.pruning.steps import PruneError
from mmpse.openmmlab.pruning.subject import examine
from mmpse.slim import Reconstruction, as_subnet
from mmpse.slim.reuse import noted_outputs, reused_outputs


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_reuse_changes_no_loss(task, digits, tmp_path):
    subject = examine(*write_task(task, digits, tmp_path))
    model, layout, space = subject.model, subject.layout, subject.space
    loader = dict(all_training(subject.cfg), batch_size=2)
    batches = preprocessed(model, training_batches(loader, 16, subject.scope))[:2]
    with DefaultScope.overwrite_default_scope(subject.scope):
        images = torch.cat([batch['inputs'] for batch in batches])
        reconstruction = Reconstruction(model, layout, images, raw_outputs)
        found = measure_sensitivity(reconstruction, space, batches)
        assert set(found) == set(space.names)
        for unit, row in list(found.items())[::3]:
            for width, loss in row.items():
                plain = []
                for batch in batches:
                    whole, widths = batch_losses(model, [batch]), {**space.fullnet, unit: width}
                    with reconstruction.absorbed(widths), as_subnet(model, layout, widths):
                        plain.append(float(batch_losses(model, [batch]) - whole))
                assert loss == sum(plain) / len(batches), unit


def test_a_loss_that_is_not_finite_tells_nothing(digits, tmp_path, monkeypatch):
    """As a mean over no pixels."""
    from mmpse.openmmlab.pruning import choosing

    subject = examine(*write_task('classification', digits, tmp_path))
    model, space = subject.model, subject.space
    loader = dict(all_training(subject.cfg), batch_size=2)
    batches = preprocessed(model, training_batches(loader, 16, subject.scope))[:2]
    number, bad = itertools.count(), set()

    def losses(model, some):
        (loss,) = batch_losses(model, some)
        return torch.tensor([torch.nan if next(number) in bad else loss])

    monkeypatch.setattr(choosing, 'batch_losses', losses)
    images = torch.cat([batch['inputs'] for batch in batches])
    reconstruction = Reconstruction(model, subject.layout, images, raw_outputs)
    with DefaultScope.overwrite_default_scope(subject.scope):
        expected = measure_sensitivity(reconstruction, space, batches[1:])
        each = next(number)  # losses of a batch: the full model's, and one of every cut
        # of the first batch the full model's is missing, of the second that of the first cut
        bad.update([each + 1, 2 * each + 2])
        found = measure_sensitivity(reconstruction, space, batches)
        unit = space.names[0]
        del expected[unit][min(expected[unit])]
        assert found == expected
        bad.update(range(100 * each))
        with pytest.raises(PruneError, match='no loss of ImageClassifier on training images'):
            measure_sensitivity(reconstruction, space, batches)


class Conv(nn.Conv2d):
    runs = 0

    def _conv_forward(self, *args):
        self.runs += 1
        return super()._conv_forward(*args)


class Block(nn.Module):
    """Writes into what its first layer put out."""

    def __init__(self):
        super().__init__()
        self.first = Conv(4, 4, 1)
        self.second = Conv(4, 4, 1)

    def forward(self, x):
        y, z = self.first(x), self.second(x)
        y += 1
        return [y, z]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = Conv(3, 4, 1)
        self.block = Block()

    def forward(self, x):
        outputs = self.block(self.stem(x))
        outputs.append(outputs[0] + outputs[1])  # to the block's own list
        return torch.stack(outputs)


@torch.no_grad()
@pytest.mark.parametrize(
    'changed, run',
    [
        (None, []),
        ('block.second', ['block.first', 'block.second']),
        ('block.first', ['block.first']),
        ('stem', ['stem', 'block.first', 'block.second']),
    ],
)
def test_what_is_written_into_later_is_run_again(changed, run):
    torch.manual_seed(0)
    model, x = Model(), torch.randn(1, 3, 2, 2)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Conv)}
    with noted_outputs(model) as notes:
        model(x)
    if changed:
        layers[changed].weight *= 2
    plain = model(x)
    for _ in range(2):
        for layer in layers.values():
            layer.runs = 0
        with reused_outputs(model, notes, [layers[changed]] if changed else []):
            assert torch.equal(model(x), plain)
        assert [name for name, layer in layers.items() if layer.runs] == run
    assert 'forward' not in vars(model.stem)
