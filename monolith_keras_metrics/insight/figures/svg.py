"""A static drawing of a figure as SVG: for print, mail, and pages without scripts.

It draws what the figures of this package have: lines with gaps, filled bands, markers, error bars
and bars, on linear, log and date axes. It has no styles, scripts, ids or links, so it is safe under
any content security policy, and several stand in one page. Positions are rounded to 0.1 pixels.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from monolith_keras_metrics.insight.figures.axes import Axis, apart, width_of
from monolith_keras_metrics.insight.figures.paths import (
    DASHES,
    SYMBOLS,
    Point,
    number_of,
    paint_of,
    path_of,
    symbol_of,
)

_SIZE = 12  # of text
_ROW = 18  # a line of text
_LINE = 14  # the same, of a label of several lines
_TICK = 80  # pixels that a tick of the x axis takes, about
_RIGHT = 16  # room beside the last value
_EDGE = 5  # of a marker at the end of an axis


def drawn(figure: Mapping[str, Any], width: int, height: int) -> str:
    """Return a figure as SVG.

    Args:
        figure: The figure, of those of this package.
        width: The width in pixels.
        height: The height in pixels.
    """
    layout = figure["layout"]
    root = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "role": "img",
            "aria-label": layout.get("meta", {}).get("description", ""),
            "font-family": "system-ui,sans-serif",
            "font-size": str(_SIZE),
        },
    )
    text = ET.SubElement(root, "g", {"fill": "currentColor"})
    if figure["data"]:
        _draw(root, text, figure, width, height)
    for note in layout.get("annotations", ()):
        _text(
            text, note["x"] * width, (1 - note["y"]) * height, html.unescape(note["text"]), "middle"
        )
    return ET.tostring(root, encoding="unicode")


def _draw(
    root: ET.Element, text: ET.Element, figure: Mapping[str, Any], width: int, height: int
) -> None:
    layout, data = figure["layout"], figure["data"]
    named = [one for one in data if one.get("showlegend", True) and one.get("name")]
    has_legend = layout.get("showlegend", len(named) > 1)
    top = _legend(root, text, named, width) if has_legend else 0
    names = sorted({one.get("yaxis", "y") for one in data})
    left, bottom = _left(layout, data, names, height), height - 2 * _ROW - 6
    top += (
        _ROW if any(_settings(layout, name).get("title", {}).get("text") for name in names) else 0
    )
    x_axis = Axis(_settings(layout, "x"), _values(data, "x"), left, width - _RIGHT)
    ticks = apart(x_axis.ticks(max(5, int((width - _RIGHT - left) / _TICK))))
    for at, label in ticks:
        _text(text, min(at, width - width_of(label) / 2), bottom + 16, label, "middle")
    _text(text, (left + width - _RIGHT) / 2, bottom + 34, x_axis.title, "middle")
    for name in names:
        settings = _settings(layout, name)
        own = [one for one in data if one.get("yaxis", "y") == name]
        y_axis = Axis(settings, _values(own, "y"), *_domain(settings, top + 8, bottom))
        _grid(root, text, x_axis, y_axis, ticks)
        inside = _window(root, x_axis, y_axis)
        for shape in layout.get("shapes", ()):
            _line_across(inside, shape, name, x_axis, y_axis)
        for trace in own:
            _trace(inside, trace, x_axis, y_axis)


def _settings(layout: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the axis of this name, such as `y2`."""
    found: Mapping[str, Any] = layout.get(f"{name[0]}axis{name[1:]}", {})
    return found


def _window(root: ET.Element, x_axis: Axis, y_axis: Axis) -> ET.Element:
    """Return an element that does not show what is outside of the axes."""
    x, y = x_axis.start - _EDGE, y_axis.end - _EDGE
    width, height = x_axis.end - x + _EDGE, y_axis.start - y + _EDGE
    place = {"x": x, "y": y, "width": width, "height": height}
    numbers = {name: number_of(value) for name, value in place.items()}
    return ET.SubElement(root, "svg", {**numbers, "viewBox": " ".join(numbers.values())})


def _domain(settings: Mapping[str, Any], top: float, bottom: float) -> tuple[float, float]:
    low, high = settings.get("domain", (0, 1))
    return bottom - low * (bottom - top), bottom - high * (bottom - top)


