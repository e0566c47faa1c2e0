"""What must hold for every slimmable backbone. The test of a family is a subclass of a few lines::

    class TestMyNet(BackboneTester):
        backbone, stock = SlimmableMyNet, MyNet
        sizes = {'18': dict(depth=18), '50': dict(depth=50, out_indices=(1, 3))}
        frozen = dict(frozen_stages=2, grids={'layer1*': dict(ratios=[1.0])})

The central invariant: many subnets in one pass = each alone as a static network.
"""

import pytest
import torch
from mmengine.analysis import FlopAnalyzer, parameter_count
from torch import nn

from mmpse.models import backbone_costs
from mmpse.space import SpreadSampler


class BackboneTester:
    """Base of the families' tests.

    Attributes:
        backbone: The slimmable backbone.
        stock: The class that it makes slimmable.
        sizes: Name -> arguments of both.
        slow: Names of sizes that are left to the slow tests.
        frozen: Arguments that freeze weights and keep some units at full width.
        checkpointing: Whether it has mmpretrain's argument ``with_cp``.
        layouts: Memory layouts that the stock class can run in.
        subnets: Random subnets whose costs are compared, shared by the sizes that are not slow.
        image: Side of the test images.
    """

    backbone: type
    stock: type
    sizes: dict[str, dict]
    slow: tuple[str, ...] = ()
    frozen: dict
    checkpointing = True
    layouts = (torch.contiguous_format, torch.channels_last)
    subnets = 50
    image = 64

    def pytest_generate_tests(self, metafunc):
        if 'arguments' in metafunc.fixturenames:
            sizes = [
                pytest.param(arguments, id=name, marks=[pytest.mark.slow] * (name in self.slow))
                for name, arguments in self.sizes.items()
            ]
            metafunc.parametrize('arguments', sizes)
        if 'layout' in metafunc.fixturenames:
            metafunc.parametrize('layout', self.layouts, ids=lambda x: str(x).rpartition('.')[2])

    def test_fullnet_is_the_stock_network_bit_for_bit(self, arguments):
        stock = without_dropout(self.stock(**arguments))
        ours = without_dropout(self.backbone(**arguments))
        x = torch.randn(2, 3, self.image, self.image)
        randomize_norms(stock, x)
        assert list(ours.state_dict()) == list(stock.state_dict())
        ours.load_state_dict(stock.state_dict())
        for training in (False, True):
            results = []
            for network in (stock, ours):
                network.train(training)
                features, gradients = features_and_gradients(network, x)
                results.append([*features, *gradients.values(), *network.state_dict().values()])
            for a, b in zip(*results, strict=True):
                assert torch.equal(a, b)

    def test_masked_pass_is_sliced_pass_is_static_subnets(self, arguments, rng):
        self.check_parallel_pass(arguments, torch.contiguous_format, rng)

    def test_subnets_are_the_same_in_eval_mode(self, arguments, rng):
        supernet = self.backbone(**arguments).double()
        x = torch.randn(2, 3, self.image, self.image, dtype=torch.double)
        randomize_norms(supernet, x)
        (subnet,) = draw(supernet, rng, 1)
        static = self.backbone(subnet=subnet, **arguments).double()
        static.load_state_dict(supernet.state_dict())
        supernet.eval()
        static.eval()
        for execution in ('masked', 'sliced'):
            with torch.no_grad(), supernet.active([subnet], execution):
                for full, small in zip(supernet(x), static(x), strict=True):
                    assert_close(full[:, : small.shape[1]], small)

    def test_frozen_parts(self, layout, rng):
        arguments = {**next(iter(self.sizes.values())), **self.frozen}
        backbone = self.check_parallel_pass(arguments, layout, rng)
        assert any(not p.requires_grad for p in backbone.parameters())
        space = backbone.search_space
        free = type(backbone)(**{**arguments, 'grids': None}).search_space
        kept = [unit.name for unit in space.units if len(unit.candidates) == 1]
        assert kept and len(kept) < len(space) and len(free) == len(space)
        assert any(len(u.candidates) > 1 for u in free.units if u.name in kept)
        self.check_costs(arguments, rng, 1)

    def check_parallel_pass(self, arguments, layout, rng):
        """Features and gradients (float64) of one pass, masked or sliced, and of static subnets."""
        backbone = without_dropout(self.backbone(**arguments)).double().to(memory_format=layout)
        x = torch.randn(8, 3, self.image, self.image, dtype=torch.double).to(memory_format=layout)
        randomize_norms(backbone, x)
        backbone.train()
        space = backbone.search_space
        subnets = [space.fullnet, space.tinynet, *draw(backbone, rng, 2)]

        with backbone.active(subnets, 'masked'):
            features, gradients = features_and_gradients(backbone, x)
        with backbone.active(subnets, 'sliced'):
            sliced_features, sliced_gradients = features_and_gradients(backbone, x)
        for a, b in zip(features, sliced_features, strict=True):
            assert_close(a, b)
        assert_gradients_close(sliced_gradients, gradients)

        # n separately built static networks, each on its own images
        projections = projection_of(features)
        summed = {name: torch.zeros_like(g) for name, g in gradients.items()}
        for g, subnet in enumerate(subnets):
            static = without_dropout(self.backbone(subnet=subnet, **arguments)).double()
            static.load_state_dict(backbone.state_dict())
            static.train()
            loss = 0
            for f, full, w in zip(static(x[g::4]), features, projections, strict=True):
                assert_close(full[g::4, : f.shape[1]], f)
                assert full[g::4, f.shape[1] :].abs().sum() == 0
                loss = loss + (f * w[g::4, : f.shape[1]]).sum()
            loss.backward()
            for name, p in static.named_parameters():
                if p.grad is not None:
                    summed[name][tuple(slice(0, size) for size in p.shape)] += p.grad
        assert_gradients_close(gradients, summed)
        return backbone

    def test_costs_equal_mmengine_on_the_static_subnet(self, arguments, rng):
        self.check_costs(arguments, rng, -(-self.subnets // (len(self.sizes) - len(self.slow))))

    def check_costs(self, arguments, rng, count):
        supernet = self.backbone(**arguments)
        image = (3, self.image, self.image)
        costs = backbone_costs(supernet, image)
        space = supernet.search_space
        for subnet in [space.fullnet, space.tinynet, *draw(supernet, rng, count)]:
            static = self.backbone(subnet=subnet, **arguments)
            static.eval()
            counter = FlopAnalyzer(static, torch.zeros(1, *image))
            counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            row = space.array([subnet])
            assert costs['flops'](row)[0] == counter.total()
            assert costs['params'](row)[0] == parameter_count(static)['']

    def test_static_subnet_says_its_real_widths(self, arguments, rng):
        (subnet,) = draw(self.backbone(**arguments), rng, 1)
        static = self.backbone(subnet=subnet, **arguments)
        features = static(torch.randn(2, 3, self.image, self.image))
        assert static.out_channels == tuple(f.shape[1] for f in features)
        for module in static.modules():  # no number is left from the full network
            if isinstance(module, nn.Conv2d):
                assert module.weight.shape[0] == module.out_channels
                assert module.weight.shape[1] * module.groups == module.in_channels
                assert type(module) is nn.Conv2d
            if isinstance(module, nn.Linear):
                assert module.weight.shape == (module.out_features, module.in_features)
                assert type(module) is nn.Linear
            if type(module).__name__ == 'ConvModule':
                assert module.out_channels == module.conv.out_channels
                assert module.groups == module.conv.groups

    def test_stock_arguments_mean_the_same(self, rng):
        """``frozen_stages`` and ``norm_eval`` freeze what they do in the stock class."""
        size = next(iter(self.sizes.values()))
        plain = {**size, **self.frozen}
        grids = plain.pop('grids')
        (subnet,) = draw(self.backbone(**size, grids=grids), rng, 1)
        for arguments in (plain, {**plain, 'norm_eval': True}):
            modes = []
            for network in (
                self.stock(**arguments),
                self.backbone(**arguments, grids=grids),
                self.backbone(**arguments, subnet=subnet),
            ):
                network.train()
                frozen = [n for n, p in network.named_parameters() if not p.requires_grad]
                norms = [n for n, m in network.named_modules() if is_norm(m) and not m.training]
                modes.append((frozen, norms))
            assert modes[0] == modes[1] == modes[2] and modes[0][0]

    def test_gradient_checkpointing(self, rng):
        """``with_cp`` changes no gradient of a static subnet or of a masked pass."""
        if not self.checkpointing:
            pytest.skip(f'{self.stock.__name__} has no argument with_cp')
        size = next(iter(self.sizes.values()))
        plain, saving = (self.backbone(**size, with_cp=cp).double() for cp in (False, True))
        saving.load_state_dict(plain.state_dict())
        subnets = draw(plain, rng, 2)
        x = torch.randn(4, 3, self.image, self.image, dtype=torch.double, requires_grad=True)
        results = []
        for backbone in (plain, saving):
            static = self.backbone(**size, with_cp=backbone.with_cp, subnet=subnets[0]).double()
            static.load_state_dict(backbone.state_dict())
            for network in (backbone, static):
                network.train()
            with backbone.active(subnets, 'masked'):
                results.append(features_and_gradients(backbone, x)[1])
            results.append(features_and_gradients(static, x)[1])
        assert_gradients_close(results[2], results[0])
        assert_gradients_close(results[3], results[1])
        with pytest.raises(ValueError, match="with_cp=True .* execution='masked'"):
            saving.activate(subnets, 'sliced')


def draw(backbone, rng, count):
    """Subnets spread over the FLOPs of the backbone's space."""
    space = backbone.search_space
    sampler = SpreadSampler(space, backbone_costs(backbone, (3, 64, 64))['flops'])
    return [space.subnet(row) for row in sampler.sample(rng, count)]


def is_norm(module):
    return isinstance(module, nn.BatchNorm2d)


def randomize_norms(network, x):
    """Scales that no two channels share, and running statistics that are those of ``x``."""
    network.eval()
    norms = [module for module in network.modules() if is_norm(module)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 2)
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        network(x)
    for norm in norms:
        norm.momentum = 0.1


def without_dropout(network):
    """Dropout draws other numbers in another order of the groups."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def projection_of(features):
    generator = torch.Generator(features[0].device).manual_seed(1)
    return [torch.randn(f.shape, generator=generator, dtype=f.dtype) for f in features]


def features_and_gradients(network, x):
    """Features, and gradients of a fixed random projection of them (zeros where there is none)."""
    network.zero_grad()
    features = network(x)
    sum((f * w).sum() for f, w in zip(features, projection_of(features), strict=True)).backward()
    return features, {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in network.named_parameters()
    }


def assert_close(actual, expected, floor=1e-30):
    scale = expected.abs().max().clamp_min(floor)
    assert ((actual - expected).abs().max() / scale).item() < 1e-9


def assert_gradients_close(actual, expected):
    # a shift in front of another normalisation has a zero gradient: only rounding is left of it
    floor = 1e-4 * max(g.abs().max().item() for g in expected.values())
    for name, gradient in expected.items():
        assert_close(actual[name], gradient, floor)
