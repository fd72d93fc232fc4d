"""What a figure needs of the table that it is given."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Sequence
from typing import Any

import polars as pl

from monolith_keras_metrics.insight.figures.figure import shortened
from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.rows import WINDOW
from monolith_keras_metrics.insight.texts import text_of

_ENDS = ("", "_low", "_high", "_a", "_b", "_diff", "_diff_low", "_diff_high")
_NOT_GROUPS = {
    *("target", WINDOW, "examples", "unlabelled", "invalid", "revisits", "users"),
    *("only_a", "only_b", "ambiguous", "bin", "low", "high", "positives", "negatives"),
    *(f"{name}{end}" for name in MEASURES for end in _ENDS),
}
_GAP = 1.5  # windows further apart than that many of the shortest distance have a gap between them


def target_of(table: pl.DataFrame, columns: Sequence[str], made_by: str) -> str:
    """Return the only target of a table; "" if it has no rows.

    Args:
        table: The table.
        columns: The columns that it must have.
        made_by: What makes such a table, for the error.

    Raises:
        ValueError: If it has several targets, or lacks a column.
    """
    if missing := [name for name in ("target", *columns) if name not in table.columns]:
        raise ValueError(
            f"`table` must have the columns {['target', *columns]}, as {made_by} returns them. "
            f"Received: columns {table.columns}, without {missing[0]!r}"
        )
    targets = table["target"].unique(maintain_order=True).to_list()
    if len(targets) > 1:
        raise ValueError(
            f"`table` must be of one target. Received: targets {targets}. Choose one, as in "
            f"table.filter(pl.col('target') == {targets[0]!r})"
        )
    return str(targets[0]) if targets else ""


def of_target(target: str) -> str:
    """Return the target as part of a title."""
    return f" of {label(target)}" if target else ""


def check_measure(measure: str, table: pl.DataFrame, column: str, made_by: str) -> None:
    """Raise unless a measure is known, and its column is in the table."""
    if measure not in MEASURES:
        raise ValueError(f"`measure` must be among {list(MEASURES)}. Received: {measure!r}")
    if column not in table.columns:
        raise ValueError(
            f"`measure` must be one that `table` has, as {made_by} returns it. "
            f"Received: measure={measure!r}, but no column {column!r} among {table.columns}"
        )


def groups_of(table: pl.DataFrame) -> list[str]:
    """Return the columns of the groups."""
    return [name for name in table.columns if name not in _NOT_GROUPS]


def in_groups(table: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """Return each group as text, and its rows; those of most examples first."""
    names = groups_of(table)
    if not names:
        return [("", table)]
    parts = table.partition_by(names, maintain_order=True)
    found = [(group_text(part.row(0, named=True), names), part) for part in parts]
    return sorted(found, key=lambda one: -(one[1]["examples"].sum()))


def group_text(row: dict[str, Any], names: Sequence[str]) -> str:
    """Return a group as text, such as `country=DE, device=ios`."""
    return ", ".join(f"{name}={text_of(row[name])}" for name in names)


def one_group(table: pl.DataFrame) -> None:
    """Raise if a table has several groups."""
    names = groups_of(table)
    if names and table.select(names).n_unique() > 1:
        raise ValueError(
            f"`table` must be of one group. Received: groups by {names}. Choose one, as in "
            f"table.filter(pl.col({names[0]!r}) == {table[names[0]][0]!r})"
        )


def step_of(table: pl.DataFrame) -> float | None:
    """Return the shortest distance of two windows, in seconds; None if there is one only."""
    windows = table[WINDOW].drop_nulls().unique().sort()
    shortest = windows.diff().min()
    return shortest.total_seconds() if isinstance(shortest, dt.timedelta) else None


def with_gaps(part: pl.DataFrame, step: float | None) -> pl.DataFrame:
    """Return the windows of a group in order, with a row of nulls where some are missing."""
    part = part.filter(pl.col(WINDOW).is_not_null()).sort(WINDOW)
    if step is None:
        return part
    windows = part[WINDOW].to_list()
    gaps = [
        one + dt.timedelta(seconds=step)
        for one, after in itertools.pairwise(windows)
        if (after - one).total_seconds() > _GAP * step
    ]
    nothing = pl.DataFrame({WINDOW: pl.Series(gaps, dtype=part[WINDOW].dtype)})
    return pl.concat([part, nothing], how="diagonal").sort(WINDOW)


def iso(time: dt.datetime) -> str:
    """Return a time in UTC as ISO text, such as `2013-01-01T05:00:00Z`."""
    return f"{time.astimezone(dt.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def label(text: str, longest: int = 60) -> str:
    """Return text from data that is short enough for a label."""
    return shortened(text_of(text), longest)
