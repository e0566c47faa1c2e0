"""Which widths exist, what they cost, how to draw them. NumPy and the standard library only."""

from .budget import Budget, BudgetError
from .cost import Cost, nearest_uniform
from .sampling import (
    PriorSampler,
    RatioSampler,
    SpreadSampler,
    UniformSampler,
    expected_loss,
    tilted,
)
from .search_space import SearchSpace, WidthUnit
from .subnet import Subnet, SubnetError

__all__ = [
    'Budget',
    'BudgetError',
    'Cost',
    'PriorSampler',
    'RatioSampler',
    'SearchSpace',
    'SpreadSampler',
    'Subnet',
    'SubnetError',
    'UniformSampler',
    'WidthUnit',
    'expected_loss',
    'nearest_uniform',
    'tilted',
]
