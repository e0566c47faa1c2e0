"""Starting a model, or its backbone, from any checkpoint, its channels sorted by importance."""

from mmengine.logging import print_log
from torch import nn

from mmpse.openmmlab import compat
from mmpse.openmmlab.checkpoints.loading import load_weights
from mmpse.registry import WEIGHT_INITIALIZERS
from mmpse.slim import sort_

from .pruned import look


@WEIGHT_INITIALIZERS.register_module()
class WarmStart:
    """Weight initializer: the weights of a checkpoint, whatever library's names they have::

        model = dict(
            type='ImageClassifier',
            init_cfg=dict(type='mmpse.WarmStart', checkpoint='torchvision://resnet50', sort='bn'),
            ...)

    The whole backbone must be in the checkpoint, and other parts are taken if they are the same
    ones; the log says what is left at random. Sorted, the narrow subnets of a supernet start with
    the most important channels, and the full network computes the same. As ``init_cfg`` of the
    backbone it sorts what lies inside it: neck and heads read its outputs in their order.

    A run that is resumed loads its own checkpoint afterwards: nothing is sorted twice.

    Args:
        checkpoint: A file, a URL or a name, see
            :func:`mmpse.openmmlab.checkpoints.files.read_checkpoint`.
        sort: ``'bn'``, ``'l1'`` or ``'l2'``, see :func:`mmpse.slim.sorting.importances`; ``None``
            leaves the channels in their order.

    Raises:
        CheckpointError: If the checkpoint is of another backbone.
        UserError: If the model is to be sorted and cannot be watched.
    """

    def __init__(self, checkpoint: str, sort: str | None = None) -> None:
        self.checkpoint = checkpoint
        self.sort = sort

    def __call__(self, module: nn.Module) -> None:
        report = load_weights(module, self.checkpoint)
        print_log(f'{type(module).__name__}: {report}', logger='current')
        if self.sort is not None:
            sort_(module, look(module)[0], self.sort)
        # or their own init_cfg would come over these weights
        compat.mark_initialised(module, f'WarmStart: load from {self.checkpoint}')
        # by this word stock backbones know that zero_init_residual and the like come too late
        module.init_cfg = dict(type='Pretrained', checkpoint=self.checkpoint)
