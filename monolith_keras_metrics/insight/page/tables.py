"""Tables as the page shows them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.page import words
from monolith_keras_metrics.insight.texts import text_of, with_interval

_ENDS = ("_low", "_high")


class Cell(NamedTuple):
    """One cell.

    Attributes:
        text: What is to be read.
        kind: `"text"`, `"number"` or `"time"`.
    """

    text: str
    kind: str = "text"


class Head(NamedTuple):
    """The heading of a column.

    Attributes:
        text: What is to be read.
        meaning: The definition of the measure; "" if it needs none.
        kind: As for `Cell`.
    """

    text: str
    meaning: str
    kind: str


class Table(NamedTuple):
    """A table.

    Attributes:
        caption: What it shows.
        heads: The headings.
        rows: The rows; the first cell is the row's heading.
    """

    caption: str
    heads: list[Head]
    rows: list[list[Cell]]


def table_of(frame: pl.DataFrame, caption: str, columns: Sequence[str] | None = None) -> Table:
    """Return a frame as a table, with intervals beside their values.

    Columns without any value are left out.

    Args:
        frame: The frame.
        caption: What it shows.
        columns: The columns that are shown, in this order, where the frame has them. Default: all.
    """
    ends = {f"{name}{end}" for name in frame.columns for end in _ENDS} & {*frame.columns}
    shown = [
        name
        for name in (frame.columns if columns is None else columns)
        if name in frame.columns and name not in ends
        and not (frame.height and frame[name].null_count() == frame.height)
    ]  # fmt: skip
    cells = [
        [_cell(value, *_ends(frame, name, at)) for at, value in enumerate(frame[name])]
        for name in shown
    ]
    heads = [_head(name, frame.schema[name]) for name in shown]
    return Table(caption, heads, [list(row) for row in zip(*cells, strict=True)])


def differences(whole: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Return a row per measure of a comparison, instead of columns per measure.

    Args:
        whole: What `compare` returns, of one target.
        names: The measures; those without a difference are left out.
    """
    ends = {"a": "_a", "b": "_b"} | {f"diff{end}": f"_diff{end}" for end in ("", *_ENDS)}
    rows = [
        {"measure": words.title_of(name)} | {key: row.get(name + end) for key, end in ends.items()}
        for row in whole.iter_rows(named=True)
        for name in names
        if row.get(f"{name}_diff") is not None
    ]
    floats = dict.fromkeys(ends, pl.Float64)
    return pl.DataFrame(rows, schema={"measure": pl.String, **floats})


def _ends(frame: pl.DataFrame, name: str, at: int) -> list[Any]:
    if f"{name}_low" not in frame.columns:
        return []
    return [frame[f"{name}{end}"][at] for end in _ENDS]


def _cell(value: Any, low: Any = None, high: Any = None) -> Cell:
    if isinstance(value, dt.datetime):
        text = value.isoformat(timespec="minutes")[:16].replace("T", " ")
        return Cell(text, "time")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Cell(with_interval(value, low, high), "number")
    return Cell(text_of(value))


def _head(name: str, dtype: pl.DataType) -> Head:
    meaning = MEASURES[name].text if name in MEASURES else ""
    kind = "number" if dtype.is_numeric() else "time" if dtype.is_temporal() else "text"
    return Head(words.title_of(name), meaning, kind)
