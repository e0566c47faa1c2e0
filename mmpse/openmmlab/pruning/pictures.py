"""Validation images with what models see on them, as HTML."""

from __future__ import annotations

import copy
import html
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.structures import BaseDataElement
from torch import nn

from mmpse.openmmlab.silence import silent
from mmpse.openmmlab.types import in_scope
from mmpse.registry import DATASETS
from mmpse.visualization.html import bars, embedded

from .subject import Subject

SCORE = 0.3  # boxes below are not drawn
TOP = 3  # classes that are named
IMAGES = 4
SIDE = 320  # pixels, up to which images with boxes are enlarged


@torch.no_grad()
def predictions(subject: Subject, models: Mapping[str, nn.Module]) -> str:
    """A few validation images, spread evenly, with the predictions of every model.

    Boxes and masks are drawn by mmdet's and mmseg's own visualizers; of a classifier's scores the
    highest are shown. Models are in eval mode, by the name of their column.
    """
    with in_scope(subject.cfg):
        with silent():
            dataset = DATASETS.build(copy.deepcopy(subject.cfg.val_dataloader['dataset']))
        rows = []
        for k in np.linspace(0, len(dataset) - 1, min(IMAGES, len(dataset))).astype(int):
            item = dataset[int(k)]
            found = {
                name: model.val_step(pseudo_collate([copy.deepcopy(item)]))[0].cpu()
                for name, model in models.items()
            }
            rows.append(_row(item, found, dict(dataset.metainfo)))
    header = ''.join(f'<th>{html.escape(name)}</th>' for name in ('image', *models))
    return f'<table class="pictures"><tr>{header}</tr>{"".join(rows)}</table>'


def _row(item: Mapping[str, Any], found: Mapping[str, BaseDataElement], meta: dict) -> str:
    image = _image(item)
    cells = []
    for sample in found.values():
        if 'pred_score' in sample:
            cells.append(_scores(sample, meta))
        else:
            cells.append(embedded(_drawn(image, sample, meta), 'predictions'))
    first = embedded(cv2.imencode('.png', image[..., ::-1])[1].tobytes(), 'image')
    if 'gt_label' in item['data_samples']:
        names = ', '.join(_names(meta, item['data_samples'].gt_label))
        first = f'<figure>{first}<figcaption>{html.escape(names)}</figcaption></figure>'
    return '<tr>' + ''.join(f'<td>{cell}</td>' for cell in (first, *cells)) + '</tr>'


def _image(item: Mapping[str, Any]) -> np.ndarray:
    """The image as RGB ``(H, W, 3)``: from its file, otherwise as the model gets it."""
    path = item['data_samples'].metainfo.get('img_path')
    if path is not None and Path(path).is_file():
        return mmcv.imread(path, channel_order='rgb')
    image = item['inputs'].permute(1, 2, 0).numpy().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(image[..., ::-1])


def _drawn(image: np.ndarray, sample: BaseDataElement, meta: dict[str, Any]) -> bytes:
    """The image with boxes or masks, as PNG."""
    options: dict[str, Any] = {}
    if 'pred_sem_seg' in sample and 'pred_instances' not in sample:
        from mmseg.visualization import SegLocalVisualizer as Visualizer

        if not meta.get('palette'):
            colours = np.random.RandomState(0).randint(0, 256, (len(meta['classes']), 3))
            meta = dict(meta, palette=colours.tolist())
        options['with_labels'] = False
    else:
        from mmdet.visualization import DetLocalVisualizer as Visualizer

        options['pred_score_thr'] = SCORE
        image, sample = _enlarged(image, sample)
    visualizer = Visualizer()
    visualizer.dataset_meta = meta
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'drawn.png')
        visualizer.add_datasample(
            'drawn', image, sample, draw_gt=False, out_file=str(path), **options
        )
        return path.read_bytes()


def _enlarged(image: np.ndarray, sample: BaseDataElement) -> tuple[np.ndarray, BaseDataElement]:
    """A small image and its boxes enlarged, so that their labels do not cover it."""
    factor = SIDE // max(image.shape[:2])
    boxes = sample.get('pred_instances')
    if factor < 2 or boxes is None or 'masks' in boxes:
        return image, sample
    sample = sample.clone()
    sample.pred_instances.bboxes = boxes.bboxes * factor
    return mmcv.imrescale(image, float(factor)), sample


def _scores(sample: BaseDataElement, meta: dict[str, Any]) -> str:
    """The highest scores, with bars."""
    scores, labels = sample.pred_score.flatten().topk(min(TOP, sample.pred_score.numel()))
    names = _names(meta, labels)
    return bars([(n, s, f'{s:.0%}') for n, s in zip(names, scores.tolist(), strict=True)])


def _names(meta: Mapping[str, Any], labels: torch.Tensor) -> list[str]:
    classes = meta.get('classes')
    return [str(classes[k]) if classes else f'class {k}' for k in labels.flatten().tolist()]
