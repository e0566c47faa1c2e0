"""Models, where new-style configs import them: ``mmpse.models.WarmStart``."""

from mmpse.openmmlab.models.backbones import (
    InPlaceReLU6,
    ResNetCIFAR,
    SlimmableMobileNetV2,
    SlimmableResNet,
    SlimmableResNet_CIFAR,
    SlimmableResNetCIFAR,
    SlimmableVGG,
)
from mmpse.openmmlab.models.pruned import Pruned
from mmpse.openmmlab.models.warm_start import WarmStart
from mmpse.openmmlab.stagewise.classifier import StageWiseClassifier
