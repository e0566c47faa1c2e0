"""Which widths exist, what they cost, how to draw them. NumPy and the standard library only."""

from .budget import Budget, BudgetError, uniform_within
from .conditional import ConditionalSampler
from .cost import Cost
from .joining import Joined, StageTable, join, split_cost
from .sampling import (
    SAMPLERS,
    PriorSampler,
    RatioSampler,
    SpreadSampler,
    UniformSampler,
    WidthDistribution,
    expected_loss,
    tilted,
)
from .search_space import SearchSpace, WidthUnit
from .subnet import Subnet, SubnetError
