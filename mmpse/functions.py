"""The parts of pruning, one function each: ``mmpse.build``, ``units``, ``sort``, ``cut``, ``cost``,
``export``. Those of them that take a model take any PyTorch module, and need nothing but PyTorch
for one that is not OpenMMLab's.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mmpse.errors import UserError
from mmpse.resources import layer_costs
from mmpse.slim import Layout, Reconstruction, cut_, find_units, sample_inputs, sort_
from mmpse.slim.watch import evaluating

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import Tensor, nn

    from mmpse.deploy import Exported


def build(
    config: str | os.PathLike | Config, checkpoint: str | os.PathLike | None = None
) -> nn.Module:
    """The model of a config, in eval mode; nothing is downloaded.

    Args:
        config: A config file, a name as ``'mmdet::...'``, or a Config.
        checkpoint: Its weights; ``None`` leaves them random.

    Raises:
        ConfigError, CheckpointError: If the config or the checkpoint cannot be used.

    Examples:
        >>> import mmpse
        >>> model = mmpse.build('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
        >>> type(model).__name__
        'ImageClassifier'
    """
    from mmpse.openmmlab.checkpoints.loading import load_weights
    from mmpse.openmmlab.configs.building import build_model
    from mmpse.openmmlab.configs.files import load_config

    model = build_model(load_config(config))
    model.eval()  # of a distilled one it returns nothing
    if checkpoint is not None:
        load_weights(model, checkpoint)
    return model


def units(model: nn.Module, images: Tensor | None = None) -> Layout:
    """Find the width units of a model.

    Args:
        model: A classifier, detector or segmentor of OpenMMLab, or any module.
        images: An example of its input ``(1, C, H, W)``; a small one saves time. A model of
            OpenMMLab needs none.

    Raises:
        ValueError: If the model cannot be run on the images.

    Examples:
        >>> import torch, torchvision, mmpse
        >>> layout = mmpse.units(torchvision.models.resnet18(), torch.zeros(1, 3, 64, 64))
        >>> layout.units['layer1.0.conv1'].width, layout.fixed['fc']
        (64, 'it is an output of the model')
    """
    if is_openmmlab(model):
        from mmpse.openmmlab.models.pruned import look

        return look(model, None if images is None else images.shape[2:])[0]
    if images is None:
        raise UserError(
            f'give images to {type(model).__name__}, which is no model of OpenMMLab: '
            'mmpse.units(model, torch.zeros(1, 3, 64, 64))'
        )
    return find_units(model, images)


def sort(
    model: nn.Module, layout: Layout, images: Tensor | None = None, by: str | None = None
) -> nn.Module:
    """A copy of a model whose units have their most important channels first.

    It computes the same as the model.

    Args:
        model: The full-width model.
        layout: Its units.
        images: Training images ``(B, C, H, W)`` that show what channels do.
        by: An importance, see :func:`mmpse.slim.sorting.importances`; by default ``'selection'`` if
            there are images, else ``'group'``.

    Raises:
        ValueError: If ``by`` is unknown, or the images or gradients that it needs are missing.

    Examples:
        >>> import torch, torchvision, mmpse
        >>> model, images = torchvision.models.resnet18().eval(), torch.randn(4, 3, 64, 64)
        >>> by_importance = mmpse.sort(model, mmpse.units(model, images[:1]), images)
        >>> bool(torch.allclose(by_importance(images), model(images), atol=1e-4))
        True
    """
    model, samples = copy.deepcopy(model), None
    if images is not None:
        with evaluating(model):
            samples = sample_inputs(model, layout, [images], _run)
    sort_(model, layout, by or ('group' if images is None else 'selection'), samples)
    return model


def cut(
    model: nn.Module,
    layout: Layout,
    widths: Mapping[str, int] | float,
    images: Tensor | None = None,
) -> nn.Module:
    """A copy of a model that has the first channels of every unit alone.

    Args:
        model: The full-width model; :func:`sort` it before.
        layout: Its units.
        widths: Unit -> channels, such as a :class:`mmpse.space.Subnet`; or one share of the
            channels for all units, rounded to multiples of 8.
        images: Training images ``(B, C, H, W)``. The layers of the copy are fitted to make up on
            them for the channels that go, see :class:`mmpse.slim.Reconstruction`.

    Raises:
        ValueError: If the widths or the model do not fit the layout.

    Examples:
        >>> import torch, torchvision, mmpse
        >>> model, images = torchvision.models.resnet18(), torch.randn(4, 3, 64, 64)
        >>> layout = mmpse.units(model, images[:1])
        >>> half = mmpse.cut(mmpse.sort(model, layout, images), layout, 0.5, images)
        >>> half.conv1
        Conv2d(3, 32, kernel_size=(7, 7), stride=(2, 2), padding=(3, 3), bias=False)
    """
    if isinstance(widths, (int, float)):
        widths = layout.space((widths, 1.0), model=type(model).__name__).uniform(widths)
    small = cut_(copy.deepcopy(model), layout, widths)
    if images is not None:
        with evaluating(model), evaluating(small):
            Reconstruction(model, layout, images, _run).fit_(small, widths)
    return small


def cost(model: nn.Module, images: Tensor) -> dict[str, int]:
    """FLOPs and parameters of a model, full or cut.

    For many subnets at once see :func:`mmpse.resources.model_cost`.

    Args:
        model: The model; of OpenMMLab's, heads that only training needs are not counted as FLOPs.
        images: One image of the size that FLOPs are counted for, ``(1, C, H, W)``.

    Returns:
        ``'flops'``, in multiply-adds as mmengine counts them, but without the products inside
        attention, and ``'params'``.

    Examples:
        >>> import torch, torchvision, mmpse
        >>> mmpse.cost(torchvision.models.resnet18(), torch.zeros(1, 3, 224, 224))['params']
        11689512
    """
    run: Callable[[Tensor], Any] | None = None
    if is_openmmlab(model):
        from mmpse.openmmlab.models.outputs import deployed_outputs

        run = partial(deployed_outputs, model)
    flops = layer_costs(model, images, run)['flops']
    return dict(flops=sum(flops.values()), params=sum(p.numel() for p in model.parameters()))


def export(
    model: nn.Module, out: str | os.PathLike, input_shape: tuple[int, int, int], **options: Any
) -> Exported:
    """Write a model as ONNX, if onnxruntime predicts from it what the model predicts.

    Args:
        model: A classifier, single-stage detector, segmentor or any module, in eval mode.
        out: The ONNX file to write.
        input_shape: ``(C, H, W)``.
        **options: See :func:`mmpse.deploy.export_onnx`: ``preprocess``, ``decode``, ``nms``,
            ``argmax``.

    Returns:
        Name -> shape of the outputs.

    Raises:
        UserError: If onnx or onnxruntime is not installed.
        ExportError: If the model cannot be exported; nothing is written then.

    Examples:
        >>> import mmpse
        >>> model = mmpse.build('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
        >>> dict(mmpse.export(model, 'resnet18.onnx', (3, 32, 32)))
        {'scores': (1, 10)}
    """
    from mmpse.deploy import export_onnx

    return export_onnx(model, out, input_shape, **options)


def is_openmmlab(model: nn.Module) -> bool:
    """Whether a model is one of OpenMMLab's, which are not run by ``model(images)`` alone."""
    return hasattr(model, 'data_preprocessor')


def _run(model: nn.Module, images: Tensor) -> Any:
    """All that a model predicts from."""
    if is_openmmlab(model):
        from mmpse.openmmlab.models.outputs import raw_outputs

        return raw_outputs(model, images)
    return model(images)
