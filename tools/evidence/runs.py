"""The models that are pruned, the methods that prune them, and the runs of whole.py.

A run is one model pruned to one budget by one method with one seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
RIVAL, PART = HERE / 'rivals.py', HERE / 'parts.py'
METHODS = {  # in the order of tables -> its command; `trained` has none
    'trained': [],
    'unpruned': [RIVAL, '--importance', 'none'],
    'uniform': ['-m', 'mmpse', 'prune', '--how', 'uniform'],
    'torch-pruning': [RIVAL, '--importance', 'norm', '--most', '0.875'],
    'torch-pruning-taught': [RIVAL, '--importance', 'norm', '--most', '0.875', '--teacher'],
    'torch-pruning-fifth': [RIVAL, '--importance', 'norm', '--most', '0.8', '--teacher'],
    'torch-pruning-taylor': [RIVAL, '--importance', 'taylor', '--most', '0.875', '--teacher'],
    'torch-pruning-taylor-fifth': [RIVAL, '--importance', 'taylor', '--most', '0.8', '--teacher'],
    'fastnas': [RIVAL, '--importance', 'fastnas'],
    'sensitivity': ['-m', 'mmpse', 'prune', '--how', 'sensitivity'],
    'search': ['-m', 'mmpse', 'prune', '--how', 'search'],
    'uniform-longer': ['-m', 'mmpse', 'prune', '--how', 'uniform'],
    'sensitivity-longer': ['-m', 'mmpse', 'prune', '--how', 'sensitivity'],
    'sensitivity-taught': ['-m', 'mmpse', 'prune', '--how', 'sensitivity', '--teacher'],
    'sensitivity-backbone': ['-m', 'mmpse', 'prune', '--keep', 'neck*', '*head*'],
    'uniform-l1': ['-m', 'mmpse', 'prune', '--how', 'uniform', '--sort', 'l1'],
    'uniform-bn': ['-m', 'mmpse', 'prune', '--how', 'uniform', '--sort', 'bn'],
    'uniform-group': ['-m', 'mmpse', 'prune', '--how', 'uniform', '--sort', 'group'],
    'uniform-taylor': ['-m', 'mmpse', 'prune', '--how', 'uniform', '--sort', 'taylor'],
    'uniform-unsorted': [PART, '--without', 'sorting'],
    'uniform-recalibrated': [PART, '--without', 'reconstruction'],
    'uniform-l1-recalibrated': [PART, '--without', 'reconstruction', '--sort', 'l1'],
    'sensitivity-sixteenth': [PART, '--how', 'sensitivity', '--floor', '0.0625'],
    'sensitivity-fifth': [PART, '--how', 'sensitivity', '--floor', '0.2'],
    'scratch': [PART, '--without', 'weights'],
    'scratch-longer': [PART, '--without', 'weights'],
}
MAIN = ('uniform', 'torch-pruning', 'fastnas', 'sensitivity', 'search')
LONGER = ('uniform-longer', 'sensitivity-longer')  # at equal time in all: as long as `search`
VARIANTS = (
    'torch-pruning-taught',
    'torch-pruning-fifth',
    'torch-pruning-taylor',
    'torch-pruning-taylor-fifth',
    'sensitivity-taught',
    'sensitivity-sixteenth',
    'sensitivity-fifth',
)
ABLATIONS = (  # the command with one part of it left out or replaced
    'uniform-unsorted',
    'uniform-l1',
    'uniform-bn',
    'uniform-group',
    'uniform-taylor',
    'uniform-recalibrated',
    'uniform-l1-recalibrated',
)
SCRATCH = ('scratch', 'scratch-longer')  # the small model trained from random weights


class Model(NamedTuple):
    """A model that is pruned.

    Attributes:
        title: Of its rows: the model, the data, the metric.
        config: Trains it.
        metric: What is measured on the test split.
        epochs: Of fine-tuning.
        budgets: Of FLOPs, or of ``'latency 50%'``.
        methods: At each budget.
        seeds: How many.
        backbone: The budget at which the backbone alone is pruned; it cannot reach much less.
    """

    title: str
    config: str
    metric: str
    epochs: int
    budgets: tuple[str, ...]
    methods: tuple[str, ...] = MAIN
    seeds: int = 1
    backbone: str | None = None


MODELS = {
    'retinanet-r18_bccd': Model(
        'RetinaNet R-18 on BCCD, box mAP',
        'configs/bccd/retinanet_resnet18-w0p5_fpn96_bccd.py',
        'coco/bbox_mAP',
        8,
        ('10%', '20%', '50%', 'latency 50%'),
        (*MAIN, *LONGER, *ABLATIONS, *SCRATCH, *VARIANTS),
        seeds=3,
        backbone='55%',
    ),
    'rtmdet-tiny_bccd': Model(
        'RTMDet-tiny on BCCD, box mAP',
        'configs/bccd/rtmdet_tiny_bccd.py',
        'coco/bbox_mAP',
        4,
        ('latency 50%', '20%', '50%', '10%'),
        (*MAIN, 'sensitivity-taught'),
        seeds=3,
        backbone='70%',
    ),
    'semantic-fpn-r18_camvid': Model(
        'Semantic FPN R-18 on CamVid, mIoU',
        'configs/camvid/fpn_resnet18-w0p5_camvid.py',
        'mIoU',
        5,
        ('50%', '10%'),
        seeds=3,
    ),
    'deeplabv3plus-r18_camvid': Model(
        'DeepLabV3+ R-18 on CamVid, mIoU',
        'configs/camvid/deeplabv3plus_resnet18-w0p5_camvid.py',
        'mIoU',
        5,
        ('50%',),
    ),
    'resnet20_cifar10': Model(
        'ResNet-20 on CIFAR-10, accuracy',
        'configs/cifar10/short_resnet20_cifar10.py',
        'accuracy/top1',
        3,
        ('25%', '50%', '15%'),
        (*MAIN, *LONGER, *SCRATCH),
        seeds=3,
    ),
    'vgg11_cifar10': Model(
        'VGG-11 on CIFAR-10, accuracy',
        'configs/cifar10/short_vgg11_cifar10.py',
        'accuracy/top1',
        2,
        ('15%', '50%'),
        (*MAIN, *LONGER),
        seeds=3,
    ),
    'mobilenet-v2_cifar10': Model(
        'MobileNetV2 0.5x on CIFAR-10, accuracy',
        'configs/cifar10/short_mobilenet-v2-w0p5_cifar10.py',
        'accuracy/top1',
        3,
        ('15%', '50%'),
        (*MAIN, *LONGER),
        seeds=3,
    ),
}


class Run(NamedTuple):
    """One model pruned once; as text the name of its record."""

    name: str  # of the model
    budget: str
    how: str  # the method, as records call it
    seed: int

    def __str__(self) -> str:
        budget = self.budget.rstrip('%').replace(' ', '-')
        return f'{self.name}_{budget}_{self.how}_{self.seed}'


def runs(name: str) -> Iterator[Run]:
    """The runs of a model; the first matter most, if there is not the time for all."""
    model = MODELS[name]
    yield Run(name, '100%', 'trained', 0)
    for seed in range(model.seeds):
        yield Run(name, '100%', 'unpruned', seed)
        for budget in model.budgets:
            for method in model.methods:
                if ' ' not in budget or METHODS[method][0] == '-m':  # scripts know FLOPs alone
                    yield Run(name, budget, method, seed)
        if model.backbone:
            yield Run(name, model.backbone, 'sensitivity-backbone', seed)
