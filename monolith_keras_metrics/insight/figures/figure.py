"""`Figure`, and what every figure has in common."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any

from monolith_keras_metrics.insight.figures import svg

# Okabe and Ito's colours, which colour-blind people can tell apart, on white and on black.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILION, PURPLE, SKY = "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#888888"  # seen on white and on black: of references, and of what is neither good nor bad
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross")
_LONGEST = 60  # characters of a text from data
_DIGITS = 6


class Figure(dict[str, Any]):
    """A figure in Plotly's form: a dictionary with `data` and `layout`, of JSON types only.

    A notebook shows it. Where Plotly is not at hand, so does `svg`. It has no colours of text,
    background and grid, which are the page's.

    Example:
    >>> from monolith_keras_metrics.insight.figures.figure import Figure
    >>> trace = {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [0.25, 0.75]}
    >>> trace["line"] = {"color": "#0072B2", "width": 2}
    >>> figure = Figure(data=[trace], layout={"title": {"text": "a &lt; b"}})
    >>> figure.svg()[:4]
    '<svg'
    """

    @property
    def title(self) -> str:
        """Return the title, as plain text."""
        return html.unescape(self["layout"].get("title", {}).get("text", ""))

    @property
    def description(self) -> str:
        """Return a sentence that tells the main numbers, as plain text."""
        return str(self["layout"].get("meta", {}).get("description", ""))

    def svg(self, width: int = 640, height: int | None = None) -> str:
        """Return a static drawing, which needs no script and no style.

        Text and grid have the colour of the text around it (`currentColor`).

        Args:
            width: The width in pixels.
            height: The height. Default: the layout's, or 280.
        """
        return svg.drawn(self, width, height or self["layout"].get("height", 280))

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> dict[str, dict[str, Any] | str]:
        """Return what a notebook shows: Plotly's form, and a drawing for all others."""
        caption = html.escape(self.title)
        return {
            "application/vnd.plotly.v1+json": {"data": self["data"], "layout": self["layout"]},
            "text/html": f"<figure><figcaption>{caption}</figcaption>{self.svg()}</figure>",
            "text/plain": f"{self.title}: {self.description}",
        }


def number(value: float | None) -> float | None:
    """Return a number of 6 significant digits; None if it is null, NaN or infinite.

    Example:
    >>> number(0.123456789), number(float("nan"))
    (0.123457, None)
    """
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")


def numbers(values: Iterable[float | None]) -> list[float | None]:
    """Return numbers of 6 significant digits."""
    return [number(value) for value in values]


def layout(title: str, description: str, **more: Any) -> dict[str, Any]:
    """Return a layout.

    Args:
        title: The title, plain text.
        description: What the figure shows, in words, plain text.
        **more: What else is in it.
    """
    for name, axis in more.items():
        if "axis" in name:
            more[name] = {"zeroline": False, "exponentformat": "none", **axis}
    return {
        "title": {"text": markup(title), "x": 0.02, "xanchor": "left"},
        "meta": {"description": description},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"t": 76, "b": 52},
        **more,
    }


def reference(value: float, axis: str = "y") -> dict[str, Any]:
    """Return the shape of a line across the figure, at a value of an axis."""
    other = "x" if axis == "y" else "y"
    return {
        "type": "line",
        f"{axis}ref": axis,
        f"{axis}0": value,
        f"{axis}1": value,
        f"{other}ref": "paper" if other == "x" else "y domain",
        f"{other}0": 0,
        f"{other}1": 1,
        "line": {"color": GREY, "width": 1, "dash": "dash"},
    }


def nothing(title: str, text: str) -> Figure:
    """Return a figure without data, which says so."""
    note = {
        "text": markup(text),
        "xref": "paper",
        "yref": "paper",
        "x": 0.5,
        "y": 0.5,
        "showarrow": False,
    }
    hidden = {"visible": False}
    return Figure(
        data=[],
        layout=layout(title, text, annotations=[note], xaxis=hidden, yaxis=hidden, height=120),
    )


def markup(text: str) -> str:
    """Return text as Plotly takes it, which reads a small HTML in texts."""
    return html.escape(text, quote=False)


def shortened(text: str, longest: int = _LONGEST) -> str:
    """Return text of at most so many characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def translucent(colour: str, opacity: float) -> str:
    """Return a colour that lets others through."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"