def _left(
    layout: Mapping[str, Any], data: Sequence[Mapping[str, Any]], names: Sequence[str], height: int
) -> float:
    """Return the room for the texts of the y axes."""
    widest = 0.0
    for name in names:
        settings = _settings(layout, name)
        own = [one for one in data if one.get("yaxis", "y") == name]
        axis = Axis(settings, _values(own, "y"), *_domain(settings, 0, height))
        widest = max(widest, *(width_of(label) for _, label in _y_ticks(axis)), 0)
    return widest + 14


def _y_ticks(axis: Axis) -> list[tuple[float, str]]:
    size = abs(axis.end - axis.start)
    return apart(axis.ticks(5) if size > 80 else axis.ticks(5)[::2], 14)


def _values(data: Iterable[Mapping[str, Any]], name: str) -> Iterator[Any]:
    """Yield the values of traces on an axis, with their errors."""
    for trace in data:
        values = trace[name]
        yield from values
        if errors := trace.get(f"error_{name}"):
            for value, above, below in zip(
                values, errors["array"], errors["arrayminus"], strict=True
            ):
                if None not in (value, above, below):
                    yield from (value + above, value - below)


def _grid(
    root: ET.Element,
    text: ET.Element,
    x_axis: Axis,
    y_axis: Axis,
    x_ticks: Sequence[tuple[float, str]],
) -> None:
    lines: list[Point] = []
    for at, label in _y_ticks(y_axis):
        lines += [None, (x_axis.start, at), (x_axis.end, at)]
        lines_of = label.split("\n")
        for row, one in enumerate(lines_of):
            height = at + 4 + _LINE * (row - (len(lines_of) - 1) / 2)
            _text(text, x_axis.start - 6, height, one, "end")
    for at, _ in x_ticks:
        lines += [None, (at, y_axis.start), (at, y_axis.end)]
    ET.SubElement(root, "path", {"d": path_of(lines), "stroke": "currentColor",
                                 "stroke-opacity": ".15", "fill": "none"})  # fmt: skip
    _text(text, 4, y_axis.end - 8, y_axis.title, "start")


def _line_across(
    root: ET.Element, shape: Mapping[str, Any], name: str, x_axis: Axis, y_axis: Axis
) -> None:
    if shape["yref"] == name:
        at = y_axis(shape["y0"])
        points: list[Point] = [] if at is None else [(x_axis.start, at), (x_axis.end, at)]
    elif shape["xref"] == "x":
        at = x_axis(shape["x0"])
        points = [] if at is None else [(at, y_axis.start), (at, y_axis.end)]
    else:
        return
    _stroke(root, points, shape["line"])


def _trace(root: ET.Element, trace: Mapping[str, Any], x_axis: Axis, y_axis: Axis) -> None:
    if trace["type"] == "bar":
        _bars(root, trace, x_axis, y_axis)
        return
    points = [_point(x_axis(x), y_axis(y)) for x, y in zip(trace["x"], trace["y"], strict=True)]
    if trace.get("fill") == "toself":
        path = ET.SubElement(
            root, "path", {"d": path_of(points), **paint_of("fill", trace["fillcolor"])}
        )
        path.attrib.update(paint_of("stroke", trace["line"]["color"]))
    else:
        _errors(root, trace, x_axis, y_axis)
        if "lines" in trace["mode"]:
            _stroke(root, points, trace["line"])
        if "markers" in trace["mode"]:
            _markers(root, points, trace["marker"])


def _errors(root: ET.Element, trace: Mapping[str, Any], x_axis: Axis, y_axis: Axis) -> None:
    """Draw the error bars of a trace."""
    if (errors := trace.get("error_x")) is None:
        return
    lines: list[Point] = []
    columns = (trace["x"], trace["y"], errors["array"], errors["arrayminus"])
    for x, y, above, below in zip(*columns, strict=True):
        if None not in (x, y, above, below):
            height = y_axis(y)
            lines += [None, _point(x_axis(x - below), height), _point(x_axis(x + above), height)]
    _stroke(root, lines, {"color": errors["color"], "width": errors["thickness"]})


