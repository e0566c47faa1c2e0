"""What parts of the images add to a metric that is no mean over images."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from mmdet.evaluation import CocoMetric, MultiDatasetsEvaluator
from mmengine.evaluator import Evaluator
from pycocotools.cocoeval import COCOeval

from mmpse.openmmlab.search.judge import PARTS, Judge

IMAGES = 2 * PARTS + 1
META = dict(classes=('a', 'b'))


def results():
    """Two true boxes in every image; some are found, some by a little, some not."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(IMAGES):
        corners = rng.uniform(0, 40, (2, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(12, 20, (2, 2))], 1)
        anns = [
            dict(bbox=box.tolist(), bbox_label=label, ignore_flag=0)
            for label, box in enumerate(boxes)
        ]
        found = boxes + rng.normal(0, 2, (2, 4))
        pred = dict(img_id=k, bboxes=found, scores=rng.uniform(0.1, 1, 2), labels=np.arange(2))
        rows.append((dict(img_id=k, width=64, height=64, anns=anns), pred))
    return rows


def annotations(rows, path):
    images = [dict(id=truth['img_id'], width=64, height=64) for truth, _ in rows]
    boxes = [
        (truth['img_id'], ann['bbox_label'], *ann['bbox'])
        for truth, _ in rows
        for ann in truth['anns']
    ]
    anns = [
        dict(
            id=k,
            image_id=image,
            category_id=label,
            bbox=[x1, y1, x2 - x1, y2 - y1],
            area=(x2 - x1) * (y2 - y1),
            iscrowd=0,
        )
        for k, (image, label, x1, y1, x2, y2) in enumerate(boxes, 1)
    ]
    categories = [dict(id=label, name=name) for label, name in enumerate(META['classes'])]
    path.write_text(json.dumps(dict(images=images, annotations=anns, categories=categories)))
    return str(path)


def judge_of(evaluator):
    """A judge whose model has run already."""
    judge = Judge.__new__(Judge)
    judge.evaluator, judge.metric = evaluator, 'coco/bbox_mAP'
    judge.batches = SimpleNamespace(images=IMAGES)
    return judge


@pytest.mark.parametrize('from_file', [False, True])
def test_images_that_are_left_out_are_not_missed(from_file, tmp_path, monkeypatch):
    rows = results()
    file = annotations(rows, tmp_path / 'all.json') if from_file else None
    metric = CocoMetric(ann_file=file, metric='bbox')
    metric.dataset_meta = META
    metric.results = list(rows)
    matched, stock = [], COCOeval.evaluateImg

    def match(self, *args):
        matched.append(args)
        return stock(self, *args)

    monkeypatch.setattr(COCOeval, 'evaluateImg', match)
    score, _, values = judge_of(Evaluator(metric))._score_of_parts()
    assert len(matched) == len(META['classes']) * 4 * IMAGES  # of 4 ranges of area, each once
    monkeypatch.undo()
    assert COCOeval.evaluateImg is stock

    def map_of(rows):  # by a metric that has never seen other images
        alone = CocoMetric(metric='bbox')
        alone.dataset_meta = META
        return alone.compute_metrics(rows)['bbox_mAP']

    assert score == map_of(rows) and 0.1 < score < 0.9
    rest = [[r for k, r in enumerate(rows) if k % PARTS != part] for part in range(PARTS)]
    expected = [PARTS * score - (PARTS - 1) * map_of(rows) for rows in rest]
    np.testing.assert_allclose(values, expected, atol=1e-9)
    assert len(metric.img_ids) == IMAGES  # the next subnet is judged by all


def test_sets_that_are_told_apart_by_place_have_no_parts():
    metrics = [CocoMetric(metric='bbox') for _ in range(2)]
    evaluator = MultiDatasetsEvaluator(metrics, ['a', 'b'])
    evaluator.dataset_meta = dict(META, cumulative_sizes=[10, IMAGES])
    for metric in metrics:
        metric.results = results()
    judge = judge_of(evaluator)
    judge.metric = 'a/coco/bbox_mAP'
    score, _, values = judge._score_of_parts()
    assert 0.1 < score < 0.9 and values == ()
