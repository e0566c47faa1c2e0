"""A stock model whose batches are shared by subnets."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmpse.errors import UserError
from mmpse.space import SearchSpace, Subnet

from .cutting import LayerCut, cut_of, layers_in
from .layout import Layout
from .masked import masked
from .parts import Part
from .sliced import sliced

EXECUTIONS = ('sliced', 'masked')
CACHED = 64  # subnets whose cuts are kept: fullnet and tinynet come in every iteration


class Supernet:
    """A stock model whose batches can be shared by subnets.

    While subnets are active, image ``i`` of a batch runs through subnet ``i % n``. The parts of the
    model (backbone, neck, heads) take and give full-width tensors, zero in the channels that a
    subnet lacks, so that losses and wrappers need to know nothing. The model keeps its classes,
    names and parameters: only the forwards of its parts are exchanged, for that time.

    Args:
        layout: With the parts that hold the units.

    Attributes:
        held: Units that must stay at full width, since a layer of theirs runs outside the parts (on
            the regions of a two-stage detector).
        executions: Those that the model can be run in.
        active_subnets: The subnets of the groups of a batch; none makes the plain full-width
            network.
        execution: How they are run.

    Raises:
        ValueError: If the layout has no parts, or the model normalises across processes.
    """

    def __init__(self, model: nn.Module, layout: Layout, space: SearchSpace) -> None:
        if not layout.parts:
            raise UserError('a supernet needs a layout with parts; give parts= to find_units')
        self.model = model
        self.layout = layout
        self.space = space
        self.parts = {name: Part(model, layout, name) for name in layout.parts}
        inside = {id(m) for part in self.parts.values() for m in part.module.modules()}
        self.held: set[str] = set()
        for _, layer, sides in layers_in(model, layout):
            if id(layer) not in inside and any(True for _ in layer.parameters()):
                self.held |= {s.unit for s in sides.outputs if s.unit is not None}
        for name, module in model.named_modules():
            if isinstance(module, nn.SyncBatchNorm) and id(module) in inside:
                raise UserError(
                    f'{name} normalises across processes, but every process has its own subnets; '
                    'use BatchNorm (mmengine.model.revert_sync_batchnorm)'
                )
        # a forward that is recomputed in the backward meets another subnet when sliced
        recomputed = (n for n, m in model.named_modules() if getattr(m, 'with_cp', False))
        self._recomputed = next((n or type(model).__name__ for n in recomputed), None)
        self.executions = ('masked',) if self._recomputed else EXECUTIONS
        self.active_subnets: tuple[Subnet, ...] = ()
        self.execution = ''
        self._passes = ExitStack()
        self._cuts: dict[Subnet, dict[str, LayerCut]] = {}

    @property
    def norms(self) -> list[_BatchNorm]:
        """BatchNorms that every subnet passes by itself."""
        return [norm for part in self.parts.values() for norm, _ in part.norms]

    def activate(self, subnets: Sequence[Subnet], execution: str = 'sliced') -> None:
        """Let image ``i`` of every following batch run through ``subnets[i % len(subnets)]``.

        In training mode every subnet is normalised by its own images, and running statistics are
        not tracked.

        Args:
            subnets: The subnets, one per group.
            execution: ``'sliced'`` runs each group through the weights that its subnet keeps;
                ``'masked'`` runs the full width once and drops channels by masks. Both give the
                same outputs and gradients.

        Raises:
            ValueError: If there is no subnet, one cuts a unit that is held, the execution is
                unknown, or gradient checkpointing meets sliced execution.
        """
        if not subnets:
            raise UserError('expected at least one subnet to activate, got none')
        if execution not in EXECUTIONS:
            raise UserError(f'execution must be one of {EXECUTIONS}, got {execution!r}')
        for unit in self.held:
            if any(subnet[unit] != self.layout.units[unit].width for subnet in subnets):
                raise UserError(
                    f'{unit} runs on regions, not on images, so that a supernet keeps its full '
                    f"width; give the search space grids={{'{unit}': dict(ratios=[1.0])}}"
                )
        if execution == 'sliced' and self._recomputed:
            raise UserError(
                f'{self._recomputed} has with_cp=True and recomputes its forward in the backward, '
                'when the sliced execution has moved on to another subnet; use '
                "execution='masked' or with_cp=False"
            )
        self.deactivate()
        self.active_subnets, self.execution = tuple(subnets), execution
        masks = self._masks(subnets) if execution == 'masked' else {}
        for part in self.parts.values():
            part.ran = False
            if execution == 'sliced':
                cuts = [self._cuts_of(subnet) for subnet in subnets]
                self._passes.enter_context(sliced(part, subnets, cuts))
            else:
                cuts = [self._cuts_of(subnet) for subnet in subnets if part.not_plain]
                self._passes.enter_context(masked(part, subnets, cuts, masks))

    def deactivate(self) -> None:
        """Make the model the plain full-width network again."""
        self._passes.close()
        self.active_subnets = ()

    @contextmanager
    def active(self, subnets: Sequence[Subnet], execution: str = 'sliced') -> Iterator[None]:
        """:meth:`activate` for the time of a ``with`` block; what was active before is so again."""
        with self.inactive():
            self.activate(subnets, execution)
            yield

    @contextmanager
    def inactive(self) -> Iterator[None]:
        """The plain network for the time of a ``with`` block; what was active is so again."""
        before = self.active_subnets, self.execution
        self.deactivate()
        try:
            yield
        finally:
            self.deactivate()
            if before[0]:
                self.activate(*before)

    def check_ran(self) -> None:
        """
        Raises:
            UserError: If a part that holds units has not run since the subnets became active:
                its subnets were not trained.
        """
        for name, part in self.parts.items():
            if part.layers and not part.ran:
                raise UserError(
                    f'{type(self.model).__name__} computes its loss without the forward of its '
                    f'{name}, so that the subnets of a batch cannot share it; keep the units of '
                    f"{name} at full width: grids={{'{name}.*': dict(ratios=[1.0])}}"
                )

    def _masks(self, subnets: Sequence[Subnet]) -> dict[str, Tensor]:
        """Unit -> its channels that each group uses, bool ``(groups, channels)``."""
        device, names = next(self.model.parameters()).device, self.space.names
        rows = torch.tensor([[s[n] for n in names] for s in subnets]).to(device)
        return {
            name: torch.arange(self.layout.units[name].width, device=device) < rows[:, k, None]
            for k, name in enumerate(names)
        }

    def _cuts_of(self, subnet: Subnet) -> dict[str, LayerCut]:
        """Layer -> what the subnet keeps of it."""
        if subnet not in self._cuts:
            if len(self._cuts) >= CACHED:
                self._cuts.pop(next(iter(self._cuts)))
            device = next(self.model.parameters()).device
            self._cuts[subnet] = {
                name: cut_of(layer, sides, subnet).to(device)
                for part in self.parts.values()
                for name, layer, sides in part.layers
            }
        return self._cuts[subnet]
