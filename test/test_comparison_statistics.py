"""Tests, intervals and rankings of a comparison, against values counted by hand and formulae written out."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from segsync_train.comparison.ranking import rank
from segsync_train.comparison.statistics import (
    beats,
    difference,
    holm,
    mean_interval,
    paired,
    rank_biserial,
    seeds_interval,
    signed_rank,
)


def test_holm_by_hand() -> None:
    """0.005·4, 0.01·3, 0.03·2, and 0.04·1 raised to the one before; a missing one counts for nothing."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    with_gap = holm([0.01, math.nan, 0.02])
    assert math.isnan(with_gap[1])
    assert with_gap[::2] == pytest.approx([0.02, 0.02])


def test_signed_rank_of_few_differences_is_exact() -> None:
    """All five of one sign: 2 of 2⁵ arrangements are as extreme. Zeros say nothing."""
    assert signed_rank(np.array([1.0, 2, 3, 4, 5])) == pytest.approx(2 / 32)
    assert signed_rank(np.array([0.0, -1, -2, -3, -4, -5, 0])) == pytest.approx(2 / 32)
    assert signed_rank(np.array([1.0, 2, 3, 4, 5]), "greater") == pytest.approx(1 / 32)
    assert signed_rank(np.zeros(5)) == 1.0


def test_signed_rank_with_ties_agrees_with_every_arrangement_of_signs() -> None:
    pairs = np.array([0.5, -0.5, 1.0, 1.0, 2.0, -3.0, 3.0, 4.0])
    ranks = stats.rankdata(np.abs(pairs))
    found = (ranks * (pairs > 0)).sum()
    sums = np.array([(ranks * np.array(signs)).sum() for signs in itertools.product((0, 1), repeat=len(pairs))])
    assert signed_rank(pairs, "greater") == pytest.approx((sums >= found).mean())
    assert signed_rank(pairs) == pytest.approx(min(1.0, 2 * min((sums >= found).mean(), (sums <= found).mean())))


def test_rank_biserial_by_hand_and_by_scipys_statistic() -> None:
    """Ranks 3, 1, 2 with signs +, −, +: (3 + 2 − 1) / 6."""
    assert rank_biserial(np.array([3.0, -1.0, 2.0])) == pytest.approx(4 / 6)
    assert rank_biserial(np.array([-3.0, -1.0])) == -1.0
    assert rank_biserial(np.zeros(3)) == 0.0
    pairs = np.random.default_rng(0).normal(0.3, 1, 30)
    smaller = stats.wilcoxon(pairs).statistic
    assert rank_biserial(pairs) == pytest.approx(1 - 2 * smaller / (30 * 31 / 2))


