"""Evidence: e-values, sliding windows, and how far an estimate is from a bound."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from monolith_keras_metrics.insight import evidence
from monolith_keras_metrics.insight.curves import Array
from monolith_keras_metrics.insight.evidence import (
    Estimates,
    errors_needed,
    log_either,
    log_evidence,
    log_mixture,
)

SIZES = st.lists(st.floats(0.01, 100), min_size=8, max_size=8)


@pytest.mark.parametrize(("score", "information"), [(0.0, 5.0), (30.0, 80.0), (-20.0, 80.0)])
def test_the_mixture_is_an_average_of_likelihood_ratios(score: float, information: float) -> None:
    """The integral over half a normal distribution of effects, by quadrature."""
    prior = 10.0

    def ratio(effect: float) -> float:
        weight = 2 * stats.norm.pdf(effect, scale=1 / math.sqrt(prior))
        return float(weight * math.exp(effect * score - effect**2 * information / 2))

    expected, _ = integrate.quad(ratio, 0, 3, epsabs=0)
    assert math.exp(log_mixture(score, information, prior)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("effect", "expected"), [(0.0, 1.0), (-0.1, None)])
def test_the_mean_of_an_e_value_is_one_if_the_effect_is_zero(
    effect: float, expected: float | None
) -> None:
    """And less if the effect is below zero: the bound is the worst case."""
    information = 50.0
    score = np.linspace(-80, 80, 40_001)
    density = stats.norm.pdf(score, effect * information, math.sqrt(information))
    mean = integrate.trapezoid(np.exp(log_mixture(score, information, 10.0)) * density, score)
    assert mean == pytest.approx(expected, rel=1e-4) if expected else mean < 0.9


@pytest.mark.parametrize("far", [-1e6, 1e3])
def test_a_mixture_of_very_far_scores_is_a_number(far: float) -> None:
    assert not np.isnan(log_mixture(far, 10.0, 10.0))


def test_a_window_exceeds_a_level_as_often_as_slepian_says() -> None:
    """Against moving sums of normal steps, which exceed it a little less often."""
    steps = np.random.default_rng(0).standard_normal((20_000, 400))
    sums = np.cumsum(steps, axis=1)
    windows = np.hstack([sums[:, 199:200], sums[:, 200:] - sums[:, :-200]]) / math.sqrt(200)
    found = [(windows.max(axis=1) > level).mean() for level in (1.0, 2.0, 2.5)]
    expected = [evidence._ever_exceeded(np.array([level]))[0] for level in (1.0, 2.0, 2.5)]
    assert evidence._ever_exceeded(np.array([0.0]))[0] == pytest.approx(0.75 + 1 / (2 * math.pi))
    for one, other in zip(found, expected, strict=True):
        assert 0.75 * other < one < 1.05 * other


@pytest.mark.parametrize("examples", [100, 3_000, 30_000])
def test_evidence_is_an_e_value_if_the_measure_is_on_its_bound(examples: int) -> None:
    z = np.linspace(-30, 30, 20_001)
    e_values = np.exp(log_evidence(z, np.full(z.shape, float(examples))))
    assert integrate.trapezoid(e_values * stats.norm.pdf(z), z) == pytest.approx(1, rel=1e-3)


def test_one_rule_needs_few_errors_over_a_wide_range_of_examples() -> None:
    needed = errors_needed(100, np.geomspace(3_000, 1e7, 50))
    assert 3.3 < needed.min() < needed.max() < 3.95


class TestBothBounds:
    """Brownian motion with a drift on a bound or between them, and 20 % permitted false alarms."""

    EXAMPLES = np.geomspace(300, 3e6, 150)

    def evidence(self, gap: float, share: float) -> tuple[list[Array], list[Array]]:
        """Against and in favour of both bounds, of 1,000 runs; the value is a share above one."""
        n = self.EXAMPLES
        steps = np.random.default_rng(1).standard_normal((1_000, n.size))
        errors = np.cumsum(steps * np.sqrt(np.diff(n, prepend=0)), axis=1) / n
        low, high = ((errors + one * gap) * np.sqrt(n) for one in (share, share - 1))
        against = [log_evidence(-low, n), log_evidence(high, n)]
        return against, [log_evidence(low, n), log_evidence(-high, n)]

    @pytest.mark.parametrize("gap", [0.0, 0.001, 0.003, 0.01, 0.03, 0.1])
    def test_they_share_the_permitted_false_alarms(self, gap: float) -> None:
        for share in (0.0, 0.3, 0.5, 1.0):
            broken = log_either(*self.evidence(gap, share)) >= math.log(5)
            assert broken.any(axis=1).mean() <= 0.2

    def test_neither_could_have_all_of_them(self) -> None:
        against, _ = self.evidence(0.0, 0.0)
        assert (np.max(against, axis=0) >= math.log(5)).any(axis=1).mean() > 0.2

    def test_far_apart_each_has_nearly_all(self) -> None:
        against, in_favour = self.evidence(0.1, 1.0)
        found = log_either(against, in_favour) >= math.log(5)
        alone = against[1] >= math.log(5)
        assert found.any(axis=1).mean() > 0.8 * alone.any(axis=1).mean()


def test_shares_of_all_lengths_of_time_add_up_to_one() -> None:
    shares = [evidence._share(moves) for moves in range(10_000)]
    assert sum(shares) == pytest.approx(1 - 1 / math.log(10_000 + math.e))
    assert shares == sorted(shares, reverse=True)


@given(
    st.floats(2, 1e9),
    st.integers(300, 10**9),
    st.one_of(st.none(), st.integers(0, 10_000)),
)
def test_that_many_errors_give_that_much_evidence(
    asked: float, examples: int, moves: int | None
) -> None:
    number = np.array([float(examples)])
    errors = errors_needed(asked, number, moves)
    if np.isfinite(errors[0]):
        assert log_evidence(errors, number, moves)[0] == pytest.approx(math.log(asked), abs=1e-6)
    else:
        assert log_evidence(np.array([36.0]), number, moves)[0] < math.log(asked)


def test_no_examples_are_no_evidence() -> None:
    assert errors_needed(100.0, np.array([0.0])) == np.inf
    assert log_evidence(np.array([30.0]), np.array([0.0])) == pytest.approx(0.0)


class TestEstimates:
    @given(SIZES)
    def test_tails_are_no_heavier_than_normal_however_unequal_the_parts(
        self, sizes: list[float]
    ) -> None:
        """All 256 ways in which parts can be above or below the bound (Hoeffding's bound)."""
        signs = np.array([*itertools.product([-1, 1], repeat=8)])
        off = signs * np.array(sizes)
        middle = off.sum(axis=1)
        shares = np.tile(np.array(sizes) / sum(sizes), (256, 1))
        distance = Estimates(middle, off - middle[:, None] * shares, shares).distance(0.0)
        limited = np.sqrt((shares**2).sum(axis=1)) ** -1
        expected = np.clip(middle / np.sqrt((off**2).sum(axis=1)), -limited, limited)
        np.testing.assert_allclose(distance, expected, rtol=1e-9, atol=1e-9)
        for level in (0.5, 1.0, 1.5, 2.0, 2.5):
            assert (distance >= level).mean() <= math.exp(-(level**2) / 2)

    @given(SIZES, st.lists(st.floats(-1, 1), min_size=8, max_size=8), st.floats(0.5, 2.5))
    def test_the_ends_of_an_interval_are_that_many_errors_off(
        self, sizes: list[float], moved: list[float], errors: float
    ) -> None:
        shares = np.array([sizes]) / sum(sizes)
        estimates = Estimates(np.array([0.3]), np.array([moved]) + 0.01, shares)
        for side, (end,) in zip((1, -1), estimates.interval(np.array([errors])), strict=True):
            if np.isfinite(end):
                assert side * estimates.distance(end)[0] == pytest.approx(errors, abs=1e-6)
            else:  # not even a bound that is infinitely far away is excluded
                assert side * estimates.distance(-side * math.inf)[0] <= errors

    @given(SIZES, st.lists(st.floats(-1, 1), min_size=8, max_size=8))
    def test_a_bound_farther_away_is_not_less_certain(
        self, sizes: list[float], moved: list[float]
    ) -> None:
        shares = np.array([sizes]) / sum(sizes)
        estimates = Estimates(np.array([0.0]), np.array([moved]) - np.mean(moved), shares)
        distances = [estimates.distance(bound)[0] for bound in (-1e9, -9, -2, -1, -0.5, -0.1, 0.1)]
        assert (np.diff(distances) <= 1e-6).all()

    def test_a_part_that_pulls_the_other_way_does_not_make_it_more_certain(self) -> None:
        """The largest part is below the estimate: farther bounds seem less certain, and are not."""
        estimates = Estimates(np.array([0.0]), np.array([[-0.5, 0.5]]), np.array([[0.9, 0.1]]))
        limit = 1 / np.hypot(0.9, 0.1)
        assert estimates.distance(-1.0) == pytest.approx(limit)
        assert estimates.distance(-100.0) == pytest.approx(limit, rel=1e-2)

    def test_equal_parts_far_from_a_bound(self) -> None:
        """100 parts that do not differ: no bound is more than 10 standard errors away."""
        shares = np.full((1, 100), 0.01)
        estimates = Estimates(np.array([2.0]), np.zeros((1, 100)), shares)
        assert estimates.distance(1.0) == pytest.approx(10)
        assert estimates.distance(2.0) == 0
        assert estimates.distance(math.inf) == pytest.approx(-10)

    def test_an_unknown_error_stays_unknown(self) -> None:
        estimates = Estimates(np.array([2.0]), np.full((1, 2), np.nan), np.full((1, 2), 0.5))
        assert np.isnan([estimates.distance(1.0), estimates.distance(-math.inf)]).all()
