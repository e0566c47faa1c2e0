"""Slimmable layers and backbones, slicing, costs."""

from .consumers import FitError
from .cost import backbone_costs, costs_of, count, measure, model_costs
from .fit import FitToBackbone, with_subnet
from .layers import InPlaceReLU6, SlimmableBN2d, SlimmableConv2d, is_channels_last
from .mobilenet_v2 import SlimmableMobileNetV2
from .resnet import SlimmableResNet
from .resnet_cifar import ResNetCIFAR, SlimmableResNet_CIFAR, SlimmableResNetCIFAR
from .slicing import SliceError
from .slimmable import EXECUTIONS, SlimmableBackbone, find_backbone
from .sorting import sort_channels
from .stock import Slimmable, UnsupportedBackboneError
from .vgg import SlimmableVGG
from .warm_start import WarmStart, load_public, misfit

__all__ = [
    'count',
    'EXECUTIONS',
    'FitError',
    'FitToBackbone',
    'InPlaceReLU6',
    'ResNetCIFAR',
    'SliceError',
    'Slimmable',
    'SlimmableBN2d',
    'SlimmableBackbone',
    'SlimmableConv2d',
    'SlimmableMobileNetV2',
    'SlimmableResNet',
    'SlimmableResNetCIFAR',
    'SlimmableResNet_CIFAR',
    'SlimmableVGG',
    'UnsupportedBackboneError',
    'WarmStart',
    'backbone_costs',
    'costs_of',
    'find_backbone',
    'is_channels_last',
    'load_public',
    'measure',
    'misfit',
    'model_costs',
    'sort_channels',
    'with_subnet',
]
