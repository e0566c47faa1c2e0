"""What a model of OpenMMLab predicts from: the raw outputs of its heads, and its parts."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn

# children whose batch is regions, not images
REGION_HEADS = ('roi_head', 'bbox_roi_extractor')


def raw_outputs(
    model: nn.Module, images: Tensor, deployed: bool = False, regions: int | None = None
) -> Any:
    """Everything that a model, or any module, predicts from, as its heads put it out.

    Args:
        images: A batch ``(B, C, H, W)`` as the data preprocessor puts it out. A two-stage detector
            looks at one region for each level of its features.
        deployed: Leave out what only training needs: auxiliary heads.
        regions: Regions of each image, instead; e.g. as many as a detector looks at in a test.
    """
    if hasattr(model, 'encode_decode'):  # a segmentor
        features, samples = model.extract_feat(images), samples_of(images)
        heads = [model.decode_head]
        if not deployed:
            heads.append(getattr(model, 'auxiliary_head', None))
        cfg = model.test_cfg
        return [_cascade(head, features, samples, cfg) for head in heads if head is not None]
    if hasattr(model, 'with_bbox') and hasattr(model, 'extract_feat'):  # a detector
        samples = samples_of(images)
        if not getattr(model, 'with_roi_head', False):
            return model(images, samples, mode='tensor')
        features = model.extract_feat(images)
        sides = images.new_tensor(_region_sides(model.roi_head))[:, None]
        queries = getattr(getattr(model, 'rpn_head', None), 'num_proposals', None)
        regions = regions if queries is None else queries
        if regions is not None:
            sides = sides.repeat(-(-regions // len(sides)), 1)[:regions]
        boxes = torch.cat([torch.zeros(len(sides), 2).to(sides), sides, sides], 1)
        proposals = [InstanceData(bboxes=boxes) for _ in images]
        outputs = [model.rpn_head(features)] if model.with_rpn and queries is None else []
        with _unrefined(model.roi_head):
            if queries is None:
                outputs.append(model.roi_head.forward(features, proposals, samples))
            else:
                for region, query in zip(proposals, model.rpn_head.predict(features, samples)):
                    region.features = query.features
                outputs += _by_queries(model.roi_head, features, proposals, samples)
        if getattr(model, 'with_semantic_head', False):
            outputs.append(model.semantic_head(features))
        return outputs
    if hasattr(model, 'data_preprocessor'):
        return model(images, mode='tensor')
    return model(images)


def deployed_outputs(model: nn.Module, images: Tensor) -> Any:
    """Raw outputs of a model, of as many regions as a two-stage detector looks at in a test."""
    regions = None
    if getattr(model, 'with_roi_head', False):
        regions = (getattr(model, 'test_cfg', None) or {}).get('rpn', {}).get('max_per_img', 1000)
    return raw_outputs(model, images, deployed=True, regions=regions)


def _region_sides(roi_head: nn.Module) -> list[float]:
    """Sides in pixels of squares that are pooled from each level."""
    extractor = getattr(roi_head, 'bbox_roi_extractor', None)
    if isinstance(extractor, nn.ModuleList):
        extractor = extractor[0]
    levels = len(getattr(extractor, 'featmap_strides', [0]))
    return [getattr(extractor, 'finest_scale', 56) * 2.0**k for k in range(levels)]


@contextmanager
def _unrefined(roi_head: nn.Module) -> Iterator[None]:
    """Let the stages of a cascade look at the same regions.

    Regions that follow a stage's outputs would make these inputs of the next stage, and what marks
    channels is no place in an image.
    """
    stages = getattr(roi_head, 'bbox_head', None)
    stages = list(stages) if isinstance(stages, nn.ModuleList) else []
    for stage in stages:
        stage.regress_by_class = lambda boxes, *_: boxes
    try:
        yield
    finally:
        for stage in stages:
            del stage.regress_by_class


def _by_queries(roi_head: nn.Module, features: Any, regions: list, samples: list) -> list:
    """Outputs of a head whose regions have features of their own, as in Sparse R-CNN."""
    from mmdet.structures.bbox import bbox2roi

    rois = bbox2roi([region.bboxes for region in regions])
    queries = torch.stack([region.features for region in regions])
    infos = [sample.metainfo for sample in samples]
    outputs = []
    for stage in range(roi_head.num_stages):
        found = roi_head._bbox_forward(stage, features, rois, queries, infos)
        queries = found['object_feats']
        outputs.append(found['cls_score'])
        if roi_head.with_mask:
            attended = found['attn_feats'].flatten(0, 1)
            outputs.append(roi_head._mask_forward(stage, features, rois, attended))
    return outputs


def samples_of(images: Tensor) -> list[BaseDataElement]:
    """What a model is told of each image in a test."""
    size = tuple(images.shape[2:])
    sizes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size)
    return [BaseDataElement(metainfo=dict(sizes, scale_factor=(1.0, 1.0))) for _ in images]


def _cascade(head: nn.Module, features: Any, samples: list, test_cfg: Any) -> list:
    """Outputs of a segmentor's head, or of several: of a cascade, each reads the last one's."""
    outputs: list = []
    for one in head if isinstance(head, nn.ModuleList) else [head]:
        takes = inspect.signature(type(one).forward).parameters
        if outputs and 'coarse_point_feats' in takes:  # it refines points of the last map
            infos = [sample.metainfo for sample in samples]
            outputs.append(one.predict(features, outputs[-1], infos, test_cfg))
            continue
        also = [outputs[-1]] if outputs and 'prev_output' in takes else []
        also += [samples] if 'batch_data_samples' in takes else []
        outputs.append(one.forward(features, *also))
    return outputs


def parts(model: nn.Module) -> dict[str, nn.Module]:
    """The parts of a model: backbone, neck, heads; the heads of a cascade are parts each."""
    found = {}
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            found |= {f'{name}.{k}': part for k, part in enumerate(child)}
        elif name != 'data_preprocessor':
            found[name] = child
    return found


def parts_of(model: nn.Module) -> list[str]:
    """Names of the parts that a model runs on whole images: backbone, neck, heads.

    Their inputs and outputs have the images of the batch in the first dimension. A module that is
    no model of OpenMMLab is one part, ``''``.
    """
    if not hasattr(model, 'data_preprocessor'):
        return ['']
    return [
        name
        for name, part in parts(model).items()
        if name not in REGION_HEADS and any(True for _ in part.parameters())
    ]


def image_channels(model: nn.Module) -> list[int]:
    """How many channels the images of a model may have, the most likely number first."""
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    found = [] if mean is None else [mean.numel()]
    for module in model.modules():
        weight = getattr(module, 'weight', None)
        if isinstance(weight, Tensor) and weight.dim() == 4 and hasattr(module, 'in_channels'):
            found.append(module.in_channels)
            break
    return list(dict.fromkeys([*found, 3]))  # YOLOX's first convolution reads four pixels at once
