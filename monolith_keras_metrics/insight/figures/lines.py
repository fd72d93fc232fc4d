"""Lines over time, each with its interval."""

from __future__ import annotations

import datetime as dt
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.insight.figures.bands import Ends
from monolith_keras_metrics.insight.figures.figure import (
    COLOURS,
    DASHES,
    SYMBOLS,
    markup,
    numbers,
)
from monolith_keras_metrics.insight.figures.given import iso, label
from monolith_keras_metrics.insight.rows import WINDOW
from monolith_keras_metrics.insight.texts import text_of, with_interval

MOST_MARKERS = 60  # of a line; more of them are no longer told apart
_AROUND = dt.timedelta(hours=12)  # a single window
_FAR = 0.05  # of the ends of intervals, on either side
_FEW = 0.1  # of the usual number of examples: a window that has just begun, or a night


class Line(NamedTuple):
    """A line of a figure.

    Attributes:
        name: Its name; "" if it is the only one.
        times: The windows, as ISO texts.
        values: The values, None where there is none.
        ends: The ends of each interval, None without one.
        examples: The number of examples of each.
    """

    name: str
    times: list[str]
    values: list[float | None]
    ends: list[Ends]
    examples: list[int | None]

    @classmethod
    def of(cls, name: str, part: pl.DataFrame, column: str) -> Line:
        """Return the line of a column.

        Args:
            name: Its name.
            part: The windows of one group, in order.
            column: The column.
        """
        both = [f"{column}{end}" for end in ("_low", "_high")]
        ends: list[Ends] = [(None, None)] * part.height
        if {*both} <= {*part.columns}:
            ends = list(zip(*(numbers(part[one]) for one in both), strict=True))
        times = list(map(iso, part[WINDOW]))
        return cls(label(name), times, numbers(part[column]), ends, part["examples"].to_list())

    @property
    def has_interval(self) -> bool:
        """Return True if any value has an interval."""
        return any(low is not None for low, _ in self.ends)

    def known(self) -> list[tuple[float, str, Ends]]:
        """Return the values that there are, with their windows and intervals."""
        every = zip(self.values, self.times, self.ends, strict=True)
        return [(value, time, ends) for value, time, ends in every if value is not None]

    def solid(self) -> list[tuple[float, str, Ends]]:
        """Return those of windows that do not have far fewer examples than others."""
        usual = statistics.median(
            examples or 0
            for examples, value in zip(self.examples, self.values, strict=True)
            if value is not None
        )
        every = zip(self.values, self.times, self.ends, self.examples, strict=True)
        return [
            (value, time, ends)
            for value, time, ends, examples in every
            if value is not None and (examples or 0) >= _FEW * usual
        ]


def line_trace(line: Line, at: int, texts: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the trace of a line.

    Args:
        line: The line.
        at: Its number, which decides how it looks.
        texts: What a reader sees of each value. Default: the value, its interval, and how many
            examples there are.
    """
    name, size = markup(line.name), _sizes(line.values)
    return {
        "type": "scatter",
        "mode": "lines+markers" if size else "lines",
        "name": name,
        "x": line.times,
        "y": line.values,
        "line": {"color": COLOURS[at], "width": 2, "dash": DASHES[at]},
        "marker": {"color": COLOURS[at], "symbol": SYMBOLS[at], "size": size},
        "connectgaps": False,
        "customdata": list(texts or _texts(line)),
        "hovertemplate": "%{customdata}" + ("" if name else "<extra></extra>"),
    }


def _texts(line: Line) -> Iterator[str]:
    for value, ends, examples in zip(line.values, line.ends, line.examples, strict=True):
        yield (
            "" if value is None else f"{with_interval(value, *ends)}, {text_of(examples)} examples"
        )


def _sizes(values: Sequence[float | None]) -> int | list[int]:
    """Return the size of the markers: of long lines, only what has no neighbours has one."""
    if len(values) <= MOST_MARKERS:
        return 6
    around = [None, *values, None]
    alone = [
        one is not None and before is None and after is None
        for before, one, after in zip(around, values, around[2:], strict=False)
    ]
    return [6 if one else 0 for one in alone] if any(alone) else 0


def range_of(lines: Sequence[Line], best: float | None) -> list[float | None]:
    """Return the range of an axis: all values but those of windows of few examples.

    These, and the ends of the widest intervals, would leave no room for anything else. A reader may
    zoom out.
    """
    solid = [one for line in lines if line.known() for one in line.solid()]
    ends = sorted(end for _, _, both in solid for end in both if end is not None)
    far = int(_FAR * len(ends))
    inside = [
        *(value for value, _, _ in solid),
        *ends[far : len(ends) - far],
        *([] if best is None else [best]),
    ]
    least, most = min(inside), max(inside)
    room = 0.06 * (most - least) or 0.06 * abs(most) or 1.0
    return numbers([least - room, most + room])


def time_axis(times: Sequence[str]) -> dict[str, Any]:
    """Return the axis of these windows; a single one is shown with some time around it."""
    axis: dict[str, Any] = {
        "type": "date",
        "title": {"text": "time, UTC"},
        "hoverformat": "%Y-%m-%d %H:%M",
    }
    if len({*times}) == 1:
        time = dt.datetime.fromisoformat(times[0].replace("Z", "+00:00"))
        axis["range"] = [iso(time + side * _AROUND) for side in (-1, 1)]
    return axis


def description_of(lines: Sequence[Line], others: Sequence[str]) -> str:
    """Return what lines show, in words.

    Args:
        lines: The lines.
        others: The names of those that are not drawn.
    """
    sentences = [_sentence(line) for line in lines]
    if others:
        sentences.append(f"Not drawn, with fewer examples: {'; '.join(others)}.")
    return " ".join(sentences)


def _sentence(line: Line) -> str:
    if not (known := line.known()):
        return f"{line.name}: no values."
    value, time, ends = known[-1]
    text = f"last {with_interval(value, *ends)} at {_time(time)}"
    solid = line.solid()
    if len(solid) > 1:
        low, high = (pick(solid, key=lambda one: one[0]) for pick in (min, max))
        text += (
            f"; from {_time(known[0][1])} on, {len(known)} windows, lowest {text_of(low[0])} at "
            f"{_time(low[1])}, highest {text_of(high[0])} at {_time(high[1])}"
        )
        if few := len(known) - len(solid):
            text += f", without {few} of few examples"
    return f"{line.name}: {text}." if line.name else f"{text[0].upper()}{text[1:]}."


def _time(iso_text: str) -> str:
    return iso_text[:16].replace("T", " ") + " UTC"
