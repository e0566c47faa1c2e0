"""Public checkpoints in mmpretrain's names: torchvision's and timm's key layouts.

The layout is recognised from the keys. Nothing is matched by position or by shape: every key is
renamed by a rule, and one that no rule knows keeps its name, so that it is reported as unexpected.
"""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from mmpse.errors import UserError

Weights = Mapping[str, Tensor]
MOBILENET_V2_BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # of every stage (arXiv 1801.04381, Table 2)


def to_mmpretrain(weights: Weights) -> tuple[dict[str, Tensor], str]:
    """Weights under the names of mmpretrain's whole model.

    Args:
        weights: State dict of a ResNet, VGG or MobileNetV2 of mmpretrain, mmdet or mmseg (a whole
            model, or its backbone alone), torchvision or timm.

    Returns:
        The same tensors as ``backbone.*`` and ``head.*``, and the name of the layout they had.
    """
    weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    whole = any(key.startswith('backbone.') for key in weights)
    rest = {key: value for key, value in weights.items() if not key.startswith('backbone.')}
    backbone = {
        key.removeprefix('backbone.'): value
        for key, value in weights.items()
        if not whole or key.startswith('backbone.')
    }
    layout = next((name for name, (marker, _) in LAYOUTS.items() if marker in backbone), None)
    renamed = backbone if layout is None else LAYOUTS[layout][1](backbone)
    named = {
        key if key.startswith('head.') else f'backbone.{key}': value
        for key, value in renamed.items()
    }
    named.update(rest if whole else {})
    if len(named) < len(weights):
        raise UserError(
            f'{len(weights) - len(named)} of {len(weights)} weights would get the name of another '
            f'one: the keys look like {layout} layout but are not; save the state dict as that '
            'library builds it'
        )
    return named, layout or "mmpretrain's"


def _resnet(weights: Weights) -> dict[str, Tensor]:
    """torchvision's ResNet; timm's, V1c and V1d included; the stem of mmseg's V1c."""
    deep = 'conv1.0.weight' in weights
    # timm counts a pooling in every downsampling, mmpretrain only where there is one: not in layer1
    pooled = 'layer1.0.downsample.2.weight' in weights

    def rename(key: str) -> str:
        if key.startswith('fc.'):
            return f'head.{key}'
        if deep and key.startswith('bn1.'):
            return key.replace('bn1', 'stem.2.bn', 1)
        if match := re.fullmatch(r'(?:conv1|stem)\.(\d)\.(\w+)', key):  # conv, bn, relu; conv, ...
            k, name = divmod(int(match[1]), 3), match[2]
            return f'stem.{k[0]}.{"bn" if k[1] else "conv"}.{name}'
        if pooled and (match := re.fullmatch(r'(layer1\.0\.downsample)\.([12])\.(\w+)', key)):
            return f'{match[1]}.{int(match[2]) - 1}.{match[3]}'
        return key

    return {rename(key): value for key, value in weights.items()}


def _vgg(weights: Weights) -> dict[str, Tensor]:
    """torchvision's VGG; timm's, whose hidden classifier layers are convolutions."""
    layers = {int(match[1]) for key in weights if (match := re.match(r'features\.(\d+)\.', key))}
    modules, new, last = {}, 0, 0  # number in `features` -> name in mmpretrain
    normed = 'features.1.running_mean' in weights
    for k in sorted(layers):
        if f'features.{k}.running_mean' in weights:
            modules[k] = f'features.{new}.bn'
            continue
        # ConvModules hold convolution, normalisation and ReLU; what else lies between is a pooling
        new += k - last - (2 if normed else 1) if k else 0
        modules[k], last = f'features.{new}.conv', k

    classifier = {'pre_logits.fc1': 'classifier.0', 'pre_logits.fc2': 'classifier.3'}
    classifier |= {'head.fc': 'classifier.6'}

    renamed = {}
    for key, value in weights.items():
        module, _, name = key.rpartition('.')
        if match := re.fullmatch(r'features\.(\d+)', module):
            module = modules[int(match[1])]
        elif module in classifier:
            module, value = classifier[module], value.flatten(1) if value.dim() == 4 else value
        renamed[f'{module}.{name}'] = value
    return renamed


