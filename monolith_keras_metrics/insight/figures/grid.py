"""`slices_over_time`: a table of coloured cells, a row a slice and a column a window of time."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from monolith_keras_metrics.insight.figures.given import (
    check_measure,
    groups_of,
    in_groups,
    iso,
    label,
    of_target,
    target_of,
)
from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.rows import WINDOW
from monolith_keras_metrics.insight.texts import text_of, words_of

COLUMNS = 31  # at most; more of them are too narrow for a number
_ROWS = 40
_NEAR = (0.02, 0.05, 0.1, 0.2)  # ratios: how far from the reference each colour begins
_MIDDLE = 4  # the class of what is near the reference


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table of coloured cells.

    Attributes:
        title: What it shows.
        description: The same in a sentence, with the main numbers.
        rows: The slices, as texts from data.
        columns: The windows' starts in UTC, as ISO texts.
        values: The values of each row; None where there is none.
        texts: The same as texts; "" where there is none.
        classes: The class of each cell: from `"c0"`, far below the reference, through `"c4"`, near
            it, to `"c8"`, far above; None where there is no value.
        legend: The classes with what they mean.
    """

    title: str
    description: str
    rows: list[str]
    columns: list[str]
    values: list[list[float | None]]
    texts: list[list[str]]
    classes: list[list[str | None]]
    legend: list[tuple[str, str]]


def slices_over_time(table: pl.DataFrame, measure: str, whole: float | None = None) -> Grid:
    """Return a measure of each slice and window of time, as a table of coloured cells.

    If the table has intervals, a cell whose interval holds the reference has the middle colour:
    colours are for what is not by chance.

    Args:
        table: What `summary(..., by=..., window=...)` returns, of one target, with at most 31
            windows. Of more than 40 slices, those of most examples are shown.
        measure: The measure.
        whole: The reference, such as the measure of all records. Default: the best value, if it is
            a number; else the median of the values.

    Raises:
        ValueError: If `table` has several targets or too many windows, or lacks a column; or if
            `measure` is unknown.

    Example:
    >>> import datetime as dt
    >>> day = dt.datetime(2013, 1, 1, tzinfo=dt.timezone.utc)
    >>> table = pl.DataFrame({
    ...     "target": ["ctr"] * 2, "country": ["DE", "US"], "window": [day] * 2,
    ...     "examples": [100, 50], "calibration": [1.0, 1.5],
    ... })
    >>> grid = slices_over_time(table, "calibration")
    >>> grid.rows, grid.columns, grid.classes
    (['country=DE', 'country=US'], ['2013-01-01T00:00:00Z'], [['c4'], ['c8']])
    """
    made_by = "`summary` with `by` and `window`"
    check_measure(measure, table, measure, made_by)
    target = target_of(table, [WINDOW, "examples"], made_by)
    if not groups_of(table):
        raise ValueError(
            f"`table` must have a column of slices, as {made_by} returns it. "
            f"Received: columns {table.columns}"
        )
    windows = table[WINDOW].drop_nulls().unique().sort().to_list()
    if len(windows) > COLUMNS:
        raise ValueError(
            f"`table` must have at most {COLUMNS} windows. Received: {len(windows)}. Choose a "
            "longer `window`"
        )
    groups = in_groups(table)
    rows = []
    for name, part in groups[:_ROWS]:
        of_windows = {row[WINDOW]: row for row in part.iter_rows(named=True)}
        rows.append((label(name), [of_windows.get(window, {}) for window in windows]))
    values = [[row.get(measure) for row in cells] for _, cells in rows]
    known = [value for cells in values for value in cells if value is not None]
    middle = _reference(measure, known, whole)
    scale = _Scale(measure, middle, known)
    classes = [[scale.class_of(row, measure) for row in cells] for _, cells in rows]
    far = sum(one in ("c0", "c8") for cells in classes for one in cells)
    words = words_of(measure)
    text = f"{len(rows)} slices in {len(windows)} windows, {words}; "
    text += f"{far} of {len(known)} values are far from {text_of(middle)}."
    if others := [label(name) for name, _ in groups[_ROWS:]]:
        text += f" Not shown, with fewer examples: {'; '.join(others)}."
    return Grid(
        f"{words[0].upper()}{words[1:]}{of_target(target)}, by slice and time",
        text,
        [name for name, _ in rows],
        list(map(iso, windows)),
        values,
        [["" if value is None else f"{value:.3g}" for value in cells] for cells in values],
        classes,
        scale.legend(),
    )


def _reference(measure: str, known: Sequence[float], whole: float | None) -> float:
    best = MEASURES[measure].better
    if whole is not None:
        return whole
    return best if isinstance(best, float) else float(pl.Series(known).median() or 0.0)  # type: ignore[arg-type]


class _Scale:
    """The colours around a reference: by ratio for ratios, else by the size of most differences."""

    def __init__(self, measure: str, middle: float, known: Sequence[float]) -> None:
        self._middle = middle
        self._is_ratio = MEASURES[measure].scale == "log" and middle > 0
        largest = pl.Series([abs(one - middle) for one in known], dtype=pl.Float64).quantile(0.9)
        unit = 10 ** math.floor(math.log10(largest)) if largest else 1.0
        self._near = _NEAR if self._is_ratio else tuple(unit * one for one in (0.5, 1, 2, 5))

    def class_of(self, row: dict[str, Any], measure: str) -> str | None:
        """Return the class of a cell."""
        value = row.get(measure)
        if value is None:
            return None
        low, high = (row.get(f"{measure}{end}") for end in ("_low", "_high"))
        if low is not None and high is not None and low <= self._middle <= high:
            return f"c{_MIDDLE}"
        if self._is_ratio:
            away = math.log(value / self._middle) if value > 0 else -math.inf
            steps = bisect.bisect_right([math.log1p(one) for one in self._near], abs(away))
        else:
            away = value - self._middle
            steps = bisect.bisect_right(self._near, abs(away))
        return f"c{_MIDDLE + (steps if away > 0 else -steps)}"

    def legend(self) -> list[tuple[str, str]]:
        """Return the classes with what they mean."""
        if self._is_ratio:
            above = [self._middle * (1 + one) for one in self._near]
            below = [self._middle / (1 + one) for one in self._near]
        else:
            above = [self._middle + one for one in self._near]
            below = [self._middle - one for one in self._near]
        texts = [text_of(float(f"{one:.3g}")) for one in (*reversed(below), *above)]
        found = [("c0", f"below {texts[0]}")]
        found += [(f"c{at}", f"{texts[at - 1]} to {texts[at]}") for at in range(1, 8)]
        return [*found, ("c8", f"above {texts[-1]}")]
