"""How stable a ranking is: the cases are drawn anew many times, and the systems ranked on each draw.

Wiesenfarth et al. 2021 (doi.org/10.1038/s41598-021-82017-6): values are averaged over cases, means are ranked, ties
share the best rank; agreement of a draw's ranking with that of all cases is Kendall's τ.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from segsync_train.comparison.statistics import Values

Ranks = npt.NDArray[np.int64]

DRAWS = 1000


@dataclass(frozen=True)
class Ranking:
    """Ranks of systems, and how firm they are.

    Attributes:
        ranks: (systems,) on all cases.
        drawn: (draws, systems).
        tau: (draws,), NaN where all systems are tied.
    """

    ranks: Ranks
    drawn: Ranks
    tau: Values

    @property
    def fractions(self) -> Values:
        """How often each system (row) had each rank (column), as a fraction of the draws."""
        count = self.ranks.size
        counts = [np.bincount(column - 1, minlength=count) for column in self.drawn.T]
        return np.array(counts) / len(self.drawn)

    @property
    def medians(self) -> Values:
        """Each system's median rank."""
        medians: Values = np.median(self.drawn, axis=0)
        return medians

    @property
    def intervals(self) -> Values:
        """The ranks (2, systems) between which 95 % of the draws lie."""
        return np.quantile(self.drawn, (0.025, 0.975), axis=0)


def rank(values: Values, *, larger_is_better: bool, draws: int = DRAWS, seed: int = 0) -> Ranking:
    """Rank systems by their means over cases, and again on cases drawn with replacement.

    A value that is undefined (a distance to a mask that is empty) counts as the worst that any system has in any case:
    whoever finds nothing must not gain by it.

    Args:
        values: (systems, cases); NaN or infinite where undefined.
        larger_is_better: Whether the larger value is the better.
        draws: Number of draws.
        seed: Of the draws.

    Returns:
        The ranks on all cases and on each draw, and how these agree.
    """
    signed = values if larger_is_better else -values
    defined = np.isfinite(signed)
    worst = signed[defined].min() if defined.any() else 0.0
    filled = np.where(defined, signed, worst)
    cases = filled.shape[1]
    weights = np.random.default_rng(seed).multinomial(cases, np.full(cases, 1 / cases), size=draws) / cases
    ranks, drawn = _ranks(filled.mean(axis=1)[None])[0], _ranks(weights @ filled.T)
    # Draws repeat each other's rankings: each is compared once.
    different, which = np.unique(drawn, axis=0, return_inverse=True)
    tau = np.array([stats.kendalltau(ranks, one).statistic for one in different])
    return Ranking(ranks, drawn, tau[which.ravel()])


def _ranks(means: Values) -> Ranks:
    """Ranks from 1 for the largest of each row; ties share the best."""
    ranked: Ranks = stats.rankdata(-np.round(means, 12), method="min", axis=1).astype(np.int64)
    return ranked
