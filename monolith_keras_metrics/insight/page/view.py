"""The page as its templates need it: sections with charts and tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.insight import figures
from monolith_keras_metrics.insight.figures import Figure
from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.page import overview, words
from monolith_keras_metrics.insight.page.contents import SHOWN, Contents
from monolith_keras_metrics.insight.page.grain import words_of
from monolith_keras_metrics.insight.page.overview import Card
from monolith_keras_metrics.insight.page.tables import Table, differences, table_of
from monolith_keras_metrics.insight.texts import text_of

_OVER_TIME = ("calibration", "auc", "normalised_entropy", "bias", "mae", "rmse")
_BY_VALUE = ("calibration", "auc", "bias")
_COUNTS = ("examples", "users")


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
        title: Its heading.
        text: How it is to be read.
        charts: The charts.
        coloured: Tables of coloured cells.
        tables: The tables.
    """

    title: str
    text: str
    charts: list[Chart]
    coloured: list[Any]
    tables: list[Table]


class Target(NamedTuple):
    """What the page tells about a target.

    Attributes:
        name: Its name.
        groups: The groups of charts.
    """

    name: str
    groups: list[Group]


class Page(NamedTuple):
    """All that the templates show.

    Attributes:
        about: As in `Contents`.
        headline: The answer to "is it well?".
        cards: A card per target.
        trust: How old and how complete the data is.
        summary: The measures of each target.
        changes: How they have changed lately.
        targets: More about each target.
        meanings: The names of the measures on the page, and their definitions.
    """

    about: dict[str, Any]
    headline: str
    cards: list[Card]
    trust: list[str]
    summary: Table
    changes: Table
    targets: list[Target]
    meanings: list[tuple[str, str]]

    @property
    def charts(self) -> Iterator[Chart]:
        """Yield all charts."""
        for target in self.targets:
            for group in target.groups:
                yield from group.charts


def page_of(contents: Contents, targets: Sequence[str] | None = None) -> Page:
    """Return the page that shows some contents.

    Args:
        contents: The contents.
        targets: The targets that are shown in detail. Default: all.
    """
    summary = contents.tables["summary"]
    cards = overview.cards(contents)
    names = [name for name in SHOWN if name in summary.columns and summary[name].count()]
    return Page(
        contents.about,
        overview.headline(cards),
        cards,
        list(overview.trust(contents)),
        table_of(summary, "Each target, over all time", ["target", *_COUNTS, *names]),
        _changes(contents),
        [
            _target(name, f"{at}", contents)
            for at, name in enumerate(summary["target"], 1)
            if targets is None or name in targets
        ],
        [(words.title_of(name), MEASURES[name].text) for name in names],
    )


def _changes(contents: Contents) -> Table:
    table = contents.tables.get("changes")
    if table is None:
        return Table("", [], [])
    since = words.since(contents.about["recent_since"])
    caption = f"What changed: since {since}, compared with all before"
    named = table.with_columns(pl.col("measure").map_elements(words.title_of, pl.String))
    return table_of(named, caption, ["target", "measure", "before", "recent", "diff"])


def _target(name: str, number: str, contents: Contents) -> Target:
    of = {
        table: frame.filter(pl.col("target") == name)
        for table, frame in contents.tables.items()
        if "target" in frame.columns
    }
    groups = (
        *_comparison(of, number, contents.about),
        _over_time(of, number, contents.about),
        _wrong(of, number),
        _predictions(of, number),
        *_by_field(of, number, contents.about),
        _delay(of, number, contents.about),
    )
    return Target(name, [group for group in groups if group is not None])


def _defined(table: pl.DataFrame, names: Sequence[str], least: int = 1) -> list[str]:
    """Return those of the measures that have values."""
    return [name for name in names if name in table.columns and table[name].count() >= least]


def _over_time(of: dict[str, pl.DataFrame], number: str, about: dict[str, Any]) -> Group | None:
    table = of["by_time"]
    names = _defined(table, _OVER_TIME, 2)
    if not names:
        return None
    often = words_of(about["window"])
    charts = [
        Chart(
            f"time-{number}-{name}",
            f"{words.title_of(name)}, {often}",
            figures.over_time(table, name),
        )
        for name in names
    ]
    shown = ["window", *_COUNTS, *_defined(table, SHOWN)]
    return Group("Over time", "", charts, [], [table_of(table, f"measures {often}", shown)])


def _predictions(of: dict[str, pl.DataFrame], number: str) -> Group | None:
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
    return Group("Predictions", "", charts, [], tables) if charts else None


def _wrong(of: dict[str, pl.DataFrame], number: str) -> Group | None:
    table = of.get("slices")
    if table is None or table.is_empty():
        return None
    columns = [
        "slice",
        *_COUNTS,
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
    return Group("Where it is wrong", text, [chart], [], [table_of(table, "wrong slices", columns)])


def _by_field(of: dict[str, pl.DataFrame], number: str, about: dict[str, Any]) -> Iterator[Group]:
    whole = of["summary"].get_column("auc").item() if "auc" in of["summary"].columns else None
    for at, field in enumerate(about["fields"]):
        table = of["by_value"].filter(pl.col("field") == field).drop("field")
        over_time = of["by_value_and_time"].filter(pl.col("field") == field)
        table = table.sort("examples", descending=True).rename({"value": field})
        charts = [
            Chart(
                f"by-{number}-{at}-{name}",
                f"{words.title_of(name)} by {field}"
                + "; the line is that of all" * (name == "auc"),
                figures.slices(table, name, None if name != "auc" else whole),
            )
            for name in _defined(table, _BY_VALUE)
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
            f"By {field}",
            text if _defined(table, ["auc"]) else "",
            charts,
            coloured,
            [table_of(table, f"measures by {field}", [field, *_COUNTS, *SHOWN])],
        )


def _delay(of: dict[str, pl.DataFrame], number: str, about: dict[str, Any]) -> Group | None:
    table = of["by_time"]
    if not _defined(table, ("delay_p50",), 2):
        return None
    often = words_of(about["window"])
    chart = Chart(
        f"delay-{number}", f"Time from request to training, {often}", figures.delay(table)
    )
    return Group("Delay", "", [chart], [], [])


def _comparison(of: dict[str, pl.DataFrame], number: str, about: dict[str, Any]) -> Iterator[Group]:
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
        for name in ("auc", "calibration", "normalised_entropy", "mae")
        if f"{name}_diff" in over_time.columns and over_time[f"{name}_diff"].count() > 1
    ]
    examples = text_of(sum(whole["examples"]))
    text = (
        f"a is {against}, and b is this run, on the {examples} examples that both recorded. A "
        "difference is b - a. Its interval is narrower than those of a and b, since users that are "
        "hard to predict are so for both."
    )
    table = table_of(differences(whole, SHOWN), f"this run and {against}")
    yield Group(f"Compared with {against}", text, charts, [], [table])