def _bars(root: ET.Element, trace: Mapping[str, Any], x_axis: Axis, y_axis: Axis) -> None:
    lines: list[Point] = []
    ground = y_axis(0)
    for x, y, size in zip(trace["x"], trace["y"], trace["width"], strict=True):
        left, right, top = x_axis(x - size / 2), x_axis(x + size / 2), y_axis(y)
        corners = ((left, ground), (left, top), (right, top), (right, ground))
        lines += [None, *(_point(*corner) for corner in corners)]
    ET.SubElement(root, "path", {"d": path_of(lines), **paint_of("fill", trace["marker"]["color"])})


def _markers(root: ET.Element, points: Sequence[Point], marker: Mapping[str, Any]) -> None:
    sizes = marker["size"]
    every = sizes if isinstance(sizes, list) else [sizes] * len(points)
    shown = [(point, size) for point, size in zip(points, every, strict=True) if point and size]
    if not shown:
        return
    symbol, is_open = marker["symbol"].removesuffix("-open"), marker["symbol"].endswith("-open")
    shape = SYMBOLS.get(symbol)
    colour = paint_of("stroke", marker["color"])
    if shape is None and not is_open:
        # A line of no length with round ends is a dot, in few characters.
        size = max(size for _, size in shown)
        dots = "".join(f"M{number_of(x)} {number_of(y)}h0" for (x, y), _ in shown)
        ET.SubElement(root, "path", {"d": dots, "stroke-width": number_of(size),
                                     "stroke-linecap": "round", **colour})  # fmt: skip
        return
    if shape is None:
        for (x, y), size in shown:
            ET.SubElement(root, "circle", {"cx": number_of(x), "cy": number_of(y),
                                           "r": number_of(size / 2), "fill": "none",
                                           "stroke-width": "1.5", **colour})  # fmt: skip
        return
    path = "".join(symbol_of(shape, x, y, size / 2) for (x, y), size in shown)
    paint = {"fill": "none", **colour} if is_open else paint_of("fill", marker["color"])
    ET.SubElement(root, "path", {"d": path, **paint})


def _legend(
    root: ET.Element, text: ET.Element, traces: Sequence[Mapping[str, Any]], width: int
) -> float:
    """Draw the legend; return its height."""
    x, y = 4.0, 14.0
    for trace in traces:
        label = html.unescape(trace["name"])
        wide = 28 if "lines" in trace.get("mode", "lines") else 12
        size = wide + 6 + width_of(label) + 18
        if x > 4 and x + size > width:
            x, y = 4.0, y + _ROW
        middle = y - 4
        if trace["type"] == "bar":
            box: list[Point] = [(x, middle - 5), (x + wide, middle - 5), (x + wide, middle + 5),
                                (x, middle + 5)]  # fmt: skip
            ET.SubElement(root, "path", {"d": path_of(box),
                                         **paint_of("fill", trace["marker"]["color"])})  # fmt: skip
        else:
            if "lines" in trace["mode"]:
                _stroke(root, [(x, middle), (x + wide, middle)], trace["line"])
            if "markers" in trace["mode"]:
                _markers(root, [(x + wide / 2, middle)], {**trace["marker"], "size": 8})
        _text(text, x + wide + 6, y, label, "start")
        x += size
    return y + 6


def _stroke(root: ET.Element, points: Sequence[Point], line: Mapping[str, Any]) -> None:
    if not any(points):
        return
    attributes = {"d": path_of(points), "fill": "none", "stroke-width": number_of(line["width"]),
                  "stroke-linejoin": "round", **paint_of("stroke", line["color"])}  # fmt: skip
    if (dash := DASHES.get(line.get("dash", "solid"))) is not None:
        attributes["stroke-dasharray"] = dash
    ET.SubElement(root, "path", attributes)


def _text(parent: ET.Element, x: float, y: float, text: str, anchor: str) -> None:
    if text:
        attributes = {"x": number_of(x), "y": number_of(y)}
        if anchor != "start":
            attributes["text-anchor"] = anchor
        ET.SubElement(parent, "text", attributes).text = text


def _point(x: float | None, y: float | None) -> Point:
    return None if x is None or y is None else (x, y)
