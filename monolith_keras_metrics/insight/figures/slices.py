"""`slices`: for which records is the model wrong, and how sure is that?"""

from __future__ import annotations

from typing import Any

import polars as pl

from monolith_keras_metrics.insight.figures.figure import (
    BLUE,
    GREY,
    VERMILION,
    Figure,
    markup,
    nothing,
)
from monolith_keras_metrics.insight.figures.forest import (
    BETTER,
    MOST,
    NEAR,
    PLAIN,
    WORSE,
    Kind,
    Row,
    forest,
    value_text,
)
from monolith_keras_metrics.insight.figures.given import (
    check_measure,
    group_text,
    groups_of,
    label,
    of_target,
    target_of,
)
from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.texts import text_of, with_interval, words_of

_TOO_MUCH = Kind("predicts too much", VERMILION, "triangle-right")
_TOO_LITTLE = Kind("predicts too little", BLUE, "triangle-left")
_RIGHT = Kind("may be right", GREY, "circle-open")
_ABOVE = Kind("above the line", VERMILION, "triangle-right")
_BELOW = Kind("below the line", BLUE, "triangle-left")


def slices(table: pl.DataFrame, measure: str = "calibration", whole: float | None = None) -> Figure:
    """Draw slices, one below the other, each with its interval.

    Those that `insight.slices` found come by falling impact, as in the table. Groups of `summary`
    come in the order of the measure, the worst first. At most 40 are drawn: of groups, those with
    most examples.

    Args:
        table: What `insight.slices` returns, or `summary(by=..., interval=...)`, of one target.
        measure: The measure.
        whole: Where a line shows what to compare with, such as the measure of all records. Default:
            the best value, if it is a number, as 1 is for calibration.

    Raises:
        ValueError: If `table` has several targets or lacks a column, or `measure` is unknown.

    Example:
    >>> table = pl.DataFrame({
    ...     "target": ["ctr"], "country": ["DE"], "examples": [1000],
    ...     "calibration": [1.5], "calibration_low": [1.25], "calibration_high": [1.75],
    ... })
    >>> slices(table)["data"][0]["name"]
    'predicts too much'
    """
    check_measure(measure, table, measure, "`summary` with `by`")
    found = "slice" in table.columns
    target = target_of(table, ["examples"], "`slices`, or `summary` with `by`")
    if not found and not groups_of(table):
        raise ValueError(
            "`table` must have a column of slices, as `summary` with `by` returns it. "
            f"Received: columns {table.columns}"
        )
    best = MEASURES[measure].better
    line = best if whole is None and isinstance(best, float) else whole
    words = words_of(measure)
    title = f"{words[0].upper()}{words[1:]}{of_target(target)}, by slice"
    shown = table.filter(pl.col(measure).is_not_null())
    if not found:
        shown = _worst_first(shown.top_k(MOST, by="examples"), measure, line)
    shown = shown.head(MOST)
    if shown.is_empty():
        return nothing(title, "No slice is wrong by more than chance." if found else "No values.")
    rows = [_slice_row(row, measure, line) for row in shown.iter_rows(named=True)]
    left_out = table.height - shown.height
    text = f"{len(rows)} slices" + (f" of {table.height}" if left_out else "") + ": "
    text += "; ".join(f"{row.label} {value_text(row)}" for row in rows[:5])
    text += "; …" if len(rows) > 5 else "."
    is_ratio = MEASURES[measure].scale == "log" and line is not None and line > 0
    return forest(rows, title, text, words, line, is_ratio)


def _worst_first(table: pl.DataFrame, measure: str, line: float | None) -> pl.DataFrame:
    """Return the rows with what is worse than the line for sure first, then by value.

    A slice of few examples may be anywhere by chance. So what counts is the near end of its
    interval.
    """
    better = MEASURES[measure].better
    low, high = (
        pl.col(name if name in table.columns else measure)
        for name in (f"{measure}_low", f"{measure}_high")
    )
    value = pl.col(measure)
    if line is None:
        return table.sort(measure, descending=better != "higher")
    above = pl.max_horizontal(low - line, 0.0)
    below = pl.max_horizontal(line - high, 0.0)
    if isinstance(better, float) or better is None:
        return table.sort(above + below, (value - line).abs(), descending=True)
    worse, distance = (above - below, value) if better == "lower" else (below - above, -value)
    return table.sort(worse, distance, descending=True)


def _slice_row(row: dict[str, Any], measure: str, line: float | None) -> Row:
    value, low, high = (row.get(f"{measure}{end}") for end in ("", "_low", "_high"))
    if "slice" in row:
        text = str(row["slice"])
    else:
        text = group_text(row, groups_of(pl.DataFrame(schema=dict.fromkeys(row))))
    kind = PLAIN
    if line is not None:
        is_above, is_below = low is not None and low > line, high is not None and high < line
        kind = _kind(measure, is_above, is_below)
    hover = f"{markup(label(text))}<br>{words_of(measure)} {with_interval(value, low, high)}"
    hover += f"<br>{text_of(row['examples'])} examples"
    if row.get("impact") is not None:
        hover += f"<br>wrong by {text_of(row['impact'])} labels"
    assert value is not None
    return Row(text, value, low, high, hover, kind)


def _kind(measure: str, is_above: bool, is_below: bool) -> Kind:
    """Return how a slice is drawn whose interval is above or below the line, or holds it."""
    better = MEASURES[measure].better
    more, less, near = _ABOVE, _BELOW, NEAR
    if measure in ("calibration", "bias"):
        more, less, near = _TOO_MUCH, _TOO_LITTLE, _RIGHT
    elif better in ("higher", "lower"):
        more, less = (BETTER, WORSE) if better == "higher" else (WORSE, BETTER)
    return more if is_above else less if is_below else near
