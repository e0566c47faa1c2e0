"""What a stock model takes in training, made up: random images, boxes, masks, label maps."""

import inspect

import numpy as np
import torch
from mmengine.structures import InstanceData

CLASS_COUNTS = ('num_things_classes', 'num_classes')


def training_data(model, scope, size, images=2):
    """The arguments of a model's forward, as its data preprocessor puts them out.

    Args:
        model: A classifier, detector or segmentor.
        scope: Default scope of its config: ``'mmpretrain'``, ``'mmdet'`` or ``'mmseg'``.
        size: Height and width of the images.
        images: Images of the batch.
    """
    torch.manual_seed(0)
    make = dict(mmpretrain=_classified, mmdet=_detected, mmseg=_segmented)[scope]
    channels = 6 if _takes_pairs(model) else 3
    inputs = torch.randn(images, channels, *size)
    return dict(inputs=inputs, data_samples=make(model, size, images))


def _takes_pairs(model):
    first = next((m for m in model.modules() if isinstance(m, torch.nn.Conv2d)), None)
    return first is not None and first.in_channels == 6


def _classes(model):
    """How many classes the labels may have: the fewest that a head has."""
    for key in CLASS_COUNTS:
        found = [getattr(m, key, None) for m in model.modules()]
        if found := [n for n in found if isinstance(n, int) and n > 0]:
            return min(found)
    return 2


def _metainfo(size):
    return dict(
        img_shape=size,
        ori_shape=size,
        pad_shape=size,
        batch_input_shape=size,
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        border=[0, 0, 0, 0],
        img_id=0,
    )


def _classified(model, size, images):
    from mmpretrain.structures import DataSample

    classes = _classes(model)
    several = any(
        'MultiLabel' in type(m).__name__ or 'CSRA' in type(m).__name__ for m in model.modules()
    )
    scored = several or getattr(model.data_preprocessor, 'to_onehot', False)  # for Mixup
    samples = [DataSample(metainfo=_metainfo(size)) for _ in range(images)]
    for k, sample in enumerate(samples):
        sample.set_gt_label([k % classes] if several else k % classes)
        if scored:
            sample.set_gt_score(torch.eye(classes)[k % classes])
    return samples


def _detected(model, size, images):
    from mmdet.structures import ReIDDataSample
    from mmdet.testing import demo_mm_inputs

    classes = _classes(model)
    if type(model).__name__ == 'BaseReID':
        return [ReIDDataSample().set_gt_label(k % classes) for k in range(images)]
    # where there are masks, these want them as tensors
    boxes_alone = ('RTMDetHead', 'RTMDetSepBNHead')
    masks = not any(type(m).__name__ in boxes_alone for m in model.modules())
    samples = demo_mm_inputs(
        batch_size=images,
        image_shapes=(3, *size),
        num_items=[3] * images,
        num_classes=max(2, classes),
        with_mask=masks,
        with_semantic=True,
    )['data_samples']
    for sample in samples:
        sample.set_metainfo(_metainfo(size))
        truth = sample.gt_instances
        truth.labels %= classes
        # of some size: a box without a pixel has no mask
        low = truth.bboxes[:, :2].clamp(max=min(size) / 2)
        truth.bboxes = torch.cat([low, low + min(size) / 3], 1)
        if not getattr(model, 'with_rpn', True):
            sample.proposals = InstanceData(bboxes=truth.bboxes.clone(), scores=torch.ones(3))
        sample.ignored_instances = sample.ignored_instances[:0]
        sample.gt_sem_seg.sem_seg = sample.gt_sem_seg.sem_seg.long() % classes
        truth.instances_ids = torch.arange(len(truth))
    return samples


def _segmented(model, size, images):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    classes = _classes(model)
    samples = []
    for _ in range(images):
        sample = SegDataSample(metainfo=_metainfo(size))
        labels = torch.from_numpy(np.random.default_rng(0).integers(0, classes, (1, *size)))
        sample.gt_sem_seg = PixelData(data=labels)
        sample.gt_edge_map = PixelData(data=(labels == 0).long())
        sample.gt_depth_map = PixelData(data=torch.rand(1, *size) + 0.5)
        samples.append(sample)
    return samples


def loss_of(model, data):
    """The sum of a model's losses, in the mode that it is in."""
    arguments = inspect.signature(type(model).forward).parameters
    data = {key: value for key, value in data.items() if key in arguments or key == 'inputs'}
    losses = model(*data.values(), mode='loss')
    return model.parse_losses(losses)[0]
