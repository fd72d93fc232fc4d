"""Static drawings: well-formed, small, without styles, and with every point where it belongs."""

from __future__ import annotations

import datetime as dt
import html
import itertools
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from figure_tables import HOSTILE, of_slices, over_hours
from hypothesis import given
from hypothesis import strategies as st

from monolith_keras_metrics.insight import figures
from monolith_keras_metrics.insight.figures import Figure, scales
from monolith_keras_metrics.insight.figures.paths import path_of

SVG = "{http://www.w3.org/2000/svg}"
ELEMENTS = {f"{SVG}{name}" for name in ("svg", "g", "text", "path", "circle")}
FORBIDDEN = {"style", "class", "id", "href"}
NUMBERS = re.compile(r"-?(?:\d+\.?\d*|\.\d+)")

finite = st.floats(-1e12, 1e12, allow_nan=False)


def points_of(path: str) -> list[list[tuple[float, float]]]:
    """The points of each part of a path, as a browser finds them."""
    parts = []
    for part in path.split("M")[1:]:
        values = [float(one) for one in NUMBERS.findall(part)]
        pairs = list(zip(values[::2], values[1::2], strict=True))
        points = [pairs[0]]
        for dx, dy in pairs[1:]:
            points.append((points[-1][0] + dx, points[-1][1] + dy))
        parts.append(points)
    return parts


def figure_of(x_axis: dict[str, Any], y_axis: dict[str, Any], *traces: dict[str, Any]) -> Figure:
    return Figure(data=list(traces), layout={"xaxis": x_axis, "yaxis": y_axis})


def line_of(x: list[Any], y: list[Any], **more: Any) -> dict[str, Any]:
    line = {"color": "#123456", "width": 2, "dash": "solid"}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, **more}


def drawn_line(figure: Figure) -> list[list[tuple[float, float]]]:
    """The points of the only line, in shares of the area between the axes."""
    root = ET.fromstring(figure.svg())
    (window,) = root.findall(f"{SVG}svg")
    (path,) = (one for one in window.iter(f"{SVG}path") if one.get("stroke") == "#123456")
    x, y, width, height = (float(window.attrib[name]) for name in ("x", "y", "width", "height"))
    edge = 5
    return [
        [
            ((at - x - edge) / (width - 2 * edge), 1 - (up - y - edge) / (height - 2 * edge))
            for at, up in part
        ]
        for part in points_of(path.attrib["d"])
    ]


class TestPositions:
    def test_a_line_with_a_gap(self) -> None:
        axes = {"range": [0, 10]}, {"range": [0, 1]}
        figure = figure_of(*axes, line_of([0, 5, 6, 10], [0.0, 0.5, None, 1.0]))
        first, second = drawn_line(figure)
        assert [one for pair in first for one in pair] == pytest.approx([0, 0, 0.5, 0.5], abs=2e-3)
        assert second == [pytest.approx((1, 1), abs=2e-3)]

    def test_a_log_axis(self) -> None:
        axis = {"type": "log", "range": [-3, 1]}
        figure = figure_of({"range": [0, 3]}, axis, line_of([0, 1, 2, 3], [0.001, 0.1, 10, 0]))
        ((*points,),) = drawn_line(figure)
        assert [up for _, up in points] == pytest.approx([0, 0.5, 1], abs=2e-3)

    def test_a_date_axis(self) -> None:
        days = [f"2013-01-0{day}T00:00:00Z" for day in (1, 2, 5)]
        axis = {"type": "date", "range": [days[0], days[-1]]}
        figure = figure_of(axis, {"range": [0, 1]}, line_of(days, [0, 0, 1]))
        ((*points,),) = drawn_line(figure)
        assert [at for at, _ in points] == pytest.approx([0, 0.25, 1], abs=2e-3)
        assert "Jan 1, 2013" in figure.svg()

    def test_a_reversed_axis(self) -> None:
        figure = figure_of({"range": [0, 1]}, {"range": [3, -1]}, line_of([0, 1], [-1, 3]))
        ((*points,),) = drawn_line(figure)
        assert [up for _, up in points] == pytest.approx([1, 0], abs=2e-3)

    def test_error_bars(self) -> None:
        figure = figures.slices(of_slices(["a"], [3.0], width=0.5))
        trace = figure["data"][0]
        figure["layout"]["xaxis"] = {"range": [0, 4]}
        window = ET.fromstring(figure.svg()).find(f"{SVG}svg")
        assert window is not None
        (bar,) = (one for one in window if one.get("stroke") == trace["error_x"]["color"])
        ((left, right),) = points_of(bar.attrib["d"])
        width = float(window.attrib["width"]) - 10
        assert right[0] - left[0] == pytest.approx(width / 4, abs=0.2)

    @pytest.mark.parametrize("value", [0.0, 0.25, -3.0, 1e-9, 1e12])
    def test_equal_values_have_an_axis(self, value: float) -> None:
        for kind in ("linear", "log") if value > 0 else ("linear",):
            svg = figure_of({}, {"type": kind}, line_of([1, 2], [value, value])).svg()
            assert len(ET.fromstring(svg).findall(f".//{SVG}text")) >= 3


