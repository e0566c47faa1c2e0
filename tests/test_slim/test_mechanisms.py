"""Small networks, each with one way in which channels meet; see ``mmpse.testing.SlimTester``."""

import torch
import torch.nn.functional as F
from torch import nn

from mmpse.testing import SlimTester

IMAGE = (3, 16, 16)


def conv(inputs, outputs, kernel=3, **kwargs):
    """Convolution, BatchNorm, ReLU; no bias."""
    kwargs = dict(padding=kernel // 2, bias=False) | kwargs
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, **kwargs), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Toy(nn.Module):
    """Modules by name, and a function of them and the image."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


class ToyTester(SlimTester):
    image = IMAGE


class TestChain(ToyTester):
    units = {'0.0': 12, '1.0': 10}

    def build(self):
        return nn.Sequential(conv(3, 12), conv(12, 10, stride=2), nn.Conv2d(10, 4, 1))


def residual(m, x):
    x = m.stem(x)
    x = F.relu(x + m.b(m.a(x)))
    return m.head(F.relu(m.short(x) + m.c(x)))


class TestResidualSum(ToyTester):
    units = {'stem.0': 12, 'a.0': 8, 'short.0': 16}

    def build(self):
        plain = conv(12, 16)[:2]
        return Toy(
            residual,
            stem=conv(3, 12),
            a=conv(12, 8),
            b=conv(8, 12)[:2],
            short=conv(12, 16, 1),
            c=plain,
            head=nn.Conv2d(16, 4, 1),
        )


def joined(m, x):
    a = m.a(x)
    return m.head(torch.cat([a, m.b(a), m.c(x)], 1))


class TestConcat(ToyTester):
    units = {'a.0': 12, 'b.0': 10, 'c.0': 7}

    def build(self):
        return Toy(joined, a=conv(3, 12), b=conv(12, 10), c=conv(3, 7), head=conv(29, 4)[:1])


def csp(m, x):
    x = m.stem(x)
    y = torch.cat([m.a(x), m.b(x)], 1)
    y = y * m.attention(y.mean((2, 3), keepdim=True)).sigmoid()
    return m.head(y)


class TestJoinedWriters(ToyTester):
    """CSPNeXt's channel attention writes the channels of two layers as one."""

    units = {'stem.0': 12, 'a.0': 8, 'b.0': 6}

    def build(self):
        return Toy(
            csp,
            stem=conv(3, 12),
            a=conv(12, 8),
            b=conv(12, 6),
            attention=nn.Conv2d(14, 14, 1),
            head=nn.Conv2d(14, 4, 1),
        )


class TestFlatten(ToyTester):
    units = {'0.0': 12, '3': 20}

    def build(self):
        return nn.Sequential(
            conv(3, 12),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(12 * 16, 20),
            nn.ReLU(),
            nn.Linear(20, 4),
        )


class TestDepthwise(ToyTester):
    units = {'0.0': 12, '2.0': 10}

    def build(self):
        return nn.Sequential(
            conv(3, 12), conv(12, 12, groups=12), conv(12, 10, 1), nn.Conv2d(10, 4, 1)
        )


class TestDepthwiseMultiplier(ToyTester):
    units = {'0.0': 6}

    def build(self):
        return nn.Sequential(conv(3, 6), conv(6, 12, groups=6), nn.Conv2d(12, 4, 1))


class TestGroupedWithBlock(ToyTester):
    units = {'0.0': 24}

    def build(self):
        return nn.Sequential(conv(3, 24), conv(24, 24, groups=6), nn.Conv2d(24, 4, 1))


class TestGroupNorm(ToyTester):
    """Whole groups go."""

    units = {'0': 24, '3': 16}

    def build(self):
        return nn.Sequential(
            nn.Conv2d(3, 24, 3),
            nn.GroupNorm(6, 24),
            nn.ReLU(),
            nn.Conv2d(24, 16, 3),
            nn.GroupNorm(8, 16),
            nn.SiLU(),
            nn.Conv2d(16, 4, 1),
        )


