"""Formulas on cells against other implementations, brute force, and what is known of them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn import isotonic
from sklearn import metrics as sklearn_metrics

from monolith_keras_metrics.insight import curves
from monolith_keras_metrics.insight.cells import cell_of
from monolith_keras_metrics.insight.curves import Cells

# Few predictions, so that many are equal; weights that rounding cannot hide.
EXAMPLES = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from([0.0, 0.001, 0.25, 0.5, 0.51, 0.75, 1.0]),
        st.sampled_from([0.125, 1.0, 3.0]),
    ),
    min_size=1,
    max_size=30,
)


def exact_cells(y: Any, p: Any, w: Any) -> Cells:
    """Cells of equal predictions."""
    values, where = np.unique(p, return_inverse=True)
    return Cells(
        *(
            np.bincount(where, weights=sums, minlength=values.size)
            for sums in (w * y, w * (1 - y), w * p, w * 0 + 1)
        )
    )


def columns(rows: list[tuple[int, float, float]]) -> tuple[Any, Any, Any]:
    y, p, w = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    return y, p, w


def has_both(y: Any) -> bool:
    return bool(0 < y.sum() < y.size)


@given(EXAMPLES)
def test_auc_and_average_precision_are_scikit_learns(rows: Any) -> None:
    y, p, w = columns(rows)
    cells = exact_cells(y, p, w)
    if has_both(y):
        area = sklearn_metrics.roc_auc_score(y, p, sample_weight=w)
        assert curves.auc(cells) == pytest.approx(area, rel=1e-9)
        precision = sklearn_metrics.average_precision_score(y, p, sample_weight=w)
        assert curves.pr_auc(cells) == pytest.approx(precision, rel=1e-9)
    else:
        assert math.isnan(curves.auc(cells))
        assert math.isnan(curves.pr_auc(cells)) == (y.sum() == 0)


@given(EXAMPLES)
def test_the_distance_of_distributions_is_scipys(rows: Any) -> None:
    y, p, _ = columns(rows)
    found = curves.ks(exact_cells(y, p, np.ones(y.size)))
    if has_both(y):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its p-value
            expected = scipy.stats.ks_2samp(p[y == 1], p[y == 0]).statistic
        assert found == pytest.approx(expected)
    else:
        assert math.isnan(found)


@given(EXAMPLES)
def test_the_range_of_the_cumulative_error_is_that_of_a_loop(rows: Any) -> None:
    """With equal predictions in any order within the loop, their sum counts only at their end."""
    y, p, w = columns(rows)
    at, lowest, highest = 0.0, 0.0, 0.0
    for value in sorted(set(p)):
        at += sum(w[i] * (y[i] - p[i]) for i in range(y.size) if p[i] == value)
        lowest, highest = min(lowest, at), max(highest, at)
    found = curves.ecce(exact_cells(y, p, w))
    assert found == pytest.approx((highest - lowest) / w.sum(), rel=1e-9, abs=1e-12)


def test_the_p_value_has_the_known_mean_and_variance_of_the_range() -> None:
    """Feller: the range of a Brownian motion has mean √(8/π) and second moment 4 ln 2."""

    def exceeds(x: float) -> float:
        return float(curves.range_p_value(np.array(x)))

    mean, _ = scipy.integrate.quad(exceeds, 0, 12, limit=200)
    second, _ = scipy.integrate.quad(lambda x: 2 * x * exceeds(x), 0, 12, limit=200)
    assert mean == pytest.approx(math.sqrt(8 / math.pi), abs=1e-6)
    assert second == pytest.approx(4 * math.log(2), abs=1e-6)


@given(EXAMPLES)
def test_the_odds_factor_solves_its_equation(rows: Any) -> None:
    """Found by SciPy on the examples themselves."""
    y, p, w = columns(rows)
    p = p.clip(0.001, 0.999)
    cells = exact_cells(y, p, w)
    factor = curves.odds_factor(cells)
    if not has_both(y):
        assert math.isnan(factor)
        return
    odds = p / (1 - p)

    def shifted(log_factor: float) -> Any:
        return odds * math.exp(log_factor) / (1 + odds * math.exp(log_factor))

    root = scipy.optimize.brentq(lambda c: (w * (shifted(c) - y)).sum(), -40, 40, xtol=1e-14)
    assert math.log(factor) == pytest.approx(root, abs=1e-9)
    near = shifted(root).clip(curves.EPSILON, 1 - curves.EPSILON)
    loss = sklearn_metrics.log_loss(y, near, sample_weight=w, labels=[0, 1])
    assert curves.shifted_log_loss(cells, factor) == pytest.approx(loss, rel=1e-9)


@given(EXAMPLES)
def test_the_recalibrated_loss_is_that_of_scikit_learns_isotonic_regression(rows: Any) -> None:
    y, p, w = columns(rows)
    fitted = isotonic.IsotonicRegression(out_of_bounds="clip").fit(p, y, w).predict(p)
    right = np.where(y == 1, fitted, 1 - fitted)
    expected = -(w * np.log(right)).sum() / w.sum()
    assert curves.recalibrated_log_loss(exact_cells(y, p, w)) == pytest.approx(
        expected, rel=1e-9, abs=1e-12
    )


@given(EXAMPLES, st.integers(0, 5))
def test_empty_cells_change_nothing(rows: Any, padding: int) -> None:
    """Whatever is computed at once with a group of more cells."""
    cells = exact_cells(*columns(rows))
    padded = Cells(*(np.concatenate([values, np.zeros(padding)]) for values in cells))
    for formula in (curves.auc, curves.auc_error, curves.pr_auc, curves.ks, curves.ecce,
                    curves.odds_factor, curves.recalibrated_log_loss):  # fmt: skip
        np.testing.assert_allclose(formula(padded), formula(cells), rtol=1e-12)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2))
def test_cells_keep_the_order(values: list[float]) -> None:
    found = cell_of(np.sort(np.array(values)))
    assert (np.diff(found) >= 0).all()


@given(st.floats(0, 1, width=32, allow_subnormal=False))
def test_a_cell_is_narrow(value: float) -> None:
    """By 1 in 256 of the value, or of its distance from 1."""
    found = float(cell_of(np.array([value]))[0])
    assert abs(found - value) <= min(value, 1 - value) / 256


def test_the_error_of_auc_is_within_its_bound() -> None:
    random = np.random.default_rng(1)
    p = random.beta(1, 30, 50_000).astype(np.float32).astype(np.float64)
    y = (random.random(p.size) < p).astype(np.float64)
    cells, w = cell_of(p), np.ones(p.size)
    near = curves.auc(exact_cells(y, cells, w))
    bound = curves.auc_error(exact_cells(y, cells, w))
    error = abs(near - sklearn_metrics.roc_auc_score(y, p))
    assert 0 < error < 1e-5 < bound < 1e-3
