"""The axes of a drawing: from values to positions."""

from __future__ import annotations

import datetime as dt
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monolith_keras_metrics.insight.figures import scales

_ROOM = 0.05  # of the range, beside the values
_CHARACTER = 7.2  # pixels of one, on average, of a wide font


class Axis:
    """An axis: `axis(value)` is a position in pixels, or None for what cannot be drawn.

    Args:
        settings: The axis in the layout.
        values: The values that are drawn.
        start: The position of the first value of the range.
        end: The position of the last.

    Attributes:
        title: Its title.
        start: As given.
        end: As given.
    """

    def __init__(
        self, settings: Mapping[str, Any], values: Iterable[Any], start: float, end: float
    ) -> None:
        self.title = html.unescape(settings.get("title", {}).get("text", ""))
        self.start, self.end = start, end
        self._kind = settings.get("type", "linear")
        self._settings = settings
        self._first, self._last = self._range(values)
        self._scale = (end - start) / (self._last - self._first)

    def __call__(self, value: Any) -> float | None:
        """Return the position of a value, which may be outside of the range."""
        at = self._number(value)
        if at is None:
            return None
        return self.start + (at - self._first) * self._scale

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Return the positions and texts of at most so many ticks, or those of the layout."""
        low, high = sorted((self._first, self._last))
        chosen = self._settings.get("tickvals")
        if chosen is not None:
            texts = [html.unescape(one.replace("<br>", "\n")) for one in self._settings["ticktext"]]
            found = [(self._number(one), text) for one, text in zip(chosen, texts, strict=True)]
        elif self._kind == "date":
            found = list(scales.date_ticks(low, high, most))
        elif self._kind == "log":
            values = scales.log_ticks(10**low, 10**high, most)
            found = [
                (math.log10(one), text)
                for one, text in zip(values, scales.log_texts(values), strict=True)
            ]
        else:
            values = scales.linear_ticks(low, high, most)
            found = list(zip(values, scales.number_texts(values), strict=True))
        return [
            (self.start + (at - self._first) * self._scale, text)
            for at, text in found
            if at is not None and low <= at <= high
        ]

    def _number(self, value: Any) -> float | None:
        """Return a value on the axis' scale."""
        if value is None:
            return None
        if self._kind == "date":
            return dt.datetime.fromisoformat(str(value).replace("Z", "+00:00")).timestamp()
        if self._kind == "log":
            return math.log10(value) if value > 0 else None
        return float(value)

    def _range(self, values: Iterable[Any]) -> tuple[float, float]:
        if (given := self._settings.get("range")) is not None:
            first, last = given
            if self._kind == "date":
                first, last = self._number(first), self._number(last)
            return (first, last) if first != last else (first - 1, last + 1)
        known = [at for value in values if (at := self._number(value)) is not None]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        if low == high:
            room = {"date": 43_200.0, "log": 0.5}.get(self._kind, abs(low) / 2 or 1.0)
        else:
            room = (high - low) * (0.02 if self._kind == "date" else _ROOM)
        if self._settings.get("rangemode") == "tozero":
            return 0.0, max(high, 0.0) + room
        return low - room, high + room


def width_of(text: str) -> float:
    """Return about how wide a text is, in pixels; of several lines, the longest."""
    return max(map(len, text.split("\n"))) * _CHARACTER


def apart(ticks: Sequence[tuple[float, str]], size: float | None = None) -> list[tuple[float, str]]:
    """Return the ticks without those whose text would touch the one before.

    Args:
        ticks: Positions and texts.
        size: The size of each text along the axis. Default: its width.
    """
    shown: list[tuple[float, str]] = []
    free = -math.inf
    for at, text in sorted(ticks):
        half = (width_of(text) + 8 if size is None else size) / 2
        if at - half >= free:
            shown.append((at, text))
            free = at + half
    return shown
