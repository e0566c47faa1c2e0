"""Training supernets and searching them."""

from mmpse.registry import TASK_UTILS
from mmpse.space import RatioSampler, SpreadSampler, UniformSampler

from .archive import Archive, ArchiveError, Judged, read_archive
from .bfloat16 import BFloat16OptimWrapper
from .channels_last_hook import ChannelsLastHook
from .judge import Judge
from .loss_record import LossRecord, relative_losses
from .search_loop import EvolutionSearchLoop
from .supernet_hook import SupernetHook

for sampler in (RatioSampler, SpreadSampler, UniformSampler):  # `mmpse.space` knows no registries
    TASK_UTILS.register_module(module=sampler)

__all__ = [
    'Archive',
    'ArchiveError',
    'BFloat16OptimWrapper',
    'ChannelsLastHook',
    'EvolutionSearchLoop',
    'Judge',
    'Judged',
    'LossRecord',
    'SupernetHook',
    'read_archive',
    'relative_losses',
]
