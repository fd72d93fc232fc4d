"""Forest plots: a row for each slice or measure, with its interval: `slices` and `comparison`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.insight.figures.figure import (
    BLUE,
    GREEN,
    GREY,
    VERMILION,
    Figure,
    layout,
    markup,
    nothing,
    number,
    numbers,
    reference,
)
from monolith_keras_metrics.insight.figures.given import (
    check_measure,
    group_text,
    groups_of,
    label,
    of_target,
    target_of,
)
from monolith_keras_metrics.insight.figures.scales import log_texts, log_ticks
from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.texts import text_of, with_interval, words_of

_MOST = 40  # rows
_LONGEST = 34  # characters of a row's label
_ROW = 22  # pixels
_BESIDE = 110  # pixels of axis, title and legend
# Ratios that people know.
_RATIOS = (0.01, 0.1, 0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10, 100)
# At a glance; others are computed from the same, or differ by more than their size by chance.
_COMPARED = ("calibration", "auc", "gauc", "pr_auc", "log_loss", "normalised_entropy", "brier",
             "mae", "rmse")  # fmt: skip


class _Kind(NamedTuple):
    """How rows of one kind are drawn."""

    name: str
    colour: str
    symbol: str


_TOO_MUCH = _Kind("predicts too much", VERMILION, "triangle-right")
_TOO_LITTLE = _Kind("predicts too little", BLUE, "triangle-left")
_RIGHT = _Kind("may be right", GREY, "circle-open")
_ABOVE = _Kind("above the line", VERMILION, "triangle-right")
_BELOW = _Kind("below the line", BLUE, "triangle-left")
_BETTER = _Kind("better", GREEN, "square")
_WORSE = _Kind("worse", VERMILION, "diamond")
_OTHER = _Kind("different", BLUE, "triangle-up")
_NEAR = _Kind("no clear difference", GREY, "circle-open")
_PLAIN = _Kind("", BLUE, "circle")


class _Row(NamedTuple):
    """A row: its label, value and interval, what a reader sees of it, and how it is drawn."""

    label: str
    value: float
    low: float | None
    high: float | None
    hover: str
    kind: _Kind


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
        shown = _worst_first(shown.top_k(_MOST, by="examples"), measure, line)
    shown = shown.head(_MOST)
    if shown.is_empty():
        return nothing(title, "No slice is wrong by more than chance." if found else "No values.")
    rows = [_slice_row(row, measure, line) for row in shown.iter_rows(named=True)]
    left_out = table.height - shown.height
    text = f"{len(rows)} slices" + (f" of {table.height}" if left_out else "") + ": "
    text += "; ".join(f"{row.label} {_value(row)}" for row in rows[:5])
    text += "; …" if len(rows) > 5 else "."
    is_ratio = MEASURES[measure].scale == "log" and line is not None and line > 0
    return _forest(rows, title, text, words, line, is_ratio)


def comparison(table: pl.DataFrame, measures: str | Sequence[str] | None = None) -> Figure:
    """Draw by how much two trainings differ, with intervals: is `b` better than `a`?

    One measure is drawn as it is. Several are drawn as a percentage of the value of `a`, so that
    they fit one axis.

    Args:
        table: What `compare` returns, without `window`, of one target.
        measures: The measures. Default: those at a glance that `table` has.

    Raises:
        ValueError: If `table` has several targets or lacks a column, or a measure is unknown.
    """
    target = target_of(table, ["examples"], "`compare`")
    known = [name for name in _COMPARED if f"{name}_diff" in table.columns]
    names = known if measures is None else [measures] if isinstance(measures, str) else [*measures]
    for name in names:
        check_measure(name, table, f"{name}_diff", "`compare`")
    in_percent = len(names) > 1
    rows = [
        row
        for name in names
        for one in table.head(_MOST).iter_rows(named=True)
        if (row := _difference_row(one, name, in_percent, groups_of(table))) is not None
    ][:_MOST]
    title = f"Difference of b and a{of_target(target)}"
    if not rows:
        return nothing(title, "There is nothing to compare: no example is in both.")
    unit = " %" if in_percent else ""
    text = "; ".join(f"{row.label}: {_value(row)}{unit}, {row.kind.name}" for row in rows[:8])
    words = words_of(names[0])
    axis = "difference (b - a), % of a" if in_percent else f"difference in {words} (b - a)"
    return _forest(rows, title, text + ("; …" if len(rows) > 8 else "."), axis, 0.0, False)


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
    above = pl.max_horizontal(low.fill_null(value) - line, 0.0)
    below = pl.max_horizontal(line - high.fill_null(value), 0.0)
    if isinstance(better, float) or better is None:
        return table.sort(above + below, (value - line).abs(), descending=True)
    worse, distance = (above - below, value) if better == "lower" else (below - above, -value)
    return table.sort(worse, distance, descending=True)


def _slice_row(row: dict[str, Any], measure: str, line: float | None) -> _Row:
    value, low, high = (row.get(f"{measure}{end}") for end in ("", "_low", "_high"))
    if "slice" in row:
        text = str(row["slice"])
    else:
        text = group_text(row, groups_of(pl.DataFrame(schema=dict.fromkeys(row))))
    kind = _PLAIN if line is None else _NEAR
    if line is not None and low is not None and high is not None:
        kind = _kind(measure, low > line, high < line)
    hover = f"{markup(label(text))}<br>{words_of(measure)} {with_interval(value, low, high)}"
    hover += f"<br>{text_of(row['examples'])} examples"
    if row.get("impact") is not None:
        hover += f"<br>wrong by {text_of(row['impact'])} labels"
    assert value is not None
    return _Row(text, value, low, high, hover, kind)


def _kind(measure: str, is_above: bool, is_below: bool) -> _Kind:
    """Return how a slice is drawn whose interval is above or below the line, or holds it."""
    better = MEASURES[measure].better
    more, less, near = _ABOVE, _BELOW, _NEAR
    if measure in ("calibration", "bias"):
        more, less, near = _TOO_MUCH, _TOO_LITTLE, _RIGHT
    elif better in ("higher", "lower"):
        more, less = (_BETTER, _WORSE) if better == "higher" else (_WORSE, _BETTER)
    return more if is_above else less if is_below else near


def _difference_row(
    row: dict[str, Any], name: str, in_percent: bool, groups: Sequence[str]
) -> _Row | None:
    a, b, value = (row.get(f"{name}{end}") for end in ("_a", "_b", "_diff"))
    low, high = (row.get(f"{name}_diff{end}") for end in ("_low", "_high"))
    if a is None or b is None or value is None or (in_percent and not a):
        return None
    better = MEASURES[name].better
    text = ", ".join(one for one in (words_of(name), group_text(row, groups)) if one)
    kind = _NEAR
    if low is not None and high is not None and not low <= 0 <= high:
        kind = _verdict(a, b, better)
    hover = f"{markup(label(text))}<br>a {text_of(a)}, b {text_of(b)}<br>"
    hover += f"difference {with_interval(value, low, high)}<br>{kind.name}"
    factor = 100 / abs(a) if in_percent else 1.0
    low, high = (None if end is None else end * factor for end in (low, high))
    return _Row(text, value * factor, low, high, hover, kind)


def _verdict(a: float, b: float, better: str | float | None) -> _Kind:
    if better is None:
        return _OTHER
    if isinstance(better, float):
        return _BETTER if abs(b - better) < abs(a - better) else _WORSE
    return _BETTER if (b > a) == (better == "higher") else _WORSE


def _value(row: _Row) -> str:
    return with_interval(number(row.value), number(row.low), number(row.high))


def _forest(
    rows: Sequence[_Row], title: str, text: str, axis: str, line: float | None, is_ratio: bool
) -> Figure:
    """Return the figure of rows, the first at the top."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    traces = [_points([(at, row) for at, row in enumerate(rows) if row.kind == kind], kind)
              for kind in kinds]  # fmt: skip
    x_axis: dict[str, Any] = {"title": {"text": axis}}
    if is_ratio:
        assert line is not None
        x_axis |= _ratio_axis([one for row in rows for one in row[1:4] if one is not None] + [line])
    return Figure(
        data=traces,
        layout=layout(
            title,
            text,
            xaxis=x_axis,
            yaxis={
                "title": {"text": ""},
                "range": [len(rows) - 0.5, -0.5],
                "tickvals": list(range(len(rows))),
                "ticktext": [markup(label(row.label, _LONGEST)) for row in rows],
                "automargin": True,
            },
            shapes=[] if line is None else [reference(line, "x")],
            height=_BESIDE + _ROW * len(rows),
            showlegend=kinds != [_PLAIN],
        ),
    )


def _points(rows: Sequence[tuple[int, _Row]], kind: _Kind) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": kind.name,
        "x": numbers(row.value for _, row in rows),
        "y": [at for at, _ in rows],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": numbers(None if row.high is None else row.high - row.value for _, row in rows),
            "arrayminus": numbers(
                None if row.low is None else row.value - row.low for _, row in rows
            ),
            "color": kind.colour,
            "thickness": 2,
            "width": 0,
        },
        "marker": {"color": kind.colour, "symbol": kind.symbol, "size": 9},
        "customdata": [row.hover for _, row in rows],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _ratio_axis(values: Sequence[float]) -> dict[str, Any]:
    """Return a log axis with ratios that people know."""
    positive = [one for one in values if one > 0]
    low, high = min(positive), max(positive)
    room = max(0.06 * math.log10(high / low), 0.004)
    ends = [math.log10(low) - room, math.log10(high) + room]
    ticks = [one for one in _RATIOS if ends[0] <= math.log10(one) <= ends[1]]
    if len(ticks) < 3:
        ticks = log_ticks(10 ** ends[0], 10 ** ends[1])
    return {"type": "log", "range": numbers(ends), "tickvals": ticks, "ticktext": log_texts(ticks)}
