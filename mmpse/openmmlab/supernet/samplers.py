"""The samplers of subnets in the registry of OpenMMLab; their rooms know no registries."""

from mmpse.registry import TASK_UTILS
from mmpse.search.around import BudgetSampler
from mmpse.space import RatioSampler, SpreadSampler, UniformSampler

for sampler in (BudgetSampler, RatioSampler, SpreadSampler, UniformSampler):
    TASK_UTILS.register_module(module=sampler)
