import pytest
import torch
from torch import nn

from mmpse.slim import foldable, folded
from mmpse.testing import randomize_


class Net(nn.Module):
    """A convolution and a BatchNorm for each way in which they may meet."""

    def __init__(self):
        super().__init__()
        names = 'plain biased twice skipped two shared doubled'.split()
        self.convs = nn.ModuleDict({n: nn.Conv2d(4, 4, 3, bias=n == 'biased') for n in names})
        self.norms = nn.ModuleDict({n: nn.BatchNorm2d(4) for n in (*names, 'other')})

    def forward(self, x):
        conv, norm = self.convs, self.norms
        apart = norm['plain'](conv['plain'](x)) + norm['biased'](conv['biased'](x))
        for k in (1, 2):  # one layer on several inputs, as heads have
            apart = apart + norm['twice'](conv['twice'](x * k))
        y = conv['skipped'](x)
        apart = apart + norm['skipped'](y) + y.view_as(y)  # something else reads it, too
        y = conv['two'](x)
        apart = apart + norm['two'](y) + norm['other'](y)
        apart = apart + norm['shared'](conv['shared'](x)) + norm['shared'](apart)
        return apart + norm['doubled'](conv['doubled'](x) * 2)


@pytest.fixture
def net():
    return randomize_(Net()).eval()


@pytest.mark.parametrize('training', [False, True])
@torch.no_grad()
def test_a_convolution_is_folded_if_its_outputs_go_to_one_batchnorm_alone(net, training):
    for norm in net.norms.values():
        norm.train(training)  # as in a recalibration
    x = torch.randn(2, 4, 8, 8)
    found = foldable(net, lambda: net(x))
    wanted = 'plain biased twice'.split()
    assert found == [(net.convs[name], net.norms[name]) for name in wanted]


@torch.no_grad()
def test_outputs_are_the_same_and_the_model_is_as_it_was(net):
    x = torch.randn(2, 4, 8, 8)
    expected, state = net(x), {k: v.clone() for k, v in net.state_dict().items()}
    pairs = foldable(net, lambda: net(x))
    with pytest.raises(KeyboardInterrupt), folded(pairs):
        assert all(norm(x) is x for _, norm in pairs)  # what they did is done before
        torch.testing.assert_close(net(x), expected)
        raise KeyboardInterrupt
    assert torch.equal(net(x), expected)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


class Standardised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), True), self.bias)


class Activated(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize(
    'layers',
    [
        (Standardised(4, 4, 3), nn.BatchNorm2d(4)),
        (nn.utils.spectral_norm(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4)),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4)),
        (nn.Conv2d(4, 4, 3), Activated(4)),
        (nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        (nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4)),
    ],
    ids=lambda layers: ' '.join(type(layer).__name__ for layer in layers),
)
@torch.no_grad()
def test_other_layers_are_left_alone(layers):
    net = nn.Sequential(*layers).eval()
    assert foldable(net, lambda: net(torch.randn(2, 4, 8, 8))) == []