def normed_together(m, x):
    return m.head(m.norm(torch.cat([m.a(x), m.b(x)], 1)))


class TestGroupNormOfJoined(ToyTester):
    """The groups of a joined input lie within one writer each."""

    units = {'a.0': 24, 'b.0': 16}

    def build(self):
        return Toy(
            normed_together,
            a=conv(3, 24),
            b=conv(3, 16),
            norm=nn.GroupNorm(10, 40),
            head=nn.Conv2d(40, 4, 1),
        )


class TestPReLU(ToyTester):
    units = {'0.0': 12}

    def build(self):
        return nn.Sequential(conv(3, 12)[:2], nn.PReLU(12), nn.Conv2d(12, 4, 1))


def excite(m, x):
    x = m.stem(x)
    return m.head(x * m.up(F.relu(m.down(x.mean((2, 3), keepdim=True)))).sigmoid())


class TestSqueezeExcite(ToyTester):
    units = {'stem.0': 16, 'down': 6}

    def build(self):
        return Toy(
            excite,
            stem=conv(3, 16),
            down=nn.Conv2d(16, 6, 1),
            up=nn.Conv2d(6, 16, 1),
            head=nn.Conv2d(16, 4, 1),
        )


class TestTransposed(ToyTester):
    units = {'0.0': 12, '1': 10}

    def build(self):
        return nn.Sequential(
            conv(3, 12),
            nn.ConvTranspose2d(12, 10, 2, stride=2),
            nn.BatchNorm2d(10),
            nn.ReLU(),
            nn.Conv2d(10, 4, 1),
        )


def pyramid(m, x):
    x = m.stem(x)
    levels = [m.one(x), m.two(F.max_pool2d(x, 2))]
    return [m.out(m.shared(level)) for level in levels]


class TestSharedLayers(ToyTester):
    """A head that is shared by levels joins their channels."""

    units = {'stem.0': 12, 'one': 10, 'shared.0': 8}

    def build(self):
        return Toy(
            pyramid,
            stem=conv(3, 12),
            one=nn.Conv2d(12, 10, 1),
            two=nn.Conv2d(12, 10, 1),
            shared=conv(10, 8),
            out=nn.Conv2d(8, 4, 1),
        )


def chunked(m, x):
    a, b = m.stem(x).chunk(2, 1)
    return m.head(m.after(a * b.sigmoid()))


class TestChunk(ToyTester):
    """Halves of one output that meet: its layer stays, the next one goes."""

    units = {'after.0': 10}
    fixed = {'stem.0': ''}

    def build(self):
        return Toy(chunked, stem=conv(3, 12), after=conv(6, 10), head=nn.Conv2d(10, 4, 1))


def split(m, x):
    a, b = m.stem(x).split([5, 7], 1)
    return m.head(torch.cat([m.one(a), m.two(b)], 1))


class TestSplit(ToyTester):
    """Each piece goes its own way; what splits does not know of cut pieces."""

    units = {'one.0': 10, 'two.0': 8}
    fixed = {'stem.0': 'part of its channels'}

    def build(self):
        return Toy(split, stem=conv(3, 12), one=conv(5, 10), two=conv(7, 8), head=conv(18, 4)[:1])


def pieces_joined(m, x):
    a, b = m.stem(x).split(6, 1)
    return m.head(m.after(torch.cat([a, b + m.next(a)], 1)))


class TestPiecesThatAreJoined(ToyTester):
    """As in Res2Net."""

    units = {'after.0': 10}
    fixed = {'stem.0': 'part of its channels', 'next.0': 'joined with stem.0'}

    def build(self):
        layers = dict(next=conv(6, 6), after=conv(12, 10), head=nn.Conv2d(10, 4, 1))
        return Toy(pieces_joined, stem=conv(3, 12), **layers)


