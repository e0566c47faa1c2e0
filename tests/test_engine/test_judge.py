import math

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement
from mmpretrain.evaluation import Accuracy
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader, Dataset

from mmpse.engine.judge import BatchCache, Judge, Verdict, label_losses, nbytes
from mmpse.openmmlab import compat


class Counting(Dataset):
    def __init__(self):
        self.loaded = 0

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.loaded += 1
        return dict(inputs=torch.full((2,), float(index)))


def test_batches_are_loaded_once_and_handed_out_as_copies():
    data = Counting()
    cache = BatchCache(DataLoader(data, batch_size=2), limit=1000)
    first = [b['inputs'].clone() for b in cache]
    for batch in cache:
        batch['inputs'].zero_()
    assert all(torch.equal(a, b['inputs']) for a, b in zip(first, cache, strict=True))
    assert data.loaded == 6


def test_a_half_read_pass_is_not_taken_for_a_whole_one():
    cache = BatchCache(DataLoader(Counting(), batch_size=2), limit=1000)
    next(iter(cache))
    assert len(list(cache)) == 3


def test_too_many_batches_are_loaded_anew():
    data = Counting()
    cache = BatchCache(DataLoader(data, batch_size=2), limit=20)
    assert [len(list(cache)) for _ in range(2)] == [3, 3]
    assert data.loaded == 12


def test_nbytes_counts_nested_tensors():
    assert nbytes(dict(a=[torch.zeros(4)], b=(torch.zeros(2, dtype=torch.uint8), 'x'))) == 18


def test_label_losses_are_the_cross_entropies_of_the_logits():
    logits, labels = torch.randn(5, 7), torch.tensor([0, 6, 3, 3, 1])
    samples = [
        DataSample().set_pred_score(row.softmax(0)).set_gt_label(label)
        for row, label in zip(logits, labels)
    ]
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction='none')
    assert label_losses(samples) == pytest.approx(expected.tolist(), rel=1e-5)
    certain = DataSample().set_pred_score(torch.tensor([0.0, 1.0])).set_gt_label(0)
    assert math.isfinite(label_losses([certain])[0])


def test_label_losses_leaves_other_tasks_alone():
    multi = DataSample().set_pred_score(torch.rand(3)).set_gt_label([0, 2])
    assert label_losses([multi, BaseDataElement(), DataSample().set_gt_label(1)]) == []


def test_images_of_a_multi_label_classifier_with_one_label_each_have_no_label_loss():
    samples = [
        DataSample().set_pred_score(torch.tensor(scores)).set_gt_label([1])
        for scores in ([0.9, 0.8, 0.1], [0.1, 0.7, 0.1])
    ]
    assert label_losses(samples) == []


def test_no_samples_no_losses():
    assert label_losses([]) == []


def test_stock_mAP_is_not_rounded(tmp_path):
    """Two subnets whose mAP differs in the fourth decimal do not tie."""
    metric = CocoMetric(metric='bbox')
    metric.dataset_meta = dict(classes=('a',))
    evaluator = Evaluator(metric)

    def evaluate() -> float:
        for k in range(7):  # one of two boxes found in the first of 7 images, both in the others
            boxes = torch.tensor([[0.0, 0, 20, 20], [30, 30, 60, 60]])
            found = boxes[: 1 if k == 0 else 2]
            truth = [dict(bbox=box.tolist(), bbox_label=0, ignore_flag=0) for box in boxes]
            sample = dict(img_id=k, ori_shape=(64, 64), instances=truth)
            sample['pred_instances'] = dict(
                bboxes=found, scores=torch.ones(len(found)), labels=torch.zeros(len(found)).long()
            )
            evaluator.process([sample])
        return evaluator.evaluate(7)['coco/bbox_mAP']

    rounded = evaluate()
    with compat.unrounded(map(type, evaluator.metrics)):
        exact = evaluate()
    assert rounded == evaluate() == round(exact, 3)
    # 13 of 14 boxes found, at the 101 recalls of COCO: 0 to 0.92
    assert exact == pytest.approx(93 / 101, abs=1e-9) and exact != rounded


