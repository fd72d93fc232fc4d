"""An interval as a band."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from monolith_keras_metrics.insight.figures.figure import translucent

Ends = tuple["float | None", "float | None"]


def band(x: Sequence[Any], ends: Sequence[Ends], colour: str) -> dict[str, Any]:
    """Return the trace of an interval: one closed polygon for each part without a gap.

    Args:
        x: Where the intervals are.
        ends: The ends of each; None where there is none.
        colour: The colour of the curve.
    """
    around: list[Any] = []
    y: list[float | None] = []
    for at, lows, highs in _parts(x, ends):
        if around:
            around.append(None)
            y.append(None)
        around += [*at, *reversed(at), at[0]]
        y += [*lows, *reversed(highs), lows[0]]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": around,
        "y": y,
        "fill": "toself",
        "fillcolor": translucent(colour, 0.2),
        "line": {"color": translucent(colour, 0.4), "width": 1},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _parts(
    x: Sequence[Any], ends: Sequence[Ends]
) -> Iterator[tuple[list[Any], list[float], list[float]]]:
    """Yield the positions and ends of each part without a gap."""
    at: list[Any] = []
    lows: list[float] = []
    highs: list[float] = []
    for one, (below, above) in zip([*x, None], [*ends, (None, None)], strict=True):
        if below is not None and above is not None:
            at.append(one)
            lows.append(below)
            highs.append(above)
        elif at:
            yield at, lows, highs
            at, lows, highs = [], [], []