def shuffled(m, x):
    x = m.stem(x)
    x = x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    return m.head(m.after(x))


class TestShuffle(ToyTester):
    units = {'after.0': 10}
    fixed = {'stem.0': 'shuffled'}

    def build(self):
        return Toy(shuffled, stem=conv(3, 12), after=conv(12, 10), head=nn.Conv2d(10, 4, 1))


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x):
        return x * self.gamma


class TestLayerScale(ToyTester):
    """A loose parameter of a layer's width."""

    units = {'2.0': 10}
    fixed = {'0.0': '1.gamma'}

    def build(self):
        return nn.Sequential(conv(3, 12), Scale(12), conv(12, 10), nn.Conv2d(10, 4, 1))


def tokens(m, x):
    x = m.stem(x).flatten(2).transpose(1, 2)
    return m.head(m.fc2(F.gelu(m.fc1(m.norm(x)))))


class TestLayerNorm(ToyTester):
    """LayerNorm mixes channels; the MLP behind it goes."""

    units = {'fc1': 16, 'fc2': 10}
    fixed = {'stem.0': ''}

    def build(self):
        return Toy(
            tokens,
            stem=conv(3, 12),
            norm=nn.LayerNorm(12),
            fc1=nn.Linear(12, 16),
            fc2=nn.Linear(16, 10),
            head=nn.Linear(10, 4),
        )


def normed_and_not(m, x):
    x = m.stem(x).flatten(2).transpose(1, 2)
    return m.head(F.gelu(m.c(m.norm(m.a(x)) + m.b(x))))


class TestSumWithNormed(ToyTester):
    """What meets mixed channels cannot be cut, either."""

    units = {'stem.0': 12, 'c': 10}
    fixed = {'a': 'LayerNorm', 'b': 'joined with a'}

    def build(self):
        layers = dict(a=nn.Linear(12, 16), b=nn.Linear(12, 16), c=nn.Linear(16, 10))
        return Toy(
            normed_and_not,
            stem=conv(3, 12),
            norm=nn.LayerNorm(16),
            head=nn.Linear(10, 4),
            **layers,
        )


def tokens_first(m, x):
    x = m.stem(x)
    x = m.fc2(F.relu(m.fc1(m.after(x).flatten(2).permute(2, 0, 1))))
    return x.transpose(0, 1)


class TestTokensFirst(ToyTester):
    """Images are told apart where they are not the first dimension."""

    units = {'stem.0': 12, 'after.0': 10, 'fc1': 8}
    executions = ['sliced']

    def build(self):
        return Toy(
            tokens_first,
            stem=conv(3, 12),
            after=conv(12, 10),
            fc1=nn.Linear(10, 8),
            fc2=nn.Linear(8, 4),
        )


def counting(m, x):
    x = m.after(m.stem(x))
    return m.head(x.flatten(2).view(len(x), 10, *x.shape[2:]))


class TestWidthInCode(ToyTester):
    """The forward has a width as a number of its own."""

    units = {'stem.0': 12}
    fixed = {'after.0': 'fails behind after.1 if it is narrower'}

    def build(self):
        return Toy(counting, stem=conv(3, 12), after=conv(12, 10), head=conv(10, 4)[:1])


def spatial(m, x):
    x = m.stem(x)
    return m.head(x * m.where(x).sigmoid())


class TestSpatialAttention(ToyTester):
    units = {'stem.0': 12}
    fixed = {'where': 'one channel'}

    def build(self):
        return Toy(
            spatial, stem=conv(3, 12), where=nn.Conv2d(12, 1, 3, padding=1), head=conv(12, 4)[:1]
        )


def dense(m, x):
    x = [m.stem(x)]
    for block in m.blocks:
        x.append(block(torch.cat(x, 1)))
    return m.head(torch.cat(x, 1))


def before(inputs, outputs):
    """BatchNorm, ReLU, convolution."""
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 3, 1, 1))


