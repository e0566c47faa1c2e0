"""Starting a backbone or a whole classifier from a public checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from mmpse.openmmlab import compat
from mmpse.openmmlab.checkpoints.layouts import to_mmpretrain
from mmpse.openmmlab.checkpoints.loading import listed, read_checkpoint, weights_in
from mmpse.registry import WEIGHT_INITIALIZERS

from .slimmable import SlimmableBackbone
from .sorting import sort_channels


@WEIGHT_INITIALIZERS.register_module()
class WarmStart:
    """Weight initializer: every weight from a public checkpoint, whatever its key layout.

    It understands the ResNets, VGGs and MobileNetV2s of mmpretrain, mmdet, mmseg, torchvision and
    timm. As ``init_cfg`` of the backbone it leaves out what is not the backbone's (the classifier,
    a detector's neck and head) and says so; as ``init_cfg`` of a classifier it takes everything, as
    it does of a detector or segmentor whose own checkpoint it is::

        backbone=dict(
            type='mmpse.SlimmableResNet',
            depth=50,
            init_cfg=dict(type='mmpse.WarmStart', checkpoint='torchvision://resnet50', sort='bn'))

    A run that is resumed loads its own checkpoint afterwards: nothing is sorted twice.

    Args:
        checkpoint: A local file (``.pth`` or ``.safetensors``), a URL, ``torchvision://resnet50``,
            ``timm://resnet50.a1_in1k`` or ``mmpretrain://resnet50_8xb32_in1k``.
        sort: ``'bn'``, ``'l1'`` or ``'l2'`` sorts the channels by importance, so that the narrow
            subnets start with the best ones; see :func:`sort_channels`.

    Raises:
        ValueError: If the checkpoint fits only partly; what is missing and unexpected is listed.
    """

    def __init__(self, checkpoint: str, sort: str | None = None) -> None:
        self.checkpoint = checkpoint
        self.sort = sort

    def __call__(self, module: nn.Module) -> None:
        load_public(module, read_checkpoint(self.checkpoint), self.checkpoint)
        if self.sort is not None:
            # a head that is not loaded with the backbone has yet to learn what channel is which
            sort_channels(module, self.sort, fresh_head=isinstance(module, SlimmableBackbone))
        # or their own init_cfg would come over these weights
        compat.mark_initialised(module, f'WarmStart: load from {self.checkpoint}')
        # by this word stock backbones know that zero_init_residual and the like come too late
        module.init_cfg = dict(type='Pretrained', checkpoint=self.checkpoint)


def load_public(model: nn.Module, checkpoint: Mapping[str, Any], path: str) -> None:
    """Load a public checkpoint, entirely.

    Args:
        model: A backbone, or a model whose ``backbone`` is one; full-width weights are cut to a
            static subnet.
        checkpoint: A state dict in the model's own names or in any layout that
            :func:`to_mmpretrain` knows, or a mapping that holds one as ``state_dict`` (OpenMMLab)
            or ``model`` (torchvision's and timm's training scripts).
        path: Where it came from; errors name it.

    Raises:
        ValueError: If a weight of the model is missing, or a weight of the checkpoint is left over;
            for a backbone, one of the checkpoint's backbone.
    """
    weights, _ = weights_in(checkpoint, path)
    own = model.state_dict()
    # older checkpoints do not count batches
    counters = {k: v for k, v in own.items() if k.endswith('.num_batches_tracked')}
    left_out = []
    if not misfit(model, {**counters, **weights}):
        layout = "the model's own"  # a detector's or segmentor's, for instance
    else:
        weights, layout = to_mmpretrain(weights)
        if not hasattr(model, 'backbone'):
            backbone = {k: v for k, v in weights.items() if k.startswith('backbone.')}
            if not hasattr(model, 'classifier'):  # VGG's lies in the backbone
                backbone = {
                    k: v for k, v in backbone.items() if not k.startswith('backbone.classifier.')
                }
            left_out = sorted(weights.keys() - backbone.keys())
            weights = {k.removeprefix('backbone.'): v for k, v in backbone.items()}
    weights = {**counters, **weights}
    problems = misfit(model, weights)
    if problems:
        raise ValueError(
            f'the checkpoint {path} ({layout} layout) does not fit {type(model).__name__}: '
            f'{problems}. Give a checkpoint of this architecture, depth and width; to load the '
            'backbone without the classifier, set init_cfg in model.backbone'
        )
    model.load_state_dict(weights)
    print_log(
        f'{type(model).__name__}: {len(weights)} tensors loaded from {path} ({layout} layout)'
        + (f'; not of the backbone, left out: {listed(left_out, 10)}' if left_out else ''),
        logger='current',
    )


def misfit(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """What keeps ``weights`` from being all of ``model``'s, in words; empty if they are.

    Weights of the full width fit a static subnet.
    """
    own = model.state_dict()
    sliced = any(isinstance(m, SlimmableBackbone) and m.subnet for m in model.modules())
    problems = {
        'missing': sorted(own.keys() - weights.keys()),
        'unexpected': sorted(weights.keys() - own.keys()),
        'of another shape, so of another width or number of classes': [
            f'{key} is {tuple(weights[key].shape)}, expected {tuple(value.shape)}'
            for key, value in own.items()
            if not sliced and key in weights and weights[key].shape != value.shape
        ],
    }
    return '; '.join(
        f'{len(names)} {what} ({listed(names, 10)})' for what, names in problems.items() if names
    )
