"""`show`: a table of measures as a reader wants it, in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

import polars as pl

from monolith_keras_metrics.insight.texts import columns_of

_MOST = 200  # rows
_FEW = 6  # rows, which stand side by side


class Shown:
    """A table that a notebook shows as HTML.

    Args:
        table: The table.
    """

    def __init__(self, table: pl.DataFrame) -> None:
        self._table = table

    def __repr__(self) -> str:
        """Return the table as text."""
        return repr(self._table)

    def _repr_html_(self) -> str:
        """Return the table as HTML; texts from data are never markup."""
        table = self._table
        columns = list(columns_of(table.head(_MOST)))
        is_wide = table.height <= _FEW and table.height < len(columns)
        rows = columns if is_wide else list(zip(*columns, strict=True))
        root = ET.Element("table")
        head = ET.SubElement(ET.SubElement(root, "thead"), "tr")
        for text in rows[0] if rows else ():
            ET.SubElement(head, "th", {"scope": "col"}).text = text
        body = ET.SubElement(root, "tbody")
        for row in rows[1:]:
            _add_row(ET.SubElement(body, "tr"), row, is_wide)
        if (more := table.height - _MOST) > 0:
            ET.SubElement(root, "caption").text = f"and {more:,} more rows"
        return ET.tostring(root, encoding="unicode", method="html")


def show(table: pl.DataFrame) -> Shown:
    """Return a table of measures for a notebook: each interval beside its value.

    Polars shows a few of the many columns that `summary` has. This shows all that have a value; a
    table of few rows has a row for each measure.

    Args:
        table: What `summary`, `compare`, `reliability`, `slices` or another function returns.

    Example:
    >>> table = pl.DataFrame({
    ...     "target": ["ctr"], "auc": [0.75], "auc_low": [0.7], "auc_high": [0.8], "mae": [None]
    ... })
    >>> show(table)._repr_html_().count("0.75 [0.70, 0.80]")
    1
    """
    return Shown(table)


def _add_row(parent: ET.Element, row: Sequence[str], is_wide: bool) -> None:
    for at, text in enumerate(row):
        if at == 0 and is_wide:
            ET.SubElement(parent, "th", {"scope": "row"}).text = text
        else:
            ET.SubElement(parent, "td").text = text
