"""Figures of what changes over time: `over_time`, `comparison_over_time` and `delay`."""

from __future__ import annotations

import polars as pl

from monolith_keras_metrics.insight.figures.bands import band
from monolith_keras_metrics.insight.figures.figure import (
    COLOURS,
    Figure,
    layout,
    nothing,
    numbers,
    reference,
)
from monolith_keras_metrics.insight.figures.given import (
    check_measure,
    in_groups,
    iso,
    label,
    of_target,
    one_group,
    step_of,
    target_of,
    with_gaps,
)
from monolith_keras_metrics.insight.figures.lines import (
    Line,
    description_of,
    line_trace,
    range_of,
    time_axis,
)
from monolith_keras_metrics.insight.figures.scales import NO_TIME, duration, duration_ticks
from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.rows import WINDOW
from monolith_keras_metrics.insight.texts import words_of

_MOST = 6  # lines
_MOST_BANDS = 3  # more of them hide each other
_DELAYS = ("delay_p50", "delay_p95", "delay_p99")
_TABLE = "`summary` with `window`"


def over_time(table: pl.DataFrame, measure: str, whole: float | None = None) -> Figure:
    """Draw a measure over time: a line with its interval as a band, and gaps without a value.

    Of several groups, the 6 with most examples are drawn, and the description names the others.
    Intervals of more than 3 lines are not drawn. The axis shows all windows but those with less
    than a tenth of the usual number of examples.

    Args:
        table: What `summary(..., window=...)` returns, best with `interval`, of one target.
        measure: The measure.
        whole: Where a line of dashes stands, such as the measure of all records. Default: the best
            value, if it is a number.

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
    check_measure(measure, table, measure, _TABLE)
    target = target_of(table, [WINDOW, "examples"], _TABLE)
    best = MEASURES[measure].better
    words = words_of(measure)
    title = f"{words[0].upper()}{words[1:]}{of_target(target)}, over time"
    if whole is None and isinstance(best, float):
        whole = best
    return _drawn(table, measure, title, _with_best(words, best), whole)


def comparison_over_time(table: pl.DataFrame, measure: str) -> Figure:
    """Draw the difference of two trainings over time, with its interval as a band.

    Args:
        table: What `compare(..., window=...)` returns, of one target.
        measure: The measure.

    Raises:
        ValueError: If `table` has several targets or lacks a column, or `measure` is unknown.
    """
    made_by = "`compare` with `window`"
    check_measure(measure, table, f"{measure}_diff", made_by)
    target = target_of(table, [WINDOW, "examples"], made_by)
    words = words_of(measure)
    title = f"Difference in {words}{of_target(target)} (b - a), over time"
    # The title names the measure: with its name, this text would be longer than the axis.
    side = {"higher": ": above 0 is better", "lower": ": below 0 is better"}
    axis = "b - a" + side.get(str(MEASURES[measure].better), "")
    return _drawn(table, f"{measure}_diff", title, axis, 0.0)


def delay(table: pl.DataFrame) -> Figure:
    """Draw how long examples waited from request to training, over time.

    Args:
        table: What `summary(..., window=...)` returns, of one target and group, with `delay_p50`,
            `delay_p95` or `delay_p99`.

    Raises:
        ValueError: If `table` has several targets or groups, or lacks a column.
    """
    names = [name for name in _DELAYS if name in table.columns]
    target = target_of(table, [WINDOW, "examples", *(names or _DELAYS[:1])], _TABLE)
    one_group(table)
    title = f"Delay{of_target(target)} from request to training, over time"
    part = with_gaps(table, step_of(table))
    found = [value for name in names for value in part[name].drop_nulls()]
    if not found:
        return nothing(title, "No record has both a time of request and a time of training.")
    traces = []
    for at, name in enumerate(names):
        seconds = part[name].to_list()
        drawn = part.with_columns(pl.col(name).clip(NO_TIME))
        line = Line.of(f"{name[-2:]} % within", drawn, name)
        texts = ["" if one is None else duration(one) for one in seconds]
        traces.append(line_trace(line, at, texts))
    values, labels = duration_ticks([max(one, NO_TIME) for one in found])
    newest = {name: part[name].drop_nulls().tail(1).to_list() for name in names}
    text = ", ".join(
        f"{name[-2:]} % within {duration(*one)}" for name, one in newest.items() if one
    )
    axis = {"type": "log", "title": {"text": "delay"}, "tickvals": numbers(values)}
    return Figure(
        data=traces,
        layout=layout(
            title,
            f"Newest: {text}.",
            xaxis=time_axis(list(map(iso, part[WINDOW]))),
            yaxis=axis | {"ticktext": labels},
            hovermode="x unified",
        ),
    )


def _with_best(words: str, better: str | float | None) -> str:
    """Return the title of the axis of a measure, with what is good."""
    if isinstance(better, float):
        return f"{words} (best: {better:g})"
    return f"{words} ({better} is better)" if better else words


def _drawn(table: pl.DataFrame, column: str, title: str, axis: str, best: float | None) -> Figure:
    """Return the figure of a column over time."""
    groups = in_groups(table)
    step = step_of(table)
    lines = [Line.of(name, with_gaps(part, step), column) for name, part in groups[:_MOST]]
    if not any(line.known() for line in lines):
        return nothing(title, "There are no values: the measure is undefined in all windows.")
    traces = []
    if len(lines) <= _MOST_BANDS:
        traces = [
            band(line.times, line.ends, COLOURS[at])
            for at, line in enumerate(lines)
            if line.has_interval
        ]
    traces += [line_trace(line, at) for at, line in enumerate(lines)]
    return Figure(
        data=traces,
        layout=layout(
            title,
            description_of(lines, [label(name) for name, _ in groups[_MOST:]]),
            xaxis=time_axis([time for line in lines for time in line.times]),
            yaxis={"title": {"text": axis}, "range": range_of(lines, best)},
            shapes=[] if best is None else [reference(best)],
            showlegend=len(lines) > 1,
            hovermode="x unified",
        ),
    )
