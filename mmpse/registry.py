"""The registries of mmpse: children of MMEngine's root registries, scope ``mmpse``.

Everything registered here is usable from any OpenMMLab config as ``mmpse.<name>``.
"""

from mmengine import registry as root
from mmengine.registry import Registry


def _child(parent: Registry, *locations: str) -> Registry:
    return Registry(parent.name, parent=parent, scope='mmpse', locations=list(locations))


MODELS = _child(root.MODELS, 'mmpse.models', 'mmpse.openmmlab.pruned')
HOOKS = _child(
    root.HOOKS, 'mmpse.engine', 'mmpse.openmmlab.distillation', 'mmpse.openmmlab.seeding'
)
LOOPS = _child(root.LOOPS, 'mmpse.engine')
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS, 'mmpse.engine')
TASK_UTILS = _child(root.TASK_UTILS, 'mmpse.engine')
DATASETS = _child(root.DATASETS, 'mmpse.datasets', 'mmpse.openmmlab.datasets')
PARAM_SCHEDULERS = _child(root.PARAM_SCHEDULERS, 'mmpse.openmmlab.schedule')
WEIGHT_INITIALIZERS = _child(root.WEIGHT_INITIALIZERS, 'mmpse.models')

__all__ = [
    'DATASETS',
    'HOOKS',
    'LOOPS',
    'MODELS',
    'OPTIM_WRAPPERS',
    'PARAM_SCHEDULERS',
    'TASK_UTILS',
    'WEIGHT_INITIALIZERS',
]
