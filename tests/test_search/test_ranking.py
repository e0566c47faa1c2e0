import itertools

import numpy as np
import pytest

from mmpse.search.ranking import ranking_agreement


def test_agreement_against_the_definitions(rng):
    scores, accuracies = rng.permutation(12), rng.permutation(12) / 10  # no ties
    agreement = ranking_agreement(scores, accuracies, topk=(1, 3))
    pairs = list(itertools.combinations(range(12), 2))
    signs = [np.sign((scores[a] - scores[b]) * (accuracies[a] - accuracies[b])) for a, b in pairs]
    assert agreement['kendall_tau'] == pytest.approx(np.mean(signs))
    ranks = [np.argsort(np.argsort(values)) for values in (scores, accuracies)]
    assert agreement['spearman'] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    handed_on = [accuracies[k] for k in range(12) if scores[k] >= 9]
    assert agreement['regret_top3'] == pytest.approx(1.1 - max(handed_on))
    assert agreement['regret_top1'] == pytest.approx(1.1 - accuracies[scores.argmax()])


def test_perfect_and_reversed_rankings():
    same, other = ranking_agreement([1, 2, 3], [5, 6, 7]), ranking_agreement([3, 2, 1], [5, 6, 7])
    assert same == pytest.approx(dict(kendall_tau=1, spearman=1, regret_top1=0, regret_top5=0))
    assert other == pytest.approx(dict(kendall_tau=-1, spearman=-1, regret_top1=2, regret_top5=0))


@pytest.mark.parametrize(
    ('scores', 'accuracies', 'message'),
    [
        ([1, 2], [1, 2], 'at least three subnets'),
        ([1, 2, 3], [1, 2], 'got 3 scores and 2 accuracies'),
        ([1, float('nan'), 3], [1, 2, 3], 'the scores give no ranking'),
        ([1, 2, 3], [7, 7, 7], 'the accuracies give no ranking'),
    ],
)
def test_no_ranking(scores, accuracies, message):
    with pytest.raises(ValueError, match=message):
        ranking_agreement(scores, accuracies)
