"""Boxes, scores and labels from what a dense head of mmdet puts out, in operations of ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from mmdet.models.dense_heads import YOLOXHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from .graph import TRANSLATIONS, ExportError

# a head is decoded here if these are the functions that it predicts with, and not its own
DENSE = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')
YOLOX = ('predict_by_feat', '_bbox_decode', '_bbox_post_process')


class Decode(nn.Module):
    """What a head's ``predict`` does, for a whole batch and with outputs of one size.

    The head's own prior generator and box coder decode. Of every level the ``nms_pre`` best pairs
    of a box and a class are candidates, as in mmdet; places that no pair fills have score 0 and
    label -1.

    Args:
        nms: Suppress what overlaps, and keep the ``max_per_img`` best (YOLOX: all), best first.

    Raises:
        ExportError: If the head predicts in a way of its own, or its ``test_cfg`` asks for
            something that ONNX has no operator for.
    """

    names = ('boxes', 'scores', 'labels')

    def __init__(self, model: nn.Module, nms: bool) -> None:
        super().__init__()
        head, detector = model.bbox_head, type(model).__name__
        self.head = [head]  # not as a module: it is one of the model
        if type(model).predict is not SingleStageDetector.predict:
            raise ExportError(
                f'cannot decode {detector}: its predict is not that of mmdet.SingleStageDetector; '
                'export the raw outputs'
            )
        if all(getattr(type(head), name) is getattr(YOLOXHead, name, None) for name in YOLOX):
            self.candidates = self._yolox
        elif all(getattr(type(head), name) is getattr(BaseDenseHead, name) for name in DENSE):
            self.candidates = self._dense
        else:
            own = next(n for n in DENSE if getattr(type(head), n) is not getattr(BaseDenseHead, n))
            raise ExportError(
                f'cannot decode {type(head).__name__}: its {own} is its own, not that of '
                'mmdet.BaseDenseHead; export the raw outputs'
            )
        self.cfg = cfg = dict(head.test_cfg or {})
        if self.candidates == self._dense and cfg.get('nms_pre', -1) <= 0:
            raise ExportError(
                f'cannot decode {detector}: test_cfg.nms_pre is {cfg.get("nms_pre")}, expected the '
                'number of candidates of a level, e.g. 1000'
            )
        if not hasattr(head, 'loss_cls'):  # SSDHead: predict_by_feat reads it all the same
            raise ExportError(
                f"cannot decode {type(head).__name__}: mmdet's own predict fails with it (it has "
                'no loss_cls); export the raw outputs'
            )
        if getattr(head.loss_cls, 'custom_cls_channels', False):
            raise ExportError(
                f'cannot decode {type(head).__name__}: its scores come from the activation of '
                f'{type(head.loss_cls).__name__}; export the raw outputs'
            )
        self.register_buffer('score_threshold', torch.tensor(float(cfg.get('score_thr', 0))))
        self.nms = _nms_of(cfg, detector) if nms else None

    def forward(self, images: Tensor, inputs: Tensor, *raw: Tensor) -> tuple[Tensor, ...]:
        """``boxes`` ``(B, K, 4)``, ``scores`` ``(B, K)``, ``labels`` ``(B, K)``.

        Args:
            images: The images, of which boxes end at the border; only their shape is used.
            inputs: What the model got, padded; not used.
            raw: What the head puts out, all levels of one kind after the other.
        """
        levels = len(self.head[0].prior_generator.strides)
        outputs = [raw[k : k + levels] for k in range(0, len(raw), levels)]
        boxes, scores, labels = self.candidates(outputs, images.shape[-2:])
        if self.nms is not None:
            scores = self._suppressed(boxes, scores, labels)
            limit = self.nms['limit']
            if limit is None:
                scores, order = scores.sort(descending=True)
            else:
                scores, order = scores.topk(min(limit, scores.shape[1]))
            boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
            labels = labels.gather(1, order)
        return boxes, scores, torch.where(scores > 0, labels, -1)

    def _dense(self, outputs: Sequence, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """As ``BaseDenseHead``: RetinaNet, ATSS, FCOS, RTMDet, ..."""
        (head,), levels = self.head, list(zip(*outputs))
        priors = head.prior_generator.grid_priors(
            [level[0].shape[-2:] for level in levels],
            dtype=outputs[0][0].dtype,
            device=outputs[0][0].device,
        )
        found = [self._level(*level, priors=p) for level, p in zip(levels, priors, strict=True)]
        priors, deltas, scores, factors, labels = (torch.cat(x, dim=1) for x in zip(*found))
        batch, number = scores.shape
        decoded = head.bbox_coder.decode(priors.flatten(0, 1), deltas.flatten(0, 1), max_shape=size)
        boxes = get_box_tensor(decoded).reshape(batch, number, 4)
        valid = scores > self.score_threshold
        smallest = self.cfg.get('min_bbox_size', -1)
        if smallest >= 0:
            valid = valid & ((boxes[..., 2:] - boxes[..., :2]).amin(-1) > smallest)
        return boxes, torch.where(valid, scores * factors, 0.0), labels

    def _level(
        self, cls_score: Tensor, bbox_pred: Tensor, factor: Tensor | None = None, *, priors: Tensor
    ) -> tuple[Tensor, ...]:
        """Priors, deltas, scores, factors and labels of a level's best pairs, ``(B, nms_pre, ..)``.

        The best pairs are of the boxes whose best class is best: of those no more than ``nms_pre``
        count, and only they are gathered.
        """
        (head,), number = self.head, self.cfg['nms_pre']
        scores = _rows(cls_score, head.cls_out_channels)
        scores = scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[..., :-1]
        classes, last = scores.shape[-1], scores.shape[1] - 1
        # rows that do not exist fill up small levels, so that the number is the same at any size
        best = F.pad(scores.amax(-1), (0, number), value=-1.0).topk(number)[1]
        exists = best <= last
        best = best.clamp(max=last)
        scores = torch.where(exists[..., None], _gather(scores, best), 0.0)
        scores, pairs = scores.flatten(1).topk(number)
        best, labels = best.gather(1, pairs // classes), pairs % classes
        factors = torch.ones_like(scores)
        if factor is not None:
            factors = _gather(_rows(factor, 1), best).squeeze(-1).sigmoid()
        deltas = _gather(_rows(bbox_pred, head.bbox_coder.encode_size), best)
        return priors[best], deltas, scores, factors, labels

    def _yolox(self, outputs: Sequence, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """As ``YOLOXHead``: every box is a candidate of its best class."""
        (head,), (cls_scores, bbox_preds, objectnesses) = self.head, outputs
        priors = head.prior_generator.grid_priors(
            [score.shape[-2:] for score in cls_scores],
            dtype=cls_scores[0].dtype,
            device=cls_scores[0].device,
            with_stride=True,
        )
        rows = [
            torch.cat([_rows(level, channels) for level in levels], dim=1)
            for levels, channels in (
                (cls_scores, head.cls_out_channels),
                (bbox_preds, 4),
                (objectnesses, 1),
            )
        ]
        scores, labels = rows[0].sigmoid().max(-1)
        scores = scores * rows[2].squeeze(-1).sigmoid()
        boxes = head._bbox_decode(torch.cat(priors), rows[1])
        return boxes, torch.where(scores >= self.score_threshold, scores, 0.0), labels

    def _suppressed(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """The scores ``(B, K)``, 0 where a better box of the class overlaps, as mmcv's
        ``batched_nms``: boxes of different classes are moved apart."""
        if not self.nms['class_agnostic']:
            reach = torch.where((scores > 0)[..., None], boxes, 0.0).amax((1, 2)) + 1
            boxes = boxes + (labels * reach[:, None])[..., None]
        keep = torch.ops.mmpse.nms_keep(boxes, scores, self.nms['iou_threshold'])
        return torch.where(keep, scores, 0.0)


def _rows(level: Tensor, channels: int) -> Tensor:
    """``(B, A * channels, h, w)`` as ``(B, h * w * A, channels)``."""
    # no reshape(B, -1, channels): dividing symbolic sizes takes PyTorch seconds
    rows = level.permute(0, 2, 3, 1).contiguous().flatten(1, 2)
    return rows.unflatten(2, (-1, channels)).flatten(1, 2)


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    """The rows ``(B, K, C)`` at ``index`` ``(B, K)``."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))


