"""What must hold for every model: its subnets are the same network however they are run."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from mmengine.analysis import FlopAnalyzer, parameter_count
from torch import Tensor, nn

from mmpse.openmmlab.models.outputs import parts_of, raw_outputs
from mmpse.openmmlab.models.pruned import look
from mmpse.openmmlab.supernet.building import whole_supernet
from mmpse.resources.cost import model_cost
from mmpse.slim import (
    EXECUTIONS,
    Layout,
    Reconstruction,
    Supernet,
    as_subnet,
    cut_,
    find_units,
    foldable,
    folded,
    sample_inputs,
    sort_,
)
from mmpse.slim.cutting import cut_of, layers_in, take
from mmpse.slim.watch import tensors_in
from mmpse.space import Subnet

from .comparing import assert_gradients, difference, gradients, norms_in, randomize_, subnets_of

GROUPS = 4
SHARE = 2  # images of each group


class SlimTester:
    """Base of a model's tests. The test of a model is a subclass of a few lines::

        class TestMyNet(SlimTester):
            units = {'stem.conv': 16, 'block.conv1': 32}

            def build(self):
                return MyNet()

    Everything is compared in double precision, on random weights.

    Attributes:
        units: Name -> width of the units that must be found; ``None``: not compared.
        fixed: Layer -> a piece of the reason why it cannot be pruned, of those that matter.
        image: Shape of an image ``(C, H, W)``; ``None``: the smallest of some usual sizes that the
            model takes.
        divisor: Widths are multiples of it.
        executions: Those of :class:`mmpse.slim.Supernet` that the model can be run in.
        counted: Whether mmengine counts all that the model does, so that costs can be compared.
        costed: Random subnets whose costs are compared, beside the full and the least one.
    """

    units: Mapping[str, int] | None = None
    fixed: Mapping[str, str] = {}
    image: tuple[int, int, int] | None = None
    divisor: int = 1
    executions: Sequence[str] = EXECUTIONS
    counted: bool = True
    costed: int = 2

    def build(self) -> nn.Module:
        """The full model."""
        raise NotImplementedError

    def run(self, model: nn.Module, images: Tensor) -> Any:
        """Everything that the model predicts from, raw."""
        return raw_outputs(model, images)

    def run_deployed(self, model: nn.Module, images: Tensor) -> Any:
        """What of it is needed after training."""
        return raw_outputs(model, images, deployed=True)

    @pytest.fixture(scope='class')
    def case(self, request) -> Case:
        torch.manual_seed(0)
        model = request.cls().build().double()
        randomize_(model)
        model.eval()
        if self.image is None:
            layout, images = look(model)
        else:
            images = torch.zeros(1, *self.image).double()
            layout = find_units(model, images, lambda x: self.run(model, x), parts_of(model))
        return Case(model, layout, tuple(images.shape[1:]), self.divisor)

    def test_units(self, case):
        found = {unit.name: unit.width for unit in case.layout.units.values()}
        if self.units is not None:
            assert found == self.units
        for layer, reason in self.fixed.items():
            assert reason in case.layout.fixed[layer]
        assert found

    def test_layout_survives_as_data(self, case):
        again = Layout.from_dict(case.layout.to_dict())
        assert again.units == case.layout.units and again.layers == case.layout.layers

    def test_sorting_changes_nothing(self, case):
        model = copy.deepcopy(case.model)
        before = self._outputs(model, case.batch)
        order = sort_(model, case.layout)
        assert any((o != torch.arange(len(o))).any() for o in order.values())
        for a, b in zip(before, self._outputs(model, case.batch), strict=True):
            assert difference(a, b) < 1e-9

    @torch.no_grad()
    def test_reconstruction_moves_no_output_away(self, case):
        model, batches = copy.deepcopy(case.model), [case.batch, case.batch.flip(0, -1)]
        sort_(model, case.layout, 'selection', sample_inputs(model, case.layout, batches, self.run))
        wanted = self._outputs(model, case.batch)
        cut = cut_(copy.deepcopy(model), case.layout, case.subnets[-1])

        def missed() -> float:
            pairs = zip(wanted, self._outputs(cut, case.batch), strict=True)
            return sum(float((a - b).norm() / a.norm().clamp(min=1e-9)) for a, b in pairs)

        before = missed()
        Reconstruction(model, case.layout, torch.cat(batches), self.run).fit_(cut, case.subnets[-1])
        after = missed()
        # channels of noise can be predicted no better than by what stays of them
        assert after < max(1.5 * before, 0.01)

    def test_the_fullnet_is_the_stock_model(self, case):
        full, stock = case.space.fullnet, copy.deepcopy(case.model)
        with norms_in(stock, True):
            expected = self._outputs(stock, case.batch, backward=True)
        net = Supernet(copy.deepcopy(case.model), case.layout, case.space)
        cut = cut_(copy.deepcopy(case.model), case.layout, full)
        ways = {name: (net.model, net.active([full], name)) for name in self.executions}
        for name, (model, way) in dict(ways, cut=(cut, nullcontext())).items():
            model.zero_grad()
            with way, norms_in(model, True):
                ours = self._outputs(model, case.batch, backward=True)
            assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True)), name
            assert_gradients(gradients(model), gradients(stock))

    @pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
    def test_in_place_is_static(self, case, training):
        subnet = case.subnets[-1]
        model = copy.deepcopy(case.model)
        with as_subnet(model, case.layout, subnet), norms_in(model, training):
            ours = self._outputs(model, case.batch, backward=True)
        static = cut_(copy.deepcopy(case.model), case.layout, subnet)
        for name, parameter in static.named_parameters():
            assert parameter.shape == case.cut(name, model.get_parameter(name), subnet).shape
        with norms_in(static, training):
            theirs = self._outputs(static, case.batch, backward=True)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)
        assert_gradients(
            {n: case.cut(n, g, subnet) for n, g in gradients(model).items()}, gradients(static)
        )

    @torch.no_grad()
    def test_folded_is_unfolded(self, case):
        model = copy.deepcopy(case.model)
        pairs = foldable(model, lambda: self.run(model, case.batch))
        with as_subnet(model, case.layout, case.subnets[-1]):
            expected = self._outputs(model, case.batch)
            with folded(pairs):
                ours = self._outputs(model, case.batch)
            again = self._outputs(model, case.batch)
        for a, b, c in zip(ours, expected, again, strict=True):
            assert difference(a, b) < 1e-9 and torch.equal(b, c)

    @pytest.mark.parametrize('execution', EXECUTIONS)
    @pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
    def test_many_in_one_pass_are_each_alone(self, case, training, execution):
        if execution not in self.executions:
            pytest.skip(f'this model cannot be run {execution}')
        model = copy.deepcopy(case.model)
        alone = []
        for g, subnet in enumerate(case.subnets):
            with as_subnet(model, case.layout, subnet), norms_in(model, training):
                alone.append(self._outputs(model, case.batch[g::GROUPS], backward=True))
        expected = gradients(model)
        model.zero_grad()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        net = Supernet(model, case.layout, case.space)
        with net.active(case.subnets, execution), norms_in(model, training):
            outputs = self._outputs(model, case.batch, backward=True)
            net.check_ran()
        for g in range(GROUPS):
            for y, lone in zip(outputs, alone[g], strict=True):
                own = y.unflatten(0, (GROUPS * SHARE, -1))[g::GROUPS].flatten(0, 1)
                assert difference(own, lone) < 1e-9
        assert_gradients(gradients(model), expected)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

    def test_costs_are_mmengines(self, case):
        if not self.counted:
            pytest.skip('mmengine does not count all that this model does')
        images = torch.zeros(1, *case.image).double()
        costs = model_cost(
            case.model, case.layout, case.space, images, lambda x: self.run_deployed(case.model, x)
        )
        for subnet in subnets_of(case.space, 2 + self.costed):
            ours = {key: int(cost(case.space.array([subnet]))[0]) for key, cost in costs.items()}
            static = cut_(copy.deepcopy(case.model), case.layout, subnet)
            flops = FlopAnalyzer(Deployed(static, self.run_deployed), images)
            flops.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            assert ours == dict(flops=int(flops.total()), params=parameter_count(static)[''])

    def test_loading(self, case):
        subnet = case.subnets[-1]
        static = cut_(copy.deepcopy(case.model), case.layout, subnet)
        expected = self._outputs(static, case.batch)
        for weights in (case.model.state_dict(), static.state_dict()):  # full-width, and its own
            other = cut_(randomize_(copy.deepcopy(case.model)), case.layout, subnet)
            other.load_state_dict(copy.deepcopy(weights))
            for a, b in zip(expected, self._outputs(other, case.batch), strict=True):
                assert torch.equal(a, b)
        tiny = cut_(copy.deepcopy(case.model), case.layout, case.space.tinynet)
        with pytest.raises(RuntimeError, match='size mismatch'):
            tiny.load_state_dict(static.state_dict())

    def test_a_cut_model_is_a_plain_model(self, case):
        static = cut_(copy.deepcopy(case.model), case.layout, case.subnets[-1])
        file = io.BytesIO()
        torch.save(static, file)
        file.seek(0)
        for twin in (copy.deepcopy(static), torch.load(file, weights_only=False)):
            assert type(twin) is type(case.model)
            twin.load_state_dict(case.model.state_dict())
            expected = self._outputs(static, case.batch)
            for a, b in zip(expected, self._outputs(twin, case.batch), strict=True):
                assert torch.equal(a, b)

    def _outputs(self, model: nn.Module, images: Tensor, backward: bool = False) -> list[Tensor]:
        """The outputs, after a backward of a loss of all of them if wanted."""
        with torch.set_grad_enabled(backward):
            outputs = [y for y in tensors_in(self.run(model, images)) if y.is_floating_point()]
            if backward:
                sum((y * y.detach().cos()).sum() for y in outputs if y.requires_grad).backward()
        return [y.detach() for y in outputs]


class Case:
    """A model, what was found of it, and some of its subnets."""

    def __init__(
        self, model: nn.Module, layout: Layout, image: tuple[int, ...], divisor: int
    ) -> None:
        self.model = model
        self.layout = layout
        self.image = image
        self.space = whole_supernet(model, layout, divisor=divisor).space
        self.subnets = subnets_of(self.space, GROUPS)
        self.batch = torch.randn(GROUPS * SHARE, *image).double()
        self._layers = {name: (layer, sides) for name, layer, sides in layers_in(model, layout)}

    def cut(self, name: str, tensor: Tensor, subnet: Subnet) -> Tensor:
        """What a subnet has of a parameter, or of a tensor of its shape."""
        layer, _, key = name.rpartition('.')
        if layer not in self._layers:
            return tensor
        return take(tensor, cut_of(*self._layers[layer], subnet).tensors.get(key, {}))


class Deployed(nn.Module):
    """A model whose forward is what is needed after training; mmengine counts forwards."""

    def __init__(self, model: nn.Module, run: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.model = model
        self._run = run

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_in(self._run(self.model, images)))