def _torchvision_mobilenet_v2(weights: Weights) -> dict[str, Tensor]:
    blocks = {0: 'conv1'}
    for stage, repeats in enumerate(MOBILENET_V2_BLOCKS, 1):
        blocks.update({len(blocks) + j: f'layer{stage}.{j}' for j in range(repeats)})
    blocks[len(blocks)] = 'conv2'

    def rename(key: str) -> str:
        if key.startswith('classifier.1.'):
            return key.replace('classifier.1', 'head.fc', 1)
        match = re.fullmatch(r'features\.(\d+)\.((?:conv\.)?)((?:\d\.)+)(\w+)', key)
        if match is None or int(match[1]) not in blocks:
            return key
        k = [int(number) for number in match[3].split('.')[:-1]]
        if match[2] and len(k) == 1:  # the projection lies flat: its convolution, then its norm
            norm = f'features.{match[1]}.conv.{k[0]}.running_mean' in weights
            k = [k[0] - norm, norm]
        inner = f'.conv.{k[0]}' if match[2] else ''
        return f'{blocks[int(match[1])]}{inner}.{"bn" if k[-1] else "conv"}.{match[4]}'

    return {rename(key): value for key, value in weights.items()}


def _timm_mobilenet_v2(weights: Weights) -> dict[str, Tensor]:
    ends = {'conv_stem': 'conv1.conv', 'bn1': 'conv1.bn', 'conv_head': 'conv2.conv'}
    ends |= {'bn2': 'conv2.bn', 'classifier': 'head.fc'}

    def rename(key: str) -> str:
        module, _, name = key.rpartition('.')
        if module in ends:
            return f'{ends[module]}.{name}'
        match = re.fullmatch(r'blocks\.(\d+)\.(\d+)\.(conv_dw|conv_pwl?|bn[123])', module)
        if match is None:
            return key
        convs = ['conv_pw', 'conv_dw', 'conv_pwl']  # expand, depthwise, project
        if f'blocks.{match[1]}.{match[2]}.conv_pwl.weight' not in weights:
            convs = ['conv_dw', 'conv_pw']  # depthwise, project
        norm = match[3].startswith('bn')
        k = int(match[3][2:]) - 1 if norm else convs.index(match[3])
        block = f'layer{int(match[1]) + 1}.{match[2]}'
        return f'{block}.conv.{k}.{"bn" if norm else "conv"}.{name}'

    return {rename(key): value for key, value in weights.items()}


def _mmdet_mobilenet_v2(weights: Weights) -> dict[str, Tensor]:
    def rename(key: str) -> str:
        match = re.fullmatch(r'(layer\d\.\d)\.(expand|depthwise|linear)_conv\.(.+)', key)
        if match is None:
            return key
        convs = ['expand', 'depthwise', 'linear']
        if f'{match[1]}.expand_conv.conv.weight' not in weights:
            convs.remove('expand')
        return f'{match[1]}.conv.{convs.index(match[2])}.{match[3]}'

    return {rename(key): value for key, value in weights.items()}


# name -> a key that only this layout has, and what renames it
LAYOUTS: dict[str, tuple[str, Callable[[Weights], dict[str, Tensor]]]] = {
    "timm's MobileNetV2": ('conv_stem.weight', _timm_mobilenet_v2),
    "torchvision's MobileNetV2": ('features.0.0.weight', _torchvision_mobilenet_v2),
    "mmdet's MobileNetV2": ('layer1.0.depthwise_conv.conv.weight', _mmdet_mobilenet_v2),
    "timm's VGG": ('pre_logits.fc1.weight', _vgg),
    "torchvision's VGG": ('features.0.weight', _vgg),
    "timm's ResNet with a deep stem": ('conv1.0.weight', _resnet),
    "mmseg's ResNet with a deep stem": ('stem.0.weight', _resnet),
    "torchvision's ResNet": ('fc.weight', _resnet),
}
