"""Training supernets and searching them."""

from mmpse.registry import TASK_UTILS
from mmpse.search.around import BudgetSampler
from mmpse.space import RatioSampler, SpreadSampler, UniformSampler

from .archive import Archive, ArchiveError, Judged, ranking_key, read_archive, read_identity
from .bfloat16 import BFloat16OptimWrapper
from .channels_last_hook import ChannelsLastHook
from .judge import Judge, Verdict
from .loss_record import LossRecord, relative_losses
from .pareto import pareto_front
from .resume import resume_latest
from .search_loop import SearchLoop
from .searches import (
    EvolutionSearchLoop,
    GreedySearchLoop,
    RandomSearchLoop,
    UniformSearchLoop,
)
from .stagewise_search_loop import StageWiseSearchLoop
from .supernet_hook import SupernetHook

for sampler in (BudgetSampler, RatioSampler, SpreadSampler, UniformSampler):
    TASK_UTILS.register_module(module=sampler)  # their rooms know no registries

__all__ = [
    'Archive',
    'ArchiveError',
    'BFloat16OptimWrapper',
    'ChannelsLastHook',
    'EvolutionSearchLoop',
    'GreedySearchLoop',
    'Judge',
    'Judged',
    'LossRecord',
    'RandomSearchLoop',
    'SearchLoop',
    'StageWiseSearchLoop',
    'SupernetHook',
    'UniformSearchLoop',
    'Verdict',
    'pareto_front',
    'ranking_key',
    'read_archive',
    'read_identity',
    'relative_losses',
    'resume_latest',
]
