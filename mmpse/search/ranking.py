"""How well scores rank subnets, against the accuracies of the subnets trained on their own."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import kendalltau, spearmanr

from mmpse.errors import UserError


def ranking_agreement(
    scores: Sequence[float], accuracies: Sequence[float], topk: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Agreement of the ranking by score with that by accuracy.

    Args:
        scores: What a search ranks subnets by, higher is better, ``(subnets,)``.
        accuracies: Accuracies of the same subnets, each trained on its own, ``(subnets,)``.
        topk: How many of the best-scored subnets a search hands on.

    Returns:
        ``kendall_tau`` (tau-b, which corrects for ties) and ``spearman``, 1 for the same ranking
        and 0 for none in common; ``regret_top{k}``: what the best of the k best-scored subnets
        lacks in accuracy to the best of all.

    Raises:
        ValueError: If there are fewer than three subnets, or scores or accuracies that are not
            finite or all equal.
    """
    values = dict(scores=np.asarray(scores, float), accuracies=np.asarray(accuracies, float))
    if values['scores'].shape != values['accuracies'].shape or len(scores) < 3:
        raise UserError(
            'expected a score and an accuracy for each of at least three subnets, got '
            f'{len(scores)} scores and {len(accuracies)} accuracies'
        )
    for name, array in values.items():
        if not np.isfinite(array).all() or np.ptp(array) == 0:
            raise UserError(f'the {name} give no ranking: {array.tolist()[:10]}')
    best_first = np.argsort(-values['scores'], kind='stable')
    ranked = values['accuracies'][best_first]
    return dict(
        kendall_tau=float(kendalltau(*values.values()).statistic),
        spearman=float(spearmanr(*values.values()).statistic),
        **{f'regret_top{k}': float(ranked.max() - ranked[:k].max()) for k in topk},
    )