class Labelled(Counting):
    """Images of which each is its label; most of a made-up model's answers are right."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        inputs = super().__getitem__(index)['inputs']
        return dict(inputs=inputs, data_samples=DataSample().set_gt_label(index % 10))


class Answers:
    """A model that is right on the images of some numbers."""

    def __init__(self, right):
        self.right = set(right)

    def eval(self):
        pass

    def val_step(self, batch):
        for image, sample in zip(batch['inputs'], batch['data_samples']):
            wrong = int(image[0]) not in self.right
            scores = torch.eye(10)[(sample.gt_label[0] + wrong) % 10]
            sample.set_pred_score(scores * 0.9 + 0.01).set_pred_label(scores.argmax())
        return batch['data_samples']


def judge_of(data, evaluator, metric='accuracy/top1', **options):
    loader = DataLoader(data, batch_size=6, collate_fn=pseudo_collate)
    return Judge({}, {}, [], loader, evaluator, metric, **options)


def test_part_of_the_images_is_judged_first():
    """The score of the part and of all of them by hand; each image is loaded once."""
    data = Labelled()
    judge = judge_of(data, Evaluator(Accuracy(topk=(1,))), share=0.25, seed=3)
    first, rest = ([int(x[0]) for batch in part for x in batch['inputs']] for part in judge.parts)
    assert len(first) == 10 and sorted(first + rest) == list(range(40))
    assert first != sorted(first) and data.loaded == 40
    again = judge_of(data, Evaluator(Accuracy(topk=(1,))), share=0.25, seed=3)
    assert [int(x[0]) for batch in again.parts[0] for x in batch['inputs']] == first

    data.loaded = 0
    right = np.random.default_rng(0).permutation(40)[:23].tolist()
    part = 100 * len({*right} & {*first}) / 10
    plain = judge_of(Labelled(), Evaluator(Accuracy(topk=(1,)))).evaluate(Answers(right))
    assert plain.score == pytest.approx(57.5) and plain.part is None
    verdict = judge.evaluate(Answers(right), least=part)  # not below it
    assert verdict.part == pytest.approx(part)
    assert verdict[:2] == pytest.approx(plain[:2])
    assert judge.evaluate(Answers(right), least=part + 0.1) == Verdict(None, None, verdict.part)
    # what is dropped leaves nothing behind
    assert judge.evaluate(Answers(range(40))).score == 100
    assert data.loaded == 0


@pytest.mark.parametrize(('share', 'images'), [(0.01, 0), (0.99, 40)])
def test_share_of_no_image_or_all(share, images):
    with pytest.raises(ValueError, match=f'of 40 validation images is {images} of them; choose'):
        judge_of(Labelled(), Evaluator(Accuracy(topk=(1,))), share=share)


class Boxes(Labelled):
    """An image with two boxes each."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        boxes = [[0.0, 0, 20, 20], [30, 30, 60, 60]]
        truth = [dict(bbox=box, bbox_label=0, ignore_flag=0) for box in boxes]
        sample = DataSample(metainfo=dict(img_id=index, ori_shape=(64, 64), instances=truth))
        return dict(inputs=super(Labelled, self).__getitem__(index)['inputs'], data_samples=sample)


class Finds(Answers):
    """Both boxes on the images of some numbers, and one on the others."""

    def val_step(self, batch):
        samples = []
        for sample in batch['data_samples']:
            boxes = torch.tensor([box['bbox'] for box in sample.instances])
            found = boxes if sample.img_id in self.right else boxes[:1]
            sample = sample.metainfo | dict(
                pred_instances=dict(
                    bboxes=found,
                    scores=torch.ones(len(found)),
                    labels=torch.zeros(len(found)).long(),
                )
            )
            samples.append(sample)
        return samples


def test_metric_that_keeps_the_ground_truth_it_saw():
    """CocoMetric without a file takes the ground truth from what it is given first."""

    def judge(**options):
        metric = CocoMetric(metric='bbox')
        metric.dataset_meta = dict(classes=('a',))
        return judge_of(Boxes(), Evaluator(metric), 'coco/bbox_mAP', **options)

    raced, whole = judge(share=0.5), judge()
    for right in (range(8), range(3), range(6)):
        verdict = raced.evaluate(Finds(right))
        assert verdict.score == pytest.approx(whole.evaluate(Finds(right)).score)
        images = {int(x[0]) for batch in raced.parts[0] for x in batch['inputs']}
        found = 4 + len({*right} & images)
        assert verdict.part == pytest.approx((math.floor(found / 8 * 100) + 1) / 101, abs=1e-6)
