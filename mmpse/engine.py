"""Hooks and loops, where new-style configs import them: ``mmpse.engine.SupernetHook``."""

from mmpse.openmmlab.search.loops import (
    EvolutionSearchLoop,
    GreedySearchLoop,
    RandomSearchLoop,
    UniformSearchLoop,
)
from mmpse.openmmlab.search.predictor import PredictorSearchLoop
from mmpse.openmmlab.seeding import SeedHook
from mmpse.openmmlab.stagewise.loop import StageWiseSearchLoop
from mmpse.openmmlab.supernet.hook import SupernetHook
from mmpse.openmmlab.supernet.speed import BFloat16OptimWrapper, ChannelsLastHook
from mmpse.openmmlab.teaching.hook import DistillationHook
