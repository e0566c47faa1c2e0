"""A test with augmentation: what is predicted of several views of an image is merged."""

from mmengine.config import Config
from torch import nn

from mmpse.openmmlab.errors import ConfigError, name_of
from mmpse.openmmlab.types import in_scope

from .datasets import nested, replace_leaves

# what merges the predictions of the packages' models, where a config does not say; mmdet's is in
# MMEngine's registry
MERGING = dict(
    mmdet=dict(
        type='DetTTAModel',
        tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
    ),
    mmpretrain=dict(type='mmpretrain.AverageClsScoreTTA'),
    mmseg=dict(type='mmseg.SegTTAModel'),
)
# what mmdet's has to know to turn boxes back, and does not pack by default
META_KEYS = 'img_id img_path ori_shape img_shape scale_factor flip flip_direction'.split()


def check_merging(model: nn.Module) -> None:
    """
    Raises:
        ConfigError: If a detector that is tested with augmentation predicts masks, which mmdet's
            model for it does not merge.
    """
    from mmdet.models import DetTTAModel  # which other packages do without

    # in a wrapper perhaps; one of a user may merge masks
    merging = next((m for m in model.modules() if type(m) is DetTTAModel), None)
    if merging is None:
        return
    names = [name for name, _ in merging.module.named_modules()]
    if heads := [name for name in names if name.endswith(('mask_head', 'panoptic_head'))]:
        raise ConfigError(
            f'a {type(merging.module).__name__} predicts masks ({heads[0]}), and DetTTAModel '
            'merges only boxes of several views; test it without --tta'
        )


def augment_test(cfg: Config) -> None:
    """Let the test of a config predict from the views of its ``tta_pipeline``, merged by its
    ``tta_model``.

    A config without them is tested on every image and its mirror image, as by the tools of mmdet
    and mmpretrain.

    Raises:
        ConfigError: If it has no test_dataloader; or no ``tta_model``, and is of another package
            than mmdet, mmpretrain and mmseg.
    """
    if not cfg.get('test_dataloader'):
        raise ConfigError(f'{name_of(cfg)} has no test_dataloader; give a config that has one')
    scope = cfg.get('default_scope')
    merging = cfg.get('tta_model') or MERGING.get(scope)
    if merging is None:
        raise ConfigError(
            f'{name_of(cfg)} has no tta_model, which merges what is predicted of several views; '
            f'add one and a tta_pipeline (there is a default of {", ".join(MERGING)}, '
            f'default_scope is {scope!r})'
        )
    dataset = cfg.test_dataloader.dataset
    pipeline = cfg.get('tta_pipeline')
    if not pipeline:
        *loading, packing = list(nested(dataset))[-1].pipeline
        if scope == 'mmdet':
            packing = dict(packing, meta_keys=META_KEYS)
        # the first view's labels are compared with
        mirrored = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
        pipeline = [*loading, dict(type='TestTimeAug', transforms=[mirrored, [packing]])]
    with in_scope(cfg):
        cfg.test_dataloader.dataset = replace_leaves(
            dataset, lambda leaf: dict(leaf, pipeline=pipeline)
        )
    cfg.model = dict(merging, module=cfg.model)
