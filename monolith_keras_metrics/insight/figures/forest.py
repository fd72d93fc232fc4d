"""Forest plots: a row for each slice or measure, with its interval."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from monolith_keras_metrics.insight.figures.figure import (
    BLUE,
    GREEN,
    GREY,
    VERMILION,
    Figure,
    layout,
    markup,
    number,
    numbers,
    reference,
    shortened,
)
from monolith_keras_metrics.insight.figures.scales import log_texts, log_ticks, spread
from monolith_keras_metrics.insight.texts import text_of, with_interval

MOST = 40  # rows
_LONGEST = 22  # characters of a line of a row's label, so that a phone has room for the drawing
_ROW, _TALL_ROW = 22, 44  # pixels; tall ones have labels of two lines
_BESIDE = 120  # pixels of axis, title and legend
# Ratios that people know, the best known first.
_RATIOS = (1, 0.1, 10, 0.5, 2, 0.2, 5, 0.8, 1.2, 1.5, 3, 0.7, 0.9, 1.1, 0.95, 1.05, 0.01, 100)


class Kind(NamedTuple):
    """How rows of one kind are drawn."""

    name: str
    colour: str
    symbol: str


BETTER = Kind("better", GREEN, "square")
WORSE = Kind("worse", VERMILION, "diamond")
NEAR = Kind("no clear difference", GREY, "circle-open")
PLAIN = Kind("", BLUE, "circle")


class Row(NamedTuple):
    """A row: its label, value and interval, what a reader sees of it, and how it is drawn."""

    label: str
    value: float
    low: float | None
    high: float | None
    hover: str
    kind: Kind


def value_text(row: Row) -> str:
    """Return the value of a row with its interval, as text."""
    return with_interval(number(row.value), number(row.low), number(row.high))


def forest(
    rows: Sequence[Row], title: str, text: str, axis: str, line: float | None, is_ratio: bool
) -> Figure:
    """Return the figure of rows, the first at the top."""
    labels = [_lines(row.label) for row in rows]
    is_tall = any(len(lines) > 1 for lines in labels)
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
                "ticktext": ["<br>".join(map(markup, lines)) for lines in labels],
                "automargin": True,
            },
            shapes=[] if line is None else [reference(line, "x")],
            height=_BESIDE + (_TALL_ROW if is_tall else _ROW) * len(rows),
            showlegend=kinds != [PLAIN],
        ),
    )


def _lines(text: str) -> list[str]:
    """Return a label in at most two lines: of a pair of values, one in each.

    Example:
    >>> _lines("hour=7, distance=1028 to 1096"), _lines("carrier=DL")
    (['hour=7,', 'distance=1028 to 1096'], ['carrier=DL'])
    """
    text = text_of(text)
    if len(text) <= _LONGEST - 4:
        return [text]
    first, comma, rest = text.partition(", ")
    if comma and max(len(first) + 1, len(rest)) <= _LONGEST:
        return [f"{first},", rest]
    line = next(iter(textwrap.wrap(text, _LONGEST)), "")
    return [line, shortened(text[len(line) :].strip(), _LONGEST)]


def _points(rows: Sequence[tuple[int, Row]], kind: Kind) -> dict[str, Any]:
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
    ticks = spread(_RATIOS, math.log10, *ends)
    if len(ticks) < 3:
        ticks = log_ticks(10 ** ends[0], 10 ** ends[1])
    return {"type": "log", "range": numbers(ends), "tickvals": ticks, "ticktext": log_texts(ticks)}
