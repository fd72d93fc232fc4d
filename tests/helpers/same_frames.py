"""Frames whose numbers are equal but for rounding."""

from __future__ import annotations

import numpy as np
import polars as pl


def assert_same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """Raise if frames differ by more than 1e-9 (`assert_frame_equal` renamed its tolerances)."""
    assert found.schema == expected.schema
    for name in expected.columns:
        if expected[name].dtype == pl.Float64:
            np.testing.assert_allclose(
                found[name].to_numpy(), expected[name].to_numpy(), 1e-9, 1e-9, err_msg=name
            )
        else:
            assert found[name].equals(expected[name], null_equal=True), name
