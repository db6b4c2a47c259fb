"""Rank, then aggregate, as the ISLES and AIMS-TBI leaderboards do: every case and metric ranks for itself.

Wiesenfarth et al. 2021 (doi.org/10.1038/s41598-021-82017-6) set it against ranking the means.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from segsync.arrays import FloatArray
from segsync_train.evaluation.metrics import LARGER_IS_BETTER


def case_ranks(values: FloatArray, metrics: Sequence[str]) -> FloatArray:
    """Rank candidates (teams, systems, operating points) in each metric and case.

    Args:
        values: (metrics, candidates, cases). NaN, as the distance to a mask that is empty, counts as the worst.
        metrics: Fields of `metrics.Scores`, which say whether larger values are better.

    Returns:
        Ranks of the same shape, from 1 for the best; ties share the mean of their ranks.
    """
    signs = np.array([-1.0 if metric in LARGER_IS_BETTER else 1.0 for metric in metrics])[:, None, None]
    # Rounded: what differs in the last digits of a float is a tie.
    signed = np.round(np.where(np.isnan(values), np.inf, values * signs), 12)
    ranks: FloatArray = stats.rankdata(signed, method="average", axis=1)
    return ranks
