"""The sections of a target: charts, and the tables that they were made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.insight import figures
from monolith_keras_metrics.insight.figures import Figure
from monolith_keras_metrics.insight.page import overview, words
from monolith_keras_metrics.insight.page.contents import MOST_VALUES, SHOWN
from monolith_keras_metrics.insight.page.grain import words_of
from monolith_keras_metrics.insight.page.tables import Table, differences, table_of
from monolith_keras_metrics.insight.texts import text_of
from monolith_keras_metrics.insight.texts import words_of as measure_words

COUNTS = ("examples", "users")
_OVER_TIME = ("calibration", "auc", "normalised_entropy", "bias", "mae", "rmse")
_BY_VALUE = ("calibration", "auc", "bias")
_COMPARED = ("auc", "calibration", "mae")  # others are in the table

Tables = dict[str, pl.DataFrame]


class Chart(NamedTuple):
    """A figure on the page.

    Attributes:
        id: Its name on the page.
        caption: What it shows.
        figure: The figure.
    """

    id: str
    caption: str
    figure: Figure

    @property
    def svg(self) -> str:
        """Return it as it is shown without scripts."""
        return self.figure.svg()


class Group(NamedTuple):
    """What belongs together: charts, and the tables that they were made from.

    Attributes:
        id: Its name on the page.
        title: Its heading.
        text: How it is to be read.
        charts: The charts.
        tables: The tables.
        coloured: Tables of coloured cells.
        hint: What a folded group says at first; "" for one that is not folded.
    """

    id: str
    title: str
    text: str
    charts: list[Chart]
    tables: list[Table]
    coloured: Sequence[Any] = ()
    hint: str = ""


def groups_of(of: Tables, number: str, about: dict[str, Any]) -> list[Group]:
    """Return the sections of a target, in the order of the page.

    Args:
        of: The tables of the page, of this target.
        number: That of the target.
        about: What the page says beside its tables.
    """
    groups = (
        *_comparison(of, number, about),
        _over_time(of, number, about),
        _wrong(of, number),
        _predictions(of, number),
        *_by_field(of, number, about),
        _delay(of, number, about),
    )
    return [group for group in groups if group is not None]


def _defined(table: pl.DataFrame, names: Sequence[str], least: int = 1) -> list[str]:
    """Return those of the measures that have values."""
    return [name for name in names if name in table.columns and table[name].count() >= least]


def _whole(of: Tables, name: str) -> float | None:
    """Return the AUC of all records: a line to compare with. Others have one of their own."""
    is_known = name == "auc" and _defined(of["summary"], [name])
    return of["summary"][name].item() if is_known else None


def _over_time(of: Tables, number: str, about: dict[str, Any]) -> Group | None:
    table = of["by_time"]
    names = _defined(table, _OVER_TIME, 2)
    if not names:
        return None
    often = words_of(about["window"])
    charts = [
        Chart(
            f"time-{number}-{name}",
            f"{words.title_of(name)}, {often}" + "; the line is that of all time" * (name == "auc"),
            figures.over_time(table, name, _whole(of, name)),
        )
        for name in names
    ]
    shown = ["window", *COUNTS, *_defined(table, SHOWN)]
    tables = [table_of(table, f"measures {often}", shown)]
    return Group(f"over-time-{number}", "Over time", "", charts, tables)


def _predictions(of: Tables, number: str) -> Group | None:
    charts, tables = [], []
    if of["reliability"].height:
        figure = figures.reliability(of["reliability"])
        charts.append(
            Chart(f"reliability-{number}", "What was predicted, and what came true", figure)
        )
        tables.append(table_of(of["reliability"].drop("target"), "predictions and what came true"))
    if of["distribution"].height:
        figure = figures.predictions(of["distribution"])
        charts.append(
            Chart(f"predictions-{number}", "Predictions of positives and of negatives", figure)
        )
        tables.append(
            table_of(of["distribution"].drop("target"), "how many predictions of each size")
        )
    return Group(f"of-size-{number}", "Predictions", "", charts, tables) if charts else None


def _wrong(of: Tables, number: str) -> Group | None:
    table = of.get("slices")
    if table is None or table.is_empty():
        return None
    columns = [
        "slice",
        *COUNTS,
        "mean_prediction",
        "mean_label",
        "calibration",
        "impact",
        "share",
        "e_value",
    ]
    chart = Chart(
        f"slices-{number}", "Slices that are wrong by more than chance", figures.slices(table)
    )
    text = (
        "Values of extra fields, and pairs of them, for which predictions are clearly too high or "
        "too low. Impact is how many labels too many or too few are predicted, and share the part "
        "of the error."
    )
    tables = [table_of(table, "wrong slices", columns)]
    return Group(f"wrong-{number}", "Where it is wrong", text, [chart], tables)


def _by_field(of: Tables, number: str, about: dict[str, Any]) -> Iterator[Group]:
    for at, field in enumerate(about["fields"]):
        table = of["by_value"].filter(pl.col("field") == field).drop("field")
        over_time = of["by_value_and_time"].filter(pl.col("field") == field)
        table = table.sort("examples", descending=True).rename({"value": field})
        shown = _defined(table, _BY_VALUE)
        charts = [
            Chart(
                f"by-{number}-{at}-{name}",
                f"{words.title_of(name)} by {field}"
                + "; the line is that of all" * (name == "auc"),
                figures.slices(table, name, _whole(of, name)),
            )
            for name in shown
        ]
        name = (_defined(over_time, ("calibration", "bias")) or [""])[0]
        coloured = []
        if name:
            grid = figures.slices_over_time(over_time.drop("field").rename({"value": field}), name)
            often = words_of(about["coarse"])
            title = f"{words.title_of(name)} by {field}, {often}; columns say when each begins"
            coloured.append(dataclasses.replace(grid, title=title))
        text = (
            f"Where {field} itself tells much, the AUC of each of its values is below that of all."
        )
        yield Group(
            f"by-{number}-{at}",
            f"By {field}",
            text if _defined(table, ["auc"]) else "",
            charts,
            [table_of(table, f"measures by {field}", [field, *COUNTS, *SHOWN])],
            coloured,
            _hint(table, measure_words((shown or [""])[0]), charts, about),
        )


def _hint(table: pl.DataFrame, measure: str, charts: Sequence[Chart], about: dict[str, Any]) -> str:
    """Return what a folded group of the values of a field holds; "" if it is the only one.

    Args:
        table: The measures of the values.
        measure: What the first chart shows, in words.
        charts: The charts.
        about: What the page says beside its tables.
    """
    if len(about["fields"]) < 2:
        return ""
    is_part = table.height >= MOST_VALUES
    text = f"{table.height} value{'s' * (table.height != 1)}"
    text = f"the {text} with most examples" if is_part else text
    counts = [
        f"{trace['name']} for {len(trace['x'])}"
        for chart in charts[:1]
        for trace in chart.figure["data"]
        if trace.get("name")
    ]
    return f"{text}; {measure}: {', '.join(counts)}" if counts else text


def _delay(of: Tables, number: str, about: dict[str, Any]) -> Group | None:
    table = of["by_time"]
    if not _defined(table, ("delay_p50",), 2) or overview.replayed_after(table) is not None:
        return None
    often = words_of(about["window"])
    chart = Chart(
        f"delay-{number}", f"Time from request to training, {often}", figures.delay(table)
    )
    return Group(f"delays-{number}", "Delay", "", [chart], [])


def _comparison(of: Tables, number: str, about: dict[str, Any]) -> Iterator[Group]:
    if "comparison" not in of:
        return
    whole, over_time, against = of["comparison"], of["comparison_by_time"], about["against"]
    charts = [Chart(f"comparison-{number}", "All differences", figures.comparison(whole))]
    charts += [
        Chart(
            f"comparison-{number}-{name}",
            f"{words.title_of(name)}: difference, {words_of(about['window'])}",
            figures.comparison_over_time(over_time, name),
        )
        for name in _COMPARED
        if f"{name}_diff" in over_time.columns and over_time[f"{name}_diff"].count() > 1
    ]
    examples = text_of(sum(whole["examples"]))
    text = (
        f"a is {against}, and b is this run, on the {examples} examples that both recorded. A "
        "difference is b - a. Its interval is narrower than those of a and b, since users that are "
        "hard to predict are so for both."
    )
    table = table_of(differences(whole, SHOWN), f"this run and {against}")
    yield Group(f"compared-{number}", f"Compared with {against}", text, charts, [table])
    for at, field in enumerate(about["fields"]):
        yield from _compared_by(field, at, of["comparison_by_value"], number, about)


def _compared_by(
    field: str, at: int, table: pl.DataFrame, number: str, about: dict[str, Any]
) -> Iterator[Group]:
    """Yield the comparison of the values of a field, if any of them can be compared."""
    table = table.filter(pl.col("field") == field).drop("field").rename({"value": field})
    names = [name for name in _COMPARED if _defined(table, [f"{name}_diff"])]
    charts = [
        Chart(
            f"compared-{number}-{at}-{name}",
            f"{words.title_of(name)} by {field}: difference from {about['against']}",
            figures.comparison(table, name),
        )
        for name in names
    ]
    if not charts:
        return
    columns = [
        field,
        "examples",
        *(f"{name}{end}" for name in names for end in ("_a", "_b", "_diff")),
    ]
    numbers = table_of(table, f"this run and {about['against']}, by {field}", columns)
    title = f"Compared with {about['against']}, by {field}"
    hint = _hint(table, measure_words(names[0]), charts, about)
    yield Group(f"compared-{number}-{at}", title, "", charts, [numbers], (), hint)
