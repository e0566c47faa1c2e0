"""What is wrong with a request, as far as it can be told before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from mmpse.space.budget import BudgetError, parse_amount

from .steps import PruneError

HOWS = ('uniform', 'sensitivity', 'search')


def check_request(limits: Mapping[str, str | float], how: str, shell: bool = False) -> None:
    """Make sure that a budget and a way to choose widths are given.

    Args:
        shell: Whether messages name options of the command, or arguments of Python.

    Raises:
        PruneError, BudgetError: If not.
    """

    def named(name: str, value: object) -> str:
        return f'--{name} {value}' if shell else f'{name}={value!r}'

    if not limits:
        examples = [named('flops', '50%'), named('params', '5M'), named('latency', '12ms')]
        raise PruneError(f'give a budget: {", ".join(examples[:2])} or {examples[2]}')
    if how not in HOWS:
        raise PruneError(f'{named("how", how)}: it is one of {", ".join(HOWS)}')
    for name, amount in limits.items():
        parse_amount(amount, 1.0, name)
        bare = str(amount).strip().replace('.', '', 1)
        if bare.isdigit() and float(amount) < 100:  # no model has so few
            share = named(name, f'{str(amount).strip()}%')
            raise BudgetError(f'{named(name, amount)} is an amount; did you mean {share}?')
