"""`predictions`: how the predictions of positives and of negatives are distributed."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from monolith_keras_metrics.insight.figures.figure import (
    SKY,
    VERMILION,
    Figure,
    layout,
    nothing,
    numbers,
    translucent,
)
from monolith_keras_metrics.insight.figures.given import of_target, one_group, target_of
from monolith_keras_metrics.insight.figures.scales import linear_ticks, spread
from monolith_keras_metrics.insight.texts import text_of

_COLUMNS = ("low", "high", "examples", "positives", "negatives")
# Probabilities that people know, the best known first.
_KNOWN = (
    *(0.5, 0.1, 0.9, *(10.0**-power for power in range(2, 8))),
    *(*(1 - 10.0**-power for power in range(2, 7)), 0.2, 0.8, 0.3, 0.7, 0.02, 0.05, 0.95),
)


def predictions(table: pl.DataFrame) -> Figure:
    """Draw the distribution of predictions, of positives and of negatives.

    Each of them adds up to 100 %, so that rare positives are seen, too. The further apart they are,
    the better the model ranks. Probabilities are drawn by their log odds, where 0.001 and 0.002 are
    as far apart as 0.999 and 0.998.

    Args:
        table: What `insight.distribution` returns, of one target and group.

    Raises:
        ValueError: If `table` has several targets or groups, or lacks a column.

    Example:
    >>> table = pl.DataFrame({
    ...     "target": ["ctr"] * 2, "low": [0.1, 0.2], "high": [0.2, 0.3], "examples": [9, 3],
    ...     "positives": [1.0, 1.0], "negatives": [8.0, 2.0],
    ... })
    >>> [trace["y"] for trace in predictions(table)["data"]]
    [[80.0, 20.0], [50.0, 50.0, 50.0, 50.0]]
    """
    target = target_of(table, _COLUMNS, "`distribution`")
    one_group(table)
    title = f"Predictions{of_target(target)}"
    if table.is_empty():
        return nothing(title, "There are no predictions.")
    table = table.sort("low")
    edges = _Edges(table)
    labelled = table["positives"].null_count() == 0
    traces = []
    if labelled:
        of_both = {name: _shares(table[name]) for name in ("negatives", "positives")}
        traces = [_bars(table, edges, of_both["negatives"], "negatives")]
        traces.append(_steps(edges, of_both["positives"]))
        axis = "share of each, %"
    else:
        traces = [_bars(table, edges, _shares(table["examples"]), "examples")]
        axis = "share of examples, %"
    text = (
        f"{text_of(int(table['examples'].sum()))} predictions from {text_of(table['low'][0])} to "
    )
    text += f"{text_of(table['high'][-1])}."
    if labelled:
        for name in ("positives", "negatives"):
            text += f" Half of the {name} are below {_middle(table, name)}."
    return Figure(
        data=traces,
        layout=layout(
            title,
            text,
            xaxis={"title": {"text": "prediction"}, **edges.axis()},
            yaxis={"title": {"text": axis}, "rangemode": "tozero"},
            bargap=0,
        ),
    )


class _Edges:
    """Where the bins are on the axis: by log odds, or as they are.

    The first and the last bin hold what is far away, too; they are drawn as wide as the others.

    Attributes:
        left: The left end of each bin.
        right: The right end.
    """

    def __init__(self, table: pl.DataFrame) -> None:
        low, high = (table[name].to_list() for name in ("low", "high"))
        has_labels = table["positives"].null_count() == 0
        self._by_odds = has_labels and low[0] >= 0 and high[-1] <= 1
        left, right = ([self.at(one) for one in ends] for ends in (low, high))
        width = min((b - a for a, b in zip(left, right, strict=True)), default=0.0) or 0.1
        left[0] = max(left[0], right[0] - width) if right[0] > left[0] else left[0] - width / 2
        right[-1] = min(right[-1], left[-1] + width) if right[-1] > left[-1] else left[-1] + width
        self.left, self.right = left, right

    def at(self, value: float) -> float:
        """Return the position of a prediction on the axis."""
        if not self._by_odds:
            return value
        near = min(max(value, 1e-9), 1 - 1e-9)
        return math.log(near / (1 - near))

    def axis(self) -> dict[str, Any]:
        """Return the ticks of the axis, at predictions."""
        if not self._by_odds:
            return {}
        inside = spread(_KNOWN, self.at, self.left[0], self.right[-1])
        if len(inside) < 3:
            low, high = (1 / (1 + math.exp(-one)) for one in (self.left[0], self.right[-1]))
            inside = [one for one in linear_ticks(low, high) if 0 < one < 1]
        texts = [f"{one:.7f}".rstrip("0") for one in inside]
        return {"tickvals": numbers(map(self.at, inside)), "ticktext": texts}


def _shares(values: pl.Series) -> list[float | None]:
    """Return what share of all is in each bin, as a percentage."""
    total = values.sum()
    return numbers(values / total * 100) if total else [0.0] * values.len()


def _bars(
    table: pl.DataFrame, edges: _Edges, shares: list[float | None], name: str
) -> dict[str, Any]:
    middles = [(left + right) / 2 for left, right in zip(edges.left, edges.right, strict=True)]
    widths = [right - left for left, right in zip(edges.left, edges.right, strict=True)]
    return {
        "type": "bar",
        "name": name,
        "x": numbers(middles),
        "width": numbers(widths),
        "y": shares,
        "marker": {"color": translucent(SKY, 0.6), "line": {"width": 0}},
        "customdata": [_hover(row) for row in table.iter_rows(named=True)],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _steps(edges: _Edges, shares: list[float | None]) -> dict[str, Any]:
    """Return the outline of bars."""
    corners = [one for pair in zip(edges.left, edges.right, strict=True) for one in pair]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "positives",
        "x": numbers(corners),
        "y": [share for share in shares for _ in range(2)],
        "line": {"color": VERMILION, "width": 2, "dash": "solid"},
        "hoverinfo": "skip",
    }


def _hover(row: dict[str, Any]) -> str:
    text = f"{text_of(row['low'])} to {text_of(row['high'])}<br>{text_of(row['examples'])} examples"
    for name in ("positives", "negatives"):
        if row[name] is not None:
            text += f"<br>{name} {text_of(row[name])}"
    return text


def _middle(table: pl.DataFrame, name: str) -> str:
    """Return the end of the bin at which half of all are reached."""
    reached = table.filter(pl.col(name).cum_sum() * 2 >= pl.col(name).sum())
    return text_of(reached["high"][0])
