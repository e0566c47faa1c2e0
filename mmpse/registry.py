"""The registries of mmpse: children of MMEngine's root registries, scope ``mmpse``.

Everything registered here is usable from any OpenMMLab config as ``mmpse.<name>``.
"""

from mmengine import registry as root
from mmengine.registry import Registry


def _child(parent: Registry, *locations: str) -> Registry:
    return Registry(parent.name, parent=parent, scope='mmpse', locations=list(locations))


MODELS = _child(
    root.MODELS,
    'mmpse.openmmlab.models.backbones',
    'mmpse.openmmlab.models.pruned',
    'mmpse.openmmlab.stagewise.classifier',
)
HOOKS = _child(
    root.HOOKS,
    'mmpse.openmmlab.supernet.hook',
    'mmpse.openmmlab.supernet.speed',
    'mmpse.openmmlab.teaching.hook',
    'mmpse.openmmlab.seeding',
)
LOOPS = _child(
    root.LOOPS,
    'mmpse.openmmlab.search.loops',
    'mmpse.openmmlab.search.predictor',
    'mmpse.openmmlab.stagewise.loop',
)
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS, 'mmpse.openmmlab.supernet.speed')
TASK_UTILS = _child(root.TASK_UTILS, 'mmpse.openmmlab.supernet.drawing')
DATASETS = _child(root.DATASETS, 'mmpse.datasets')
PARAM_SCHEDULERS = _child(root.PARAM_SCHEDULERS, 'mmpse.openmmlab.pruning.schedule')
WEIGHT_INITIALIZERS = _child(root.WEIGHT_INITIALIZERS, 'mmpse.openmmlab.models.warm_start')
