"""Figures of what changes over time: `over_time`, `comparison_over_time` and `delay`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from monolith_keras_metrics.insight.figures.bands import band
from monolith_keras_metrics.insight.figures.figure import (
    COLOURS,
    DASHES,
    SYMBOLS,
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
    in_groups,
    iso,
    label,
    one_group,
    step_of,
    target_of,
    with_gaps,
)
from monolith_keras_metrics.insight.figures.scales import NO_TIME, duration, duration_ticks
from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.rows import WINDOW
from monolith_keras_metrics.insight.texts import text_of, with_interval, words_of

_MOST = 6  # lines
_MOST_BANDS = 3
_MOST_MARKERS = 60  # of a line; more of them are no longer told apart
_DELAYS = ("delay_p50", "delay_p95", "delay_p99")
_TIME = {"type": "date", "title": {"text": "time, UTC"}}


class _Line(NamedTuple):
    """A line of a figure.

    Attributes:
        name: Its name; "" if it is the only one.
        times: ISO texts.
        values: The values, None where there is none.
        low: The lower ends of the interval; None without one.
        high: The upper ends.
        examples: The number of examples of each.
    """

    name: str
    times: list[str]
    values: list[float | None]
    low: list[float | None] | None
    high: list[float | None] | None
    examples: list[int | None]


def over_time(table: pl.DataFrame, measure: str) -> Figure:
    """Draw a measure over time: a line with its interval as a band, and gaps without a value.

    Of several groups, the 6 with most examples are drawn; the description names the others.

    Args:
        table: What `summary(..., window=...)` returns, best with `interval`, of one target.
        measure: The measure.

    Raises:
        ValueError: If `table` has several targets or lacks a column, or `measure` is unknown.

    Example:
    >>> import datetime as dt
    >>> day = dt.datetime(2013, 1, 1, tzinfo=dt.timezone.utc)
    >>> table = pl.DataFrame({
    ...     "target": ["ctr"] * 2,
    ...     "window": [day, day + dt.timedelta(days=1)],
    ...     "examples": [100, 100],
    ...     "auc": [0.75, 0.7],
    ... })
    >>> over_time(table, "auc")["data"][0]["y"]
    [0.75, 0.7]
    """
    check_measure(measure, table, measure, "`summary` with `window`")
    target = target_of(table, [WINDOW, "examples"], "`summary` with `window`")
    best = MEASURES[measure].better
    return _drawn(
        table,
        measure,
        f"{words_of(measure)} of {target}, over time",
        _title(words_of(measure), best),
        best if isinstance(best, float) else None,
    )


def comparison_over_time(table: pl.DataFrame, measure: str) -> Figure:
    """Draw the difference of two trainings over time, with its interval as a band.

    Args:
        table: What `compare(..., window=...)` returns, of one target.
        measure: The measure.

    Raises:
        ValueError: If `table` has several targets or lacks a column, or `measure` is unknown.
    """
    column = f"{measure}_diff"
    check_measure(measure, table, column, "`compare` with `window`")
    target = target_of(table, [WINDOW, "examples"], "`compare` with `window`")
    words = words_of(measure)
    title = f"difference in {words} of {target} (b - a), over time"
    return _drawn(table, column, title, _title(f"{words}, b - a", MEASURES[measure].better), 0.0)


def delay(table: pl.DataFrame) -> Figure:
    """Draw how long examples waited from request to training, over time.

    Args:
        table: What `summary(..., window=...)` returns, of one target and group, with `delay_p50`,
            `delay_p95` or `delay_p99`.

    Raises:
        ValueError: If `table` has several targets or groups, or lacks a column.
    """
    names = [name for name in _DELAYS if name in table.columns]
    target = target_of(table, [WINDOW, *(names or _DELAYS[1:2])], "`summary` with `window`")
    one_group(table)
    title = f"delay of {target} from request to training, over time"
    part = with_gaps(table, step_of(table))
    found = [value for name in names for value in part[name].drop_nulls()]
    if not found:
        return nothing(title, "No record has both a time of request and a time of training.")
    times = list(map(iso, part[WINDOW]))
    traces = []
    for at, name in enumerate(names):
        seconds = part[name].to_list()
        drawn = [None if one is None else max(one, NO_TIME) for one in seconds]
        line = _Line(f"{name[7:]} % of examples", times, numbers(drawn), None, None, [])
        texts = ["" if one is None else duration(one) for one in seconds]
        traces.append(_line(line, at) | {"hovertemplate": "%{customdata}", "customdata": texts})
    values, texts = duration_ticks([max(one, NO_TIME) for one in found])
    last = {name: part[name].drop_nulls().tail(1).to_list() for name in names}
    words = ", ".join(
        f"{name[7:]} % within {duration(one[0])}" for name, one in last.items() if one
    )
    axis = {
        "type": "log",
        "title": {"text": "delay"},
        "tickvals": numbers(values),
        "ticktext": texts,
    }
    return Figure(
        data=traces, layout=layout(title, f"At last, {words}.", xaxis=dict(_TIME), yaxis=axis)
    )


def _title(words: str, better: str | float | None) -> str:
    """Return the title of the axis of a measure, with what is good."""
    if isinstance(better, float):
        return f"{words} (best: {better:g})" if better else words
    return f"{words} ({better} is better)" if better else words


def _drawn(table: pl.DataFrame, column: str, title: str, axis: str, best: float | None) -> Figure:
    """Return the figure of a column over time."""
    groups = in_groups(table)
    step = step_of(table)
    lines = [_line_of(name, with_gaps(part, step), column) for name, part in groups[:_MOST]]
    if not any(value is not None for line in lines for value in line.values):
        return nothing(title, "There are no values: the measure is undefined in all windows.")
    traces = []
    if len(lines) <= _MOST_BANDS:
        traces = [
            band(line.times, line.low, line.high, COLOURS[at])
            for at, line in enumerate(lines)
            if line.low is not None and line.high is not None
        ]
    traces += [_line(line, at) for at, line in enumerate(lines)]
    text = _description(lines, [label(name) for name, _ in groups[_MOST:]])
    shown = _range(lines, best)
    return Figure(
        data=traces,
        layout=layout(
            title,
            text,
            xaxis=dict(_TIME),
            yaxis={"title": {"text": axis}, "range": shown},
            shapes=[] if best is None else [reference(best)],
            showlegend=len(lines) > 1,
        ),
    )


def _line_of(name: str, part: pl.DataFrame, column: str) -> _Line:
    ends = [f"{column}{end}" for end in ("_low", "_high")]
    known = {*ends} <= {*part.columns}
    low, high = (numbers(part[end]) if known else None for end in ends)
    return _Line(
        label(name),
        list(map(iso, part[WINDOW])),
        numbers(part[column]),
        low,
        high,
        part["examples"].to_list(),
    )


def _line(line: _Line, at: int) -> dict[str, Any]:
    """Return the trace of a line."""
    hover = [
        f"{with_interval(value, *ends)}<br>{text_of(examples)} examples"
        if value is not None
        else ""
        for value, ends, examples in zip(line.values, _ends(line), line.examples, strict=False)
    ]
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": markup(line.name),
        "x": line.times,
        "y": line.values,
        "line": {"color": COLOURS[at], "width": 2, "dash": DASHES[at]},
        "marker": {"color": COLOURS[at], "symbol": SYMBOLS[at], "size": _sizes(line.values)},
        "connectgaps": False,
        "hovertemplate": "%{x|%Y-%m-%d %H:%M}<br>%{customdata}",
        "customdata": hover,
    }
    return trace


def _ends(line: _Line) -> Iterator[tuple[float | None, float | None]]:
    if line.low is None or line.high is None:
        return iter([(None, None)] * len(line.values))
    return zip(line.low, line.high, strict=True)


def _sizes(values: Sequence[float | None]) -> int | list[int]:
    """Return the size of the markers: of long lines, only what has no neighbours has one."""
    if len(values) <= _MOST_MARKERS:
        return 6
    around = [None, *values, None]
    alone = [
        before is None and after is None for before, after in zip(around, around[2:], strict=False)
    ]
    return [6 if one else 0 for one in alone] if any(alone) else 0


def _range(lines: Sequence[_Line], best: float | None) -> list[float | None]:
    """Return the range of the values, and of all but the widest intervals.

    A window of few examples has an interval that would leave no room for anything else.
    """
    values = [one for line in lines for one in line.values if one is not None]
    ends = [one for line in lines for pair in _ends(line) for one in pair if one is not None]
    low, high = np.quantile(ends, [0.05, 0.95]) if ends else (values[0], values[0])
    inside = [*values, float(low), float(high), *([best] if best is not None else [])]
    least, most = min(inside), max(inside)
    room = 0.06 * (most - least) or 0.06 * abs(most) or 1.0
    return numbers([least - room, most + room])


def _description(lines: Sequence[_Line], others: Sequence[str]) -> str:
    """Return what the lines show, in words."""
    sentences = []
    for line in lines:
        known = [
            (value, time, ends)
            for value, time, ends in zip(line.values, line.times, _ends(line), strict=True)
            if value is not None
        ]
        if not known:
            sentences.append(f"{line.name}: no values.")
            continue
        value, time, ends = known[-1]
        low, high = min(known), max(known)
        text = f"{with_interval(value, *ends)} at {_time(time)}"
        if len(known) > 1:
            text += (
                f", in {len(known)} windows from {_time(known[0][1])}; lowest "
                f"{text_of(number(low[0]))} at {_time(low[1])}, highest "
                f"{text_of(number(high[0]))} at {_time(high[1])}"
            )
        sentences.append(f"{line.name}: {text}." if line.name else f"Last {text}.")
    if others:
        sentences.append(f"Not drawn, with fewer examples: {'; '.join(others)}.")
    return " ".join(sentences)


def _time(iso_text: str) -> str:
    return iso_text[:16].replace("T", " ") + " UTC"