class TestDense(ToyTester):
    units = {'stem': 8, 'blocks.0.2': 6, 'blocks.1.2': 6, 'blocks.2.2': 6}

    def build(self):
        blocks = nn.ModuleList([before(8, 6), before(14, 6), before(20, 6)])
        return Toy(dense, stem=nn.Conv2d(3, 8, 3), blocks=blocks, head=before(26, 4))


class TestActivationThatKeepsNoZeros(ToyTester):
    units = {'0.0': 12, '2.0': 10}

    def build(self):
        return nn.Sequential(
            conv(3, 12)[:2], nn.Hardsigmoid(), conv(12, 10)[:2], nn.Sigmoid(), nn.Conv2d(10, 4, 1)
        )


class TestConvWithoutNorm(ToyTester):
    units = {'0': 12, '2': 10}

    def build(self):
        return nn.Sequential(
            nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 10, 3), nn.ELU(), nn.Conv2d(10, 4, 1)
        )


class TestChannelsLast(TestResidualSum):
    def build(self):
        return super().build().to(memory_format=torch.channels_last)


class Named(nn.Sequential):
    """Modules one after the other, of any names."""

    def __init__(self, modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class TestNamesOfSigns(ToyTester):
    """Signs that a layout's text uses, in names."""

    units = {'a + b.0': 24, 'c > d.0': 20, 'e*2.0': 16, '#3.0': 12, 'f:1-2 %2A.0': 12}

    def build(self):
        widths = [3, *self.units.values()]
        names = [name.rpartition('.')[0] for name in self.units]
        blocks = {n: conv(*row) for n, *row in zip(names, widths, widths[1:])}
        return Named({**blocks, 'head': nn.Conv2d(12, 4, 1)})


class StandardisedConv(nn.Conv2d):
    """Weight standardisation."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return self._conv_forward(x, weight, self.bias)


class CosineLinear(nn.Linear):
    def forward(self, x):
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight))


class TestLayersThatNormaliseWeights(ToyTester):
    units = {'0': 12, '3': 20}

    def build(self):
        return nn.Sequential(
            nn.Conv2d(3, 12, 3),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            StandardisedConv(12, 20, 3),
            nn.BatchNorm2d(20),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            CosineLinear(20, 4, bias=False),
        )


class TestLayersThatNormaliseWeightsInChannelsLast(TestLayersThatNormaliseWeights):
    def build(self):
        return super().build().to(memory_format=torch.channels_last)


class NormAndActivation(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).sigmoid()


class TestNormThatDoesMore(ToyTester):
    units = {'0': 12, '2': 10}

    def build(self):
        return nn.Sequential(
            nn.Conv2d(3, 12, 3),
            NormAndActivation(12),
            nn.Conv2d(12, 10, 3),
            NormAndActivation(10),
            nn.Conv2d(10, 4, 1),
        )


def sequence(m, x):
    x = m.norm(m.stem(x).flatten(2)).relu()  # (images, channels, pixels)
    return m.head(x.mean(2))


class TestNormOfSequences(ToyTester):
    units = {'stem': 16}

    def build(self):
        return Toy(
            sequence, stem=nn.Conv2d(3, 16, 3), norm=nn.BatchNorm1d(16), head=nn.Linear(16, 4)
        )


class Recurrent(nn.Module):
    """A layer that reads what it wrote."""

    def __init__(self):
        super().__init__()
        self.stem, self.step, self.head = conv(3, 12), conv(12, 12), nn.Conv2d(12, 4, 1)

    def forward(self, x):
        x = self.stem(x.sub_(0.1))  # in place, as some preprocessing does
        for _ in range(3):
            x = self.step(x)
        return self.head(x)


class TestRecurrence(ToyTester):
    units = {'stem.0': 12}

    def build(self):
        return Recurrent()

    def run(self, model, images):
        return model(images.clone())
