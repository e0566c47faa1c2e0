import itertools
import math
import random

import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.runner import set_random_seed
from mmengine.structures import BaseDataElement
from mmpretrain.evaluation import Accuracy
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader, Dataset

from mmpse.errors import UserError
from mmpse.openmmlab import compat
from mmpse.openmmlab.search.judge import BatchCache, Judge, calibration_batches, label_losses
from mmpse.openmmlab.silence import silent


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


class Augmented(Counting):
    """Images that random numbers change, by the generator of whoever loads them."""

    def __getitem__(self, index):
        return index + torch.rand(1) + random.random()


@pytest.mark.parametrize('workers', [0, 2])
def test_calibration_images_do_not_depend_on_the_number_of_workers(workers):
    set_random_seed(0)
    expected = list(itertools.islice(DataLoader(Augmented(), batch_size=2), 2))
    loader = DataLoader(Augmented(), batch_size=2, num_workers=workers)
    set_random_seed(0)
    found = calibration_batches(loader, 2)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    with pytest.raises(UserError, match='calibration=4, but the training data has 3 batches'):
        calibration_batches(loader, 4)


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


class Guessing(torch.nn.Module):
    """Is right about the images whose number a set holds; its scores are no distribution."""

    def __init__(self, right):
        super().__init__()
        self.right = right

    def val_step(self, batch):
        labels = [int(k) in self.right for k in batch['inputs'][:, 0]]
        scores = [torch.tensor([0.0, 5.0] if label else [5.0, 0.0]) for label in labels]
        return [DataSample().set_pred_score(s).set_gt_label(1) for s in scores]


class Numbered(Dataset):
    def __len__(self):
        return 33

    def __getitem__(self, index):
        return dict(inputs=torch.full((2,), float(index)))


@pytest.mark.parametrize('parts', [False, True])
def test_the_score_of_parts_of_the_images(parts):
    """Of a metric that is a mean, the pseudo-values are the means over the parts."""
    right = {0, 1, 2, 11, 12, 22, 32}
    evaluator, loader = Evaluator(Accuracy(topk=1)), DataLoader(Numbered(), batch_size=4)
    judge = Judge(Guessing(right), None, [], loader, evaluator, 'accuracy/top1', parts=parts)
    for _ in range(2):  # nothing is left over from the first time
        verdict = judge.evaluate(judge.model)
        assert verdict.score == pytest.approx(100 * 7 / 33) and verdict.loss is None
        if not parts:
            assert verdict.parts is None
            continue
        expected = [100 * len(right & {k, k + 11, k + 22}) / 3 for k in range(11)]
        assert verdict.parts == pytest.approx(expected, abs=1e-4)


def test_metrics_print_and_log_nothing_while_they_judge(capsys):
    logger = MMLogger.get_instance('quiet', log_level='INFO')
    level = logger.level
    with silent():
        print('a table')
        logger.info('another')
        logger.warning('something is amiss')
    out = capsys.readouterr().out
    assert 'a table' not in out and 'another' not in out and logger.level == level
