"""The order of rows, by whole numbers and by bits of floats, is NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_keras_metrics.insight import summary
from monolith_keras_metrics.insight.keys import bits_of, compact, in_order


@given(
    st.lists(st.floats(-1e300, 1e300) | st.floats(0, 1, width=32), min_size=1)
    | st.lists(st.floats(-1, 1, width=32), min_size=1)
)
def test_bits_are_in_the_order_of_numbers(values: list[float]) -> None:
    numbers = np.array(values)
    bits = bits_of(numbers)
    assert (np.sign(np.subtract.outer(numbers, numbers)) == np.array(
        [[int(a > b) - int(a < b) for b in bits] for a in bits]
    )).all()  # fmt: skip


@pytest.mark.parametrize("in_runs", [False, True])
@given(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**40), st.integers(0, 1))))
def test_rows_are_in_order_and_equal_ones_together(
    rows: list[tuple[int, ...]], in_runs: bool
) -> None:
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    order, firsts = in_order(list(columns), in_runs)
    ordered = [tuple(row) for row in columns[:, order].T.tolist()]
    assert ordered == sorted(rows)
    assert [ordered[first] for first in firsts] == sorted({*rows})


@given(st.lists(st.integers(0, 2**22 - 1)))
def test_distinct_numbers_are_numpys(numbers: list[int]) -> None:
    found, at = compact(np.array(numbers, np.int64), 1 << 22)
    expected, positions = np.unique(np.array(numbers, np.int64), return_inverse=True)
    assert (found == expected).all()
    assert (at == positions).all()


def test_exact_cells_of_portions_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal predictions with weights, in several portions: the sums are those of the records."""
    random = np.random.default_rng(0)
    p, w = random.choice([0.25, 0.5, 0.625], 200), random.choice([0.5, 1.0], 200)
    y = (random.random(200) < p).astype(float)
    struct: Any = {name: pl.DataFrame({"a": v}).to_struct() for name, v in
                   (("label", y), ("predict", p), ("sample_rate", w))}  # fmt: skip
    frame = pl.DataFrame({"uid": np.arange(200), **struct})
    for name in ("_MOST", "_LEAST"):
        monkeypatch.setattr(f"monolith_keras_metrics.insight.portions.{name}", 30)
    errors = [0.0, *np.cumsum([((y - p) / w)[p == value].sum() for value in (0.25, 0.5, 0.625)])]
    found = summary(frame, measures="ecce", exact=True)["ecce"].item()
    assert found == pytest.approx(np.ptp(errors) / (1 / w).sum(), rel=1e-12)
