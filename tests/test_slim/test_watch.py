"""What watching sees of modules without weights, and of attention."""

import pytest
import torch
from mmcv.cnn.bricks import ConvAWS2d
from torch import nn

from mmpse.errors import UserError
from mmpse.slim import find_units
from mmpse.slim.cutting import cut_
from mmpse.testing import SlimTester


class Pool(nn.Module):
    """Without weights, and it counts its channels: as what pools regions."""

    def __init__(self):
        super().__init__()
        self.out_channels = 16

    def forward(self, x):
        out = x.new_zeros(len(x), self.out_channels, 1, 1)
        out[:] = x.mean((2, 3), keepdim=True)
        return out


class Stages(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)
        self.pools = nn.ModuleList([Pool(), Pool()])

    def forward(self, x):
        pools = self.pools if self.training else self.pools[1:]
        return [self.fc(pool(self.conv(x))) for pool in pools]


def test_what_counts_channels_in_training_alone_is_cut_as_what_is_beside_it():
    model = Stages()
    layout = find_units(model, torch.zeros(1, 3, 8, 8))
    cut_(model, layout, dict(conv=6))
    assert [pool.out_channels for pool in model.pools] == [6, 6]
    assert len(model.train()(torch.zeros(2, 3, 8, 8))) == 2


@pytest.mark.parametrize('batch_first', [True, False])
def test_attention_mixes_and_computes_nothing(batch_first, monkeypatch):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.hidden = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 32)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
            self.out = nn.Linear(32, 5)

        def forward(self, x):
            x = self.conv(x).flatten(2)
            x = x.transpose(1, 2) if batch_first else x.permute(2, 0, 1)
            x, _ = self.attention(x, x, x)
            return self.out(self.hidden(x))

    def computed(*_, **__):
        raise AssertionError('attention was computed')

    monkeypatch.setattr(nn.functional, 'multi_head_attention_forward', computed)
    layout = find_units(Attends(), torch.zeros(1, 3, 8, 8))
    assert list(layout.units) == ['hidden']
    assert layout.fixed['conv'] == 'its channels are mixed before hidden'


class TestWeightsWithBuffersOfOutputs(SlimTester):
    """Standardised weights, scaled by a buffer ``(outputs, 1, 1, 1)``."""

    image = (3, 8, 8)
    units = {'0': 12, '1': 10}
    counted = False

    def build(self):
        return nn.Sequential(ConvAWS2d(3, 12, 3), ConvAWS2d(12, 10, 3), nn.Conv2d(10, 4, 1))


class Squeezing(nn.Module):
    """A backbone as LeNet's."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)).squeeze())


def test_a_part_that_drops_the_dimension_of_a_single_image():
    model = nn.Sequential(Squeezing(), nn.Identity())
    with pytest.raises(UserError, match='^0 drops the dimension of a single image'):
        find_units(model, torch.zeros(1, 3, 8, 8), parts=['0'])
