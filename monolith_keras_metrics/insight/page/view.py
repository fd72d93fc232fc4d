"""The page as its templates need it: what the first screen says, and sections of each target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.page import overview, words
from monolith_keras_metrics.insight.page.contents import SHOWN, Contents
from monolith_keras_metrics.insight.page.overview import STATUSES, Card
from monolith_keras_metrics.insight.page.sections import COUNTS, Chart, Group, groups_of
from monolith_keras_metrics.insight.page.tables import Table, table_of


class Target(NamedTuple):
    """What the page tells about a target.

    Attributes:
        name: Its name.
        groups: The groups of charts.
        hint: What a folded target says at first; "" for one that is not folded.
    """

    name: str
    groups: list[Group]
    hint: str = ""


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
        table_of(summary, "Each target, over all time", ["target", *COUNTS, *names]),
        _changes(contents),
        _targets(contents, cards, targets),
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


def _targets(
    contents: Contents, cards: Sequence[Card], chosen: Sequence[str] | None
) -> list[Target]:
    """Return what the page tells about targets: all but the worst of several are folded."""
    shown = {
        f"{number}": card
        for number, card in enumerate(cards, 1)
        if chosen is None or card.target in chosen
    }
    order = [*STATUSES]
    worst = min(shown, key=lambda number: order.index(shown[number].status), default="")
    return [
        Target(
            card.target,
            groups_of(_of(contents, card.target), number, contents.about),
            f"{card.sign} {card.word}" if number != worst else "",
        )
        for number, card in shown.items()
    ]


def _of(contents: Contents, target: str) -> dict[str, pl.DataFrame]:
    """Return the tables of a target."""
    return {
        name: table.filter(pl.col("target") == target)
        for name, table in contents.tables.items()
        if "target" in table.columns
    }