class TestForm:
    def test_a_week_of_hours_is_small(self) -> None:
        values = [0.5 + 0.01 * (at * 7919 % 13) for at in range(168)]
        assert len(figures.over_time(over_hours(list(values)), "auc").svg()) < 8_000

    def test_no_style_and_nothing_from_elsewhere(self) -> None:
        table = over_hours([0.5, None, 0.7], country=["a", "a", "b"])
        for figure in (figures.over_time(table, "auc"), figures.slices(of_slices(["a"], [2.0]))):
            for element in ET.fromstring(figure.svg()).iter():
                assert element.tag in ELEMENTS
                assert not FORBIDDEN & {*element.attrib}
                assert not any("url(" in value for value in element.attrib.values())

    def test_what_is_outside_is_not_shown(self) -> None:
        """An inner svg element clips what it holds."""
        figure = figure_of({"range": [0, 1]}, {"range": [0, 1]}, line_of([0, 1], [0, 100]))
        (inner,) = ET.fromstring(figure.svg()).findall(f"{SVG}svg")
        place = [inner.attrib[name] for name in ("x", "y", "width", "height")]
        assert inner.attrib["viewBox"] == " ".join(place)
        ((*points,),) = drawn_line(figure)
        assert points[1][1] == pytest.approx(100, rel=1e-3)

    def test_the_description_is_for_screen_readers(self) -> None:
        figure = figures.over_time(over_hours([0.5]), "auc")
        root = ET.fromstring(figure.svg(300, 200))
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"] == figure.description
        assert root.attrib["viewBox"] == "0 0 300 200"

    def test_the_legend_names_each_line(self) -> None:
        table = over_hours([0.5] * 4, country=["a", "b", "a", "b"])
        texts = [one.text for one in ET.fromstring(figures.over_time(table, "auc").svg()).iter()]
        assert "country=a" in texts
        assert "country=b" in texts
        assert "time, UTC" in texts
        assert "AUC (higher is better)" in texts

    @pytest.mark.parametrize("name", HOSTILE[:4])
    def test_text_from_data_is_as_it_was(self, name: str) -> None:
        table = over_hours([0.5] * 4, country=[name, "b", name, "b"])
        figure = figures.over_time(table, "auc")
        assert f"country={name}" in [one.text for one in ET.fromstring(figure.svg()).iter()]
        svg = figures.slices(of_slices([name], [2.0])).svg()
        text = "".join(ET.fromstring(svg).itertext()).replace(" ", "")
        assert f"country={name}"[:30].replace(" ", "") in text
        assert html.escape(name, quote=False)[:10] in svg

    def test_long_texts_do_not_push_the_drawing_out(self) -> None:
        window = ET.fromstring(figures.slices(of_slices(["x" * 5000], [2.0])).svg()).find(
            f"{SVG}svg"
        )
        assert window is not None
        assert float(window.attrib["width"]) > 300


class TestTicks:
    @given(finite, finite)
    def test_linear(self, one: float, other: float) -> None:
        low, high = sorted((one, other))
        ticks = scales.linear_ticks(low, high)
        size = max(abs(low), abs(high))
        if high - low <= 1e-9 * size:
            return  # no digits are left between them
        assert 2 <= len(ticks) <= 6
        steps = [after - before for before, after in itertools.pairwise(ticks)]
        assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-6, abs=1e-12 * size)
        assert steps[0] > 0
        assert low - 1e-6 * (high - low) <= ticks[0]
        assert ticks[-1] <= high + 1e-6 * (high - low)
        leading = float(f"{steps[0]:.0e}".split("e", maxsplit=1)[0])
        assert leading in (1, 2, 5)
        assert len(set(scales.number_texts(ticks))) == len(ticks)

    @given(st.floats(1e-12, 1e12), st.floats(1.001, 1e12))
    def test_log(self, low: float, factor: float) -> None:
        ticks = scales.log_ticks(low, low * factor)
        assert 1 <= len(ticks) <= 8
        assert ticks == sorted(set(ticks))
        assert all(low * (1 - 1e-6) <= one <= low * factor * (1 + 1e-6) for one in ticks)
        assert len(set(scales.log_texts(ticks))) == len(ticks)

    @given(st.integers(0, 4 * 10**9), st.integers(1, 3 * 10**9))
    def test_dates(self, low: int, length: int) -> None:
        ticks = scales.date_ticks(low, low + length)
        assert len(ticks) <= 8
        assert all(low <= at <= low + length for at, _ in ticks)
        times = [dt.datetime.fromtimestamp(at, dt.timezone.utc) for at, _ in ticks]
        assert times == sorted(set(times))
        if length > 30:
            assert len(ticks) >= 1
        if length > 400 * 86_400:
            assert all(one.day == 1 and one.hour == 0 for one in times)

    @pytest.mark.parametrize(
        ("values", "texts"),
        [
            ([0.0, 2e5], ["≤ 0 s", "10 s", "1 min", "10 min", "1 h", "6 h", "1 d"]),
            ([40.0, 55.0], ["40 s", "45 s", "50 s", "55 s"]),
            ([4.1e8, 4.4e8], ["13 y", "13.2 y", "13.4 y", "13.6 y", "13.8 y"]),
        ],
    )
    def test_durations(self, values: list[float], texts: list[str]) -> None:
        assert scales.duration_ticks([max(one, scales.NO_TIME) for one in values])[1] == texts


@given(st.lists(st.none() | st.tuples(st.floats(-999, 999), st.floats(-999, 999))))
def test_steps_do_not_add_up_to_an_error(points: list[tuple[float, float] | None]) -> None:
    found = [one for part in points_of(path_of(points)) for one in part]
    expected = [one for one in points if one is not None]
    assert len(found) == len(expected)
    for (x, y), (at, up) in zip(found, expected, strict=True):
        assert abs(x - at) <= 0.0501
        assert abs(y - up) <= 0.0501
