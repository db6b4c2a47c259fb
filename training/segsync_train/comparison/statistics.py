"""Two systems on the same cases: Wilcoxon's signed-rank test, Holm's correction, effect size, bootstrap interval.

Every case counts once: its differences, means over a system's seeds, are what is ranked and resampled. Where a system
has several seeds they are resampled too: what another training would have given is then part of the interval. Cases in
which one of the two has no value (a distance to a mask that is empty) are left out, and `n` says how many remain.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Values = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

#: p below which two systems are told apart.
LEVEL = 0.05
#: Draws of the bootstrap, and the confidence of its interval.
DRAWS, CONFIDENCE = 9999, 0.95
#: Digits that differences are compared with: rounding must not tell equal ones apart.
DIGITS = 9


@dataclass(frozen=True)
class Difference:
    """A system minus the reference; NaN where undefined.

    Attributes:
        n: Cases that both have a value in.
        mean: Of the difference.
        low: Of its bootstrap interval.
        high: Likewise.
        p: Two-sided.
        effect: Matched-pairs rank-biserial correlation, 1 where the system's value is larger in every case and −1 where
            it is smaller.
        seeds: Of the system and of the reference; with one each the interval holds the cases' variation alone.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    effect: float
    seeds: tuple[int, int] = (1, 1)


def difference(system: Values, reference: Values, *, seed: int = 0) -> Difference:
    """Compare two systems.

    Args:
        system: Its values, (cases,) or (seeds, cases).
        reference: Those of the other system, of the same cases; the seeds of both need not be equally many.
        seed: Of the bootstrap.

    Returns:
        What is said of their differences.
    """
    both = np.atleast_2d(system), np.atleast_2d(reference)
    seeds = (len(both[0]), len(both[1]))
    pairs = paired(both[0].mean(0), both[1].mean(0))
    if pairs.size == 0:
        return Difference(0, math.nan, math.nan, math.nan, math.nan, math.nan, seeds)
    low, high = mean_interval(pairs, seed=seed) if seeds == (1, 1) else seeds_interval(*both, seed=seed)
    return Difference(len(pairs), float(pairs.mean()), low, high, signed_rank(pairs), rank_biserial(pairs), seeds)


def paired(system: Values, reference: Values) -> Values:
    """Subtract the reference's values from the system's.

    Args:
        system: (cases,), NaN where undefined.
        reference: (cases,), NaN where undefined.

    Returns:
        The differences (n,) of the cases in which both have a value, rounded so that equal values are equal.
    """
    pairs: Values = np.round(system - reference, DIGITS)
    return pairs[np.isfinite(pairs)]


def signed_rank(pairs: Values, alternative: str = "two-sided") -> float:
    """Test whether differences are symmetric about 0, by Wilcoxon's signed ranks.

    Args:
        pairs: (n,); those that are 0 are left out.
        alternative: `two-sided`, `greater` or `less`.

    Returns:
        p: exact for few differences, ties of their absolute values sharing ranks; 1 if nothing differs.
    """
    kept = pairs[pairs != 0]
    return float(stats.wilcoxon(kept, alternative=alternative).pvalue) if kept.size else 1.0


def rank_biserial(pairs: Values) -> float:
    """Matched-pairs rank-biserial correlation, (R⁺ − R⁻) / (R⁺ + R⁻) of the signed ranks (Kerby 2014).

    Args:
        pairs: Differences (n,); those that are 0 are left out.

    Returns:
        −1 to 1; 0 if nothing differs.
    """
    kept = pairs[pairs != 0]
    if kept.size == 0:
        return 0.0
    ranks = stats.rankdata(np.abs(kept))
    return float((ranks * np.sign(kept)).sum() / ranks.sum())


def mean_interval(pairs: Values, *, seed: int = 0) -> tuple[float, float]:
    """The mean's bootstrap interval, bias-corrected and accelerated (BCa).

    Args:
        pairs: Differences (n,).
        seed: Of the draws.

    Returns:
        Its lower and upper end; NaN for fewer than two differences.
    """
    if pairs.size < 2:
        return math.nan, math.nan
    if np.ptp(pairs) == 0:
        return float(pairs[0]), float(pairs[0])
    found = stats.bootstrap(
        (pairs,), np.mean, n_resamples=DRAWS, confidence_level=CONFIDENCE, rng=np.random.default_rng(seed)
    ).confidence_interval
    return float(found.low), float(found.high)


def seeds_interval(system: Values, reference: Values, *, seed: int = 0) -> tuple[float, float]:
    """The mean difference's interval over cases and seeds: percentiles of a hierarchical bootstrap.

    Each draw takes cases, the same for both systems, and of each system its seeds, which all cases share. Of n seeds n
    − 1 are drawn: with n, as with cases, the variance of so few would be too small by 1/n of itself (Rao and Wu 1988).

    Args:
        system: (seeds, cases).
        reference: Likewise, of as many cases.
        seed: Of the drawing.

    Returns:
        Its ends; NaN for fewer than two cases.
    """
    known = np.isfinite(system).all(0) & np.isfinite(reference).all(0)
    system, reference = system[:, known], reference[:, known]
    count = system.shape[1]
    if count < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    cases = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count
    means = [np.einsum("ds,sc,dc->d", _drawn_seeds(len(one), rng), one, cases) for one in (system, reference)]
    low, high = np.quantile(means[0] - means[1], ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def _drawn_seeds(count: int, rng: np.random.Generator) -> Values:
    """Weights (draws, seeds) of each draw's seeds; of a single one always 1."""
    drawn = max(1, count - 1)
    weights: Values = rng.multinomial(drawn, np.full(count, 1 / count), size=DRAWS) / drawn
    return weights


def holm(p: Sequence[float]) -> list[float]:
    """Correct a family of p-values by Holm's step-down procedure.

    Args:
        p: The family; NaN counts for nothing.

    Returns:
        The corrected values in the same order; NaN stays.
    """
    adjusted = [math.nan] * len(p)
    known = sorted((value, index) for index, value in enumerate(p) if not math.isnan(value))
    largest = 0.0
    for place, (value, index) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - place)))
        adjusted[index] = largest
    return adjusted


def beats(values: Values, *, larger_is_better: bool) -> Values:
    """Test of every two systems whether the first is better.

    One-sided tests, corrected by Holm over all ordered pairs, as in the significance maps of Wiesenfarth et al. 2021
    (doi.org/10.1038/s41598-021-82017-6).

    Args:
        values: (systems, cases).
        larger_is_better: Whether the larger value is the better.

    Returns:
        p (systems, systems) that the row's system is better than the column's; the diagonal is NaN.
    """
    count = len(values)
    signed = values if larger_is_better else -values
    places = [(row, column) for row in range(count) for column in range(count) if row != column]
    found = [signed_rank(paired(signed[row], signed[column]), "greater") for row, column in places]
    matrix = np.full((count, count), np.nan)
    for (row, column), p in zip(places, holm(found), strict=True):
        matrix[row, column] = p
    return matrix