def test_interval_agrees_with_the_normal_one_where_that_holds() -> None:
    pairs = np.random.default_rng(1).normal(0.02, 0.05, 400)
    low, high = mean_interval(pairs)
    half = 1.96 * stats.sem(pairs)
    assert low == pytest.approx(pairs.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(pairs.mean() + half, abs=0.05 * half)
    assert (low, high) == mean_interval(pairs)


def test_interval_corrects_for_skewness_as_bca_does() -> None:
    """Efron and Tibshirani's formulae written out, on the same kind of draws."""
    pairs = np.random.default_rng(2).exponential(1, 25)
    draws = pairs[np.random.default_rng(3).integers(0, 25, (40000, 25))].mean(1)
    z0 = stats.norm.ppf((draws < pairs.mean()).mean())
    left_out = (pairs.sum() - pairs) / 24
    d = left_out.mean() - left_out
    a = (d**3).sum() / (6 * (d**2).sum() ** 1.5)
    z = z0 + stats.norm.ppf((0.025, 0.975))
    low, high = np.quantile(draws, stats.norm.cdf(z0 + z / (1 - a * z)))
    assert mean_interval(pairs) == pytest.approx((low, high), abs=0.02)


def test_intervals_that_are_points_or_nothing() -> None:
    assert mean_interval(np.full(4, 0.25)) == (0.25, 0.25)
    assert all(map(math.isnan, mean_interval(np.array([0.25]))))


def test_intervals_over_cases_and_seeds_have_the_width_that_theory_gives() -> None:
    """Variance of the difference: that of the cases' mean, and of each system's seeds' mean."""
    rng = np.random.default_rng(4)
    cases, halves = rng.normal(0, 0.3, 80), []
    for seeds in (3, 12):
        effects = rng.normal(0, 0.02, seeds)
        effects *= 0.02 / effects.std(ddof=1)
        noise = rng.normal(0, 0.04, 80)
        noise *= 0.04 / noise.std(ddof=1)
        system = cases + 0.1 + noise + effects[:, None]
        low, high = seeds_interval(system, np.stack([cases, cases]))
        assert (low + high) / 2 == pytest.approx((system.mean(0) - cases).mean(), abs=0.003)
        halves.append((high - low) / 2)
        assert halves[-1] == pytest.approx(1.96 * np.sqrt(0.04**2 / 80 + 0.02**2 / seeds), rel=0.12)
    assert halves[0] > halves[1]


def test_seeds_that_differ_widen_the_interval_and_one_seed_leaves_it_to_the_cases() -> None:
    cases = np.random.default_rng(5).normal(0.8, 0.1, 30)
    alike, apart = np.stack([cases + 0.02] * 3), np.stack([cases - 0.04, cases + 0.02, cases + 0.08])
    one, three = difference(alike, cases), difference(apart, cases)
    assert one.seeds == three.seeds == (3, 1)
    assert one.mean == pytest.approx(three.mean)
    assert (one.low, one.high) == pytest.approx((0.02, 0.02))
    assert three.low < -0.01
    assert three.high > 0.05
    assert difference(cases + 0.02, cases) == difference((cases + 0.02)[None], cases[None])
    assert difference(alike, cases).p == difference(cases + 0.02, cases).p


def test_cases_without_a_value_are_left_out_of_pairs() -> None:
    found = difference(np.array([3.0, math.nan, 5.0, 4.0]), np.array([1.0, 1.0, math.nan, 3.0]))
    assert (found.n, found.mean, found.effect) == (2, 1.5, 1.0)
    assert difference(np.array([math.nan]), np.array([1.0])).n == 0
    # Rounding must not make two equal differences two ranks.
    assert len(set(paired(np.array([0.3, 0.7]), np.array([0.1, 0.5])).tolist())) == 1


def test_who_beats_whom_by_hand() -> None:
    """Six cases, always better: one-sided 1/64, times the two ordered pairs; the other way round never."""
    better = np.array([[0.9, 0.8, 0.85, 0.7, 0.95, 0.6], [0.8, 0.78, 0.82, 0.66, 0.9, 0.53]])
    p = beats(better, larger_is_better=True)
    assert p[0, 1] == pytest.approx(2 / 64)
    assert p[1, 0] == 1.0
    assert np.isnan(np.diag(p)).all()
    assert beats(better, larger_is_better=False)[1, 0] == pytest.approx(2 / 64)


def test_a_planted_order_is_found_and_stable() -> None:
    rng = np.random.default_rng(0)
    hardness = rng.uniform(0, 0.5, 20)
    values = np.array([level - hardness for level in (0.7, 0.9, 0.8)])
    found = rank(values, larger_is_better=True)
    assert found.ranks.tolist() == [3, 1, 2]
    assert np.array_equal(found.fractions, np.eye(3)[[2, 0, 1]])
    assert (found.tau == 1).all()
    assert rank(values, larger_is_better=False).ranks.tolist() == [1, 3, 2]


def test_kendalls_tau_counts_pairs() -> None:
    """(concordant − discordant) / pairs, for every draw of a ranking that is anything but stable."""
    values = np.random.default_rng(4).normal(0.8, 0.1, (4, 12))
    found = rank(values, larger_is_better=True, draws=50)
    assert len(set(found.tau.tolist())) > 3
    pairs = list(itertools.combinations(range(4), 2))
    for drawn, tau in zip(found.drawn, found.tau, strict=True):
        agree = [np.sign(drawn[a] - drawn[b]) * np.sign(found.ranks[a] - found.ranks[b]) for a, b in pairs]
        assert tau == pytest.approx(sum(agree) / 6)
    assert np.allclose(found.fractions.sum(axis=1), 1)
    assert (found.intervals[0] <= found.medians).all()


def test_draws_take_as_many_cases_as_there_are() -> None:
    """Two systems, each ahead in half of four cases: of 4 drawn with replacement, P(2 of each) = 6/16 are ties."""
    values = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    found = rank(values, larger_is_better=True, draws=4000)
    assert found.ranks.tolist() == [1, 1]
    assert (found.drawn.max(axis=1) == 1).mean() == pytest.approx(6 / 16, abs=0.03)


def test_what_is_undefined_counts_as_the_worst_there_is_and_no_worse() -> None:
    """The first is ahead with 0.75 in its third case, the worst of all, and with 4 mm, the farthest that is finite."""
    dice = np.array([[0.9, 0.9, math.nan], [0.8, 0.75, 0.8]])
    assert rank(dice, larger_is_better=True).ranks.tolist() == [1, 2]
    assert rank(np.array([[math.inf, 3.0], [4.0, 4.0]]), larger_is_better=False).ranks.tolist() == [1, 2]


def test_who_finds_nothing_gains_nothing_in_the_ranking() -> None:
    """Left out, the case that it missed would put the second system ahead: 4.3 mm against 4.5; as 9 mm it does not."""
    values = np.array([[3.0, 3.0, 3.0, 9.0], [2.0, 2.0, math.nan, 9.0]])
    assert rank(values, larger_is_better=False).ranks.tolist() == [1, 2]
