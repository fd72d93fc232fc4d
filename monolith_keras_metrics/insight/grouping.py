"""The groups of rows: the distinct rows of some columns, and for each row the number of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from monolith_keras_metrics.insight.keys import Numbers, compact

NUMBER = "\nnumber of keys"  # no user's column has these names
_ROW = "\nrow"


def grouped(frame: pl.DataFrame) -> tuple[pl.DataFrame, Numbers]:
    """Return the distinct rows of a frame, in order, and for each row the number of its own.

    Args:
        frame: A column `target`, and keys.
    """
    target, keys = frame.get_column("target"), frame.columns
    if frame.height and (target == target[0]).all():
        keys.remove("target")
    if not keys:
        return frame.head(1), np.zeros(frame.height, np.int64)
    firsts, numbers = compact(_first_of_equal(frame, keys), frame.height)
    return frame[firsts], numbers


def numbered(frame: pl.DataFrame) -> pl.Series:
    """Return a number for each row, named `NUMBER`, that is the same for equal rows."""
    _, numbers = compact(_first_of_equal(frame, frame.columns), frame.height)
    return pl.Series(NUMBER, numbers, pl.UInt32)


def grouped_by_number(frame: pl.DataFrame) -> tuple[pl.DataFrame, Numbers]:
    """Return what `grouped` does, in another order, of rows whose keys have the number `NUMBER`.

    That is faster: rows of each target have the same keys.
    """
    if not frame.height:
        return frame.drop(NUMBER), np.zeros(0, np.int64)
    target = _codes(frame.get_column("target"))
    number = frame.get_column(NUMBER).to_numpy().astype(np.int64)
    size = int(number.max(initial=0)) + 1
    distinct, at = compact(target * size + number, (int(target.max(initial=0)) + 1) * size)
    firsts = np.empty(distinct.size, np.int64)
    firsts[at[::-1]] = np.arange(frame.height)[::-1]  # what is written last stays
    return frame.drop(NUMBER)[firsts], at


def _first_of_equal(frame: pl.DataFrame, keys: Sequence[str]) -> Numbers:
    """Return for each row the position of the first that is equal."""
    first = frame.with_row_index(_ROW).select(pl.col(_ROW).first().over(keys))
    return first.to_series().to_numpy().astype(np.int64)


def _codes(texts: pl.Series) -> Numbers:
    """Return a number for each text, of which there are few in long runs."""
    if (texts == texts[0]).all():
        return np.zeros(texts.len(), np.int64)
    run = texts.rle_id().to_numpy().astype(np.int64)
    starts = np.flatnonzero(np.diff(run, prepend=-1))
    codes: dict[str, int] = {}
    of_run = [codes.setdefault(text, len(codes)) for text in texts.gather(starts)]
    found: Numbers = np.array(of_run, np.int64)[run]
    return found
