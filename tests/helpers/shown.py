"""What a page shows in its tables, and what it should show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.insight.texts import text_of, with_interval, words_of

_SCRIPT = """
() => [...document.querySelectorAll("table:not(.coloured)")].map((table) => ({
  section: table.closest("section").querySelector("h2").textContent,
  caption: table.caption.textContent,
  heads: [...table.tHead.rows[0].cells].map((cell) => cell.textContent),
  rows: [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent)),
}))
"""


class Shown(NamedTuple):
    """A table of a page.

    Attributes:
        section: The title of the section that it is in: for most, the target.
        caption: What it shows.
        heads: The headings of its columns.
        rows: Its texts.
    """

    section: str
    caption: str
    heads: list[str]
    rows: list[list[str]]

    def expected(self, frame: pl.DataFrame, named: Sequence[str] = ()) -> list[list[str]]:
        """Return the texts of a frame in this table's columns, in the order of its rows.

        Args:
            frame: What the table should show.
            named: Columns in which the page shows the names of measures in words.
        """
        names = {_head(name): name for name in frame.columns}
        columns = [
            [_head(value) if head in map(_head, named) else value for value in texts]
            for head in self.heads
            for texts in [_texts(frame, names[head])]
        ]
        return [list(row) for row in zip(*columns, strict=True)]


def tables_of(page: Any) -> list[Shown]:
    """Return the tables of a page in the browser, but for those of coloured cells."""
    return [Shown(**found) for found in page.evaluate(_SCRIPT)]


def _head(name: str) -> str:
    words = words_of(name)
    return words[:1].upper() + words[1:]


def _texts(frame: pl.DataFrame, name: str) -> list[str]:
    if f"{name}_low" not in frame.columns:
        return [text_of(value) for value in frame[name]]
    return [*map(with_interval, *(frame[f"{name}{end}"] for end in ("", "_low", "_high")))]
