"""An interval as a band."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from monolith_keras_metrics.insight.figures.figure import translucent

Ends = Sequence["float | None"]


def band(x: Sequence[Any], low: Ends, high: Ends, colour: str) -> dict[str, Any]:
    """Return the trace of an interval: one closed polygon for each part without a gap.

    Args:
        x: Where the ends are.
        low: The lower ends.
        high: The upper ends.
        colour: The colour of the curve.
    """
    around: list[Any] = []
    ends: list[float | None] = []
    for at, lows, highs in _parts(x, low, high):
        if around:
            around, ends = [*around, None], [*ends, None]
        around += [*at, *reversed(at), at[0]]
        ends += [*lows, *reversed(highs), lows[0]]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": around,
        "y": ends,
        "fill": "toself",
        "fillcolor": translucent(colour, 0.2),
        "line": {"color": translucent(colour, 0.4), "width": 1},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _parts(
    x: Sequence[Any], low: Ends, high: Ends
) -> Iterator[tuple[list[Any], list[float], list[float]]]:
    """Yield the positions and ends of each part without a gap."""
    at: list[Any] = []
    lows: list[float] = []
    highs: list[float] = []
    for one, below, above in zip([*x, None], [*low, None], [*high, None], strict=True):
        if below is not None and above is not None:
            at, lows, highs = [*at, one], [*lows, below], [*highs, above]
        elif at:
            yield at, lows, highs
            at, lows, highs = [], [], []