def _nms_of(cfg: dict[str, Any], detector: str) -> dict[str, Any]:
    """IoU threshold, whether classes count, and how many boxes remain at most."""
    nms = dict(cfg.get('nms') or {})
    known = {'type', 'iou_threshold', 'class_agnostic', 'split_thr', 'max_num'}
    if nms.get('type') not in ('nms', torchvision.ops.nms) or set(nms) - known:
        raise ExportError(
            f'cannot put the suppression of {detector} into ONNX: test_cfg.nms is {nms}, expected '
            "dict(type='nms', iou_threshold=...); export without nms"
        )
    limits = [n for n in (cfg.get('max_per_img', -1), nms.get('max_num', -1)) if n > 0]
    return dict(
        iou_threshold=float(nms['iou_threshold']),
        class_agnostic=bool(nms.get('class_agnostic', False)),
        limit=min(limits, default=None),
    )


@torch.library.custom_op('mmpse::nms_keep', mutates_args=())
def nms_keep(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Which of the boxes ``(B, K, 4)`` with scores ``(B, K)`` above 0 no better one overlaps."""
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for k in range(len(boxes)):
        present = (scores[k] > 0).nonzero()[:, 0]
        kept = torchvision.ops.nms(boxes[k, present], scores[k, present], iou_threshold)
        keep[k, present[kept]] = True
    return keep


@nms_keep.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def nms_keep_onnx(boxes: Any, scores: Any, iou_threshold: float) -> Any:
    """:func:`nms_keep` as ONNX: its NonMaxSuppression gives a list, which is made a mask."""
    from onnxscript import opset18 as op

    one = op.Constant(value_ints=[1])
    chosen = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, one),
        op.Size(scores),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[0.0]),
    )  # (number, 3): image, class, box
    places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
    kept = op.Expand(op.Constant(value_float=1.0), op.Shape(places, start=0, end=1))
    nothing = op.Mul(scores, op.Constant(value_float=0.0))
    return op.Greater(op.ScatterND(nothing, places, kept), op.Constant(value_float=0.0))


TRANSLATIONS[torch.ops.mmpse.nms_keep.default] = nms_keep_onnx
