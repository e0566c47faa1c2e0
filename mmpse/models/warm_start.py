"""Starting a backbone or a whole classifier from a public checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from mmpse.openmmlab.checkpoints.layouts import to_mmpretrain
from mmpse.openmmlab.checkpoints.loading import listed, weights_in
from mmpse.openmmlab.models.warm_start import WarmStart  # noqa: F401

from .slimmable import SlimmableBackbone


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
