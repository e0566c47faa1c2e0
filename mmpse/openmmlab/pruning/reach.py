"""What a pruning can reach, and what holds it up."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from mmpse.openmmlab.errors import listed
from mmpse.openmmlab.models.outputs import deployed_outputs
from mmpse.resources import layer_costs
from mmpse.slim import cut_
from mmpse.space import Budget, Subnet, uniform_within
from mmpse.space.budget import BudgetError, parse_amount
from mmpse.visualization import text_table

from .subject import Subject

LISTED = 4  # layers of a group that are named
NAMES = dict(flops='FLOPs', params='parameters', latency='latency')
JOINED = 'joined with '  # how a reason begins that is another layer's


class Fixed(NamedTuple):
    """Layers of one part whose outputs keep their width, for one reason."""

    layers: tuple[str, ...]
    why: str
    full: dict[str, float]  # resource -> their share of the full model
    lowest: dict[str, float]  # ... and of the lowest subnet

    @property
    def names(self) -> str:
        """The layers, or the first few of them."""
        return listed(self.layers, LISTED)


@dataclass(frozen=True)
class Reach:
    """What is reachable."""

    # 'lowest', 'uniform' (at the budget, if there is one), 'full' -> FLOPs and parameters
    rows: dict[str, dict[str, int]]
    fixed: tuple[Fixed, ...]  # the largest share of the lowest subnet's FLOPs first
    unseen: tuple[str, ...] = ()  # layers that a prediction does not run: they read who knows what
    uniform: Subnet | None = None  # uniform pruning at the budget
    counted: str = ''  # what FLOPs and latency are those of

    @property
    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Header and lines of the table of :attr:`rows`."""
        full = self.rows['full']
        lines = [
            [name, *(f'{amount(key, row[key])} ({row[key] / full[key]:.0%})' for key in full)]
            for name, row in self.rows.items()
        ]
        return ['what is reachable', *(NAMES[key] for key in full)], lines

    @property
    def fixed_cells(self) -> tuple[list[str], list[list[str]]]:
        """Header and lines of the table of :attr:`fixed`."""
        lines = [
            [
                fixed.names,
                fixed.why,
                *(f'{p[key]:.0%}' for key in fixed.full for p in (fixed.full, fixed.lowest)),
            ]
            for fixed in self.fixed
        ]
        shares = ['FLOPs', 'of lowest', 'params', 'of lowest']
        return ['what keeps its width', 'why', *shares], lines

    def __str__(self) -> str:
        text = [text_table(*self.cells)]
        if self.counted:
            text.append(f'That is of {self.counted}; --input-shape takes another one.')
        if self.fixed:
            text.append(text_table(*self.fixed_cells, left=2))
        if self.unseen:
            text.append(
                f'A prediction does not run {listed(self.unseen, LISTED)}, and what they read is '
                'not known. A pruning tries it, and names what is to be kept (--keep).'
            )
        return '\n'.join(text)


def amount(resource: str, value: float, digits: int = 4) -> str:
    """How much of a resource, in a unit that suits."""
    if resource == 'latency':
        return f'{value / 1000:,.{digits}g} ms'
    return f'{value / 1e9:.{digits}g} G' if value >= 1e9 else f'{value / 1e6:.{digits}g} M'


def in_words(resources: Mapping[str, float]) -> str:
    """What a subnet costs: '478 M FLOPs, 0.3 M parameters, 1.08 ms'."""
    texts = {name: amount(name, resources[name], 3) for name in NAMES if name in resources}
    return ', '.join(
        f'{text} {NAMES[name]}'.removesuffix(' latency') for name, text in texts.items()
    )


def reachable(subject: Subject, limits: Mapping[str, str | float] | None = None) -> Reach:
    """What pruning a model can reach.

    Args:
        limits: Resource -> budget, for which uniform pruning is shown.

    Raises:
        BudgetError: If a budget cannot be understood or lies outside of what is reachable; the
            message says what the range is and what holds it up.
    """
    space = subject.space
    rows = dict(lowest=subject.cost_of(space.tinynet), full=subject.cost_of(space.fullnet))
    fixed, unseen = _fixed(subject), subject.layout.unseen
    uniform = None
    if limits:
        for name, amount in limits.items():
            _check(subject, fixed, name, amount, rows['lowest'][name], rows['full'][name])
        widths = uniform_within(space, Budget(space, subject.costs, limits))
        uniform = subject.subnet(widths, how='uniform')
        rows = dict(lowest=rows['lowest'], uniform=subject.cost_of(uniform), full=rows['full'])
    return Reach(rows, fixed, unseen, uniform, subject.counted)


def _check(
    subject: Subject, fixed: tuple[Fixed, ...], name: str, amount: str | float, low: int, full: int
) -> None:
    limit = parse_amount(amount, full, name)
    kind, asked = type(subject.model).__name__, f'{_in_words(name, limit)} ({amount})'
    if limit >= full:
        raise BudgetError(
            f'this {kind} has {_in_words(name, full)}, and {asked} are allowed: there is nothing '
            'to prune; give less'
        )
    if limit >= low:
        return
    meant = f'; did you mean {amount}M?' if str(amount).strip().isdigit() else ''
    holds = ''
    if name != 'latency':  # which is not shared out
        held = sorted(fixed, key=lambda group: -group.lowest[name])[:3]
        held = [group for group in held if group.lowest[name] > 0.005]
        rest = 1 - sum(group.lowest[name] for group in fixed)
        shares = [f'{group.lowest[name]:.0%} {group.names} ({group.why})' for group in held]
        consists = ', '.join([*shares, f'{rest:.0%} layers at their least width'])
        holds = f', and the lowest consists of {consists}'
    raise BudgetError(
        f'no subnet of this {kind} has at most {asked}: they reach from {_in_words(name, low)} '
        f'({low / full:.1%}) to {_in_words(name, full)} (100%){holds}; give more, a smaller '
        f'--divisor, or fewer units to --keep{meant}'
    )


def _in_words(name: str, value: float) -> str:
    return f'{value / 1000:.3g} ms' if name == 'latency' else f'{value:,.0f} {NAMES[name]}'


@torch.no_grad()
def _fixed(subject: Subject) -> tuple[Fixed, ...]:
    """The layers whose outputs keep their width, by part and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for layer, why in subject.layout.fixed.items():
        while why.startswith(JOINED):
            why = why.partition(': ')[2]
        groups.setdefault((layer.partition('.')[0], why), []).append(layer)
    for unit in subject.space.units:
        if len(unit.candidates) == 1:
            part = unit.name.partition('.')[0]
            why = 'its grid has no other width (--keep, --divisor)'
            groups.setdefault((part, why), []).extend(subject.layout.units[unit.name].writers)
    if not groups:
        return ()
    model = copy.deepcopy(subject.model).cpu()
    images = torch.zeros(1, *subject.input_shape)

    def shares() -> dict[str, dict[str, float]]:
        costs = layer_costs(model, images, partial(deployed_outputs, model))
        return {
            key: {name: value / max(1, sum(of.values())) for name, value in of.items()}
            for key, of in costs.items()
        }

    full = shares()
    cut_(model, subject.layout, subject.space.tinynet)
    lowest = shares()

    def of(group: list[str], part: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        return {key: sum(values.get(name, 0.0) for name in group) for key, values in part.items()}

    found = [
        Fixed(tuple(group), why, of(group, full), of(group, lowest))
        for (_, why), group in groups.items()
    ]
    return tuple(sorted(found, key=lambda group: -group.lowest['flops']))
