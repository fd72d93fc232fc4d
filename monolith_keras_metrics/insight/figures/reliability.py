"""`reliability`: the curve of what came true, with its interval, and the number of examples."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from monolith_keras_metrics.insight.figures.bands import band
from monolith_keras_metrics.insight.figures.figure import (
    BLUE,
    GREY,
    SKY,
    VERMILION,
    Figure,
    layout,
    nothing,
    numbers,
)
from monolith_keras_metrics.insight.figures.given import of_target, one_group, target_of
from monolith_keras_metrics.insight.texts import text_of, with_interval

_COLUMNS = ("bin", "examples", "mean_prediction", "positive_rate", "low", "high")
_SKEWED = 0.1  # predictions are skewed if half of them are below
_HEIGHT = 380


def reliability(table: pl.DataFrame) -> Figure:
    """Draw how often predictions of each size came true, and how many examples there are of each.

    A calibrated model is on the diagonal. If half of the predictions are below 0.1, both axes are
    logarithmic.

    Args:
        table: What `insight.reliability` returns, of one target and group.

    Raises:
        ValueError: If `table` has several targets or groups, or lacks a column.

    Example:
    >>> table = pl.DataFrame({
    ...     "target": ["ctr"] * 2, "bin": [0, 1], "examples": [50, 50],
    ...     "mean_prediction": [0.25, 0.75], "positive_rate": [0.2, 0.8],
    ...     "low": [0.1, 0.7], "high": [0.3, 0.9],
    ... })
    >>> curve = reliability(table)["data"][2]
    >>> curve["x"], curve["y"]
    ([0.25, 0.75], [0.2, 0.8])
    """
    target = target_of(table, _COLUMNS, "`reliability`")
    one_group(table)
    title = f"Reliability{of_target(target)}: what came true of each prediction"
    if table.is_empty():
        return nothing(title, "It is defined for labels 0 and 1 with predictions from 0 to 1 only.")
    table = table.sort("mean_prediction")
    is_log = _is_skewed(table)
    least, most = _ends(table, is_log)
    x = numbers(table["mean_prediction"])
    low, high = (numbers(table[name].clip(least)) for name in ("low", "high"))
    diagonal = {
        "type": "scatter",
        "mode": "lines",
        "name": "calibrated",
        "x": numbers([least, most]),
        "y": numbers([least, most]),
        "line": {"color": GREY, "width": 1, "dash": "dash"},
        "hoverinfo": "skip",
    }
    never = table.filter((pl.col("positive_rate") <= 0) & is_log)
    traces = [diagonal, band(x, list(zip(low, high, strict=True)), BLUE), _curve(table, is_log)]
    if never.height:
        traces.append(_never(never, least))
    traces.append(_mass(table))
    shown = [math.log10(one) for one in (least, most)] if is_log else [least, most]
    axis = {"type": "log" if is_log else "linear", "range": numbers(shown)}
    outside = table.filter(~pl.col("mean_prediction").is_between("low", "high")).height
    text = (
        f"Of {table.height} bins of predictions, {outside} are outside of the interval of what "
        f"came true. The lowest bin predicts {text_of(x[0])} and "
        f"{text_of(numbers(table['positive_rate'])[0])} came true; the highest predicts "
        f"{text_of(x[-1])} and {text_of(numbers(table['positive_rate'])[-1])} came true."
    )
    return Figure(
        data=traces,
        layout=layout(
            title,
            text,
            xaxis={**axis, "title": {"text": "mean prediction of a bin"}, "anchor": "y2"},
            yaxis={**axis, "title": {"text": "came true"}, "domain": [0.27, 1]},
            yaxis2={
                "title": {"text": "examples, %"},
                "domain": [0, 0.12],
                "rangemode": "tozero",
                "nticks": 3,
            },
            height=_HEIGHT,
        ),
    )


def _is_skewed(table: pl.DataFrame) -> bool:
    ordered = table["examples"].cum_sum() * 2 >= table["examples"].sum()
    middle = table["mean_prediction"].filter(ordered)[0]
    return bool(0 < middle < _SKEWED and table["mean_prediction"].min() > 0)  # type: ignore[operator]


def _ends(table: pl.DataFrame, is_log: bool) -> tuple[float, float]:
    """Return the range of both axes, so that the diagonal is one."""
    values = [*table["mean_prediction"], *table["positive_rate"]]
    most = max([*values, *table["high"].drop_nulls().clip(upper_bound=2 * max(values))])
    if is_log:
        return 0.7 * min(one for one in values if one > 0), min(1.3 * most, 1.0)
    return 0.0, min(1.03 * most, 1.0) or 1.0


def _curve(table: pl.DataFrame, is_log: bool) -> dict[str, Any]:
    rates = [None if is_log and not one else one for one in table["positive_rate"]]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "came true",
        "x": numbers(table["mean_prediction"]),
        "y": numbers(rates),
        "line": {"color": BLUE, "width": 2, "dash": "solid"},
        "marker": {"color": BLUE, "symbol": "circle", "size": 6},
        "connectgaps": False,
        "customdata": _hover(table),
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _never(table: pl.DataFrame, least: float) -> dict[str, Any]:
    """Return the bins of which nothing came true, which a log axis does not have."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "none came true",
        "x": numbers(table["mean_prediction"]),
        "y": numbers([least] * table.height),
        "marker": {"color": VERMILION, "symbol": "triangle-down", "size": 8},
        "customdata": _hover(table),
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _mass(table: pl.DataFrame) -> dict[str, Any]:
    """Return the share of the examples in each bin: lines from the ground, on any axis."""
    total = table["examples"].sum()
    x: list[float | None] = []
    y: list[float | None] = []
    for at, share in zip(table["mean_prediction"], table["examples"] / total * 100, strict=True):
        x, y = [*x, at, at, None], [*y, 0.0, share, None]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "examples",
        "x": numbers(x),
        "y": numbers(y),
        "yaxis": "y2",
        "line": {"color": SKY, "width": 5, "dash": "solid"},
        "hovertemplate": "%{y:.1f} % of the examples<extra></extra>",
        "showlegend": False,
    }


def _hover(table: pl.DataFrame) -> list[str]:
    return [
        f"predicted {text_of(row['mean_prediction'])}<br>came true "
        f"{with_interval(row['positive_rate'], row['low'], row['high'])}<br>"
        f"{text_of(row['examples'])} examples"
        for row in table.iter_rows(named=True)
    ]
