"""`report` and `open_report`: the page as one file."""

from __future__ import annotations

import io
import os
import pathlib
import re
from collections.abc import Sequence

import polars as pl

from monolith_keras_metrics.insight import stored
from monolith_keras_metrics.insight.page import assets
from monolith_keras_metrics.insight.page.contents import RULES, contents_of
from monolith_keras_metrics.insight.page.html import check_templates, report_page
from monolith_keras_metrics.insight.states import Records

_MARK = b"<code>deep-insight report</code>"
_TABLE = re.compile(rb'<script [^>]*data-table="(\w+)"[^>]*>([^<]*)</script>')


def report(
    records: Records,
    path: str | os.PathLike[str] = "report.html",
    *,
    against: Records | None = None,
    fields: Sequence[str] | None = None,
    rules: str | Sequence[str] = RULES,
    title: str | None = None,
    minimum_users: int = 0,
) -> pathlib.Path:
    """Write a page that tells how a model does, as one file.

    The file needs no network, and can be read without scripts, printed and mailed. It holds sums
    and no records: measures of each target over time and for the values of each field, how far
    predictions come true, where the model is wrong, and how old and how complete the data is.

    Args:
        records: Records or a run, as for `summary`. Of a run, states are kept, so that the next
            page costs new files only.
        path: The file. An existing one is replaced when the new one is complete.
        against: Records of another training of the same stream, which are compared example by
            example, as by `compare`.
        fields: The extra fields whose values are shown. Default: all with few values.
        rules: Rules, as for `check`, which decide whether a target is well.
        title: The title. Default: the name of the run.
        minimum_users: Targets, windows of time and values of fields with fewer users are not shown,
            nor are others by which these could be found by subtraction. Then slices that are wrong
            are not searched for, and there is no comparison. Curves of predictions stay: their bins
            are of predictions, whoever's they are.

    Returns:
        The path of the file.

    Raises:
        ValueError: If `records` does not hold records, or an argument is invalid.
        FileNotFoundError: If there are no records.
        OSError: If the file cannot be written.
        ModuleNotFoundError: If Jinja2 or SciPy is not installed.

    Example:
    >>> import tempfile
    >>> records = pl.DataFrame({
    ...     "uid": range(100), "req_time": range(100),
    ...     "label": [{"ctr": float(user % 2)} for user in range(100)],
    ...     "predict": [{"ctr": 0.25 + user % 2 / 4} for user in range(100)],
    ... })
    >>> path = report(records, tempfile.mkdtemp() + "/report.html")
    >>> open_report(path)["summary"]["calibration"].item()
    0.75
    """
    file = pathlib.Path(path)
    if file.is_dir() or not file.parent.is_dir():  # before it is computed
        raise OSError(f"`path` must be a file in an existing folder. Received: {os.fspath(path)!r}")
    check_templates()
    text = [rules] if isinstance(rules, str) else rules
    contents = contents_of(
        records, against, title=title, fields=fields, rules=text, minimum_users=minimum_users
    )
    tables = {name: _text_of(table) for name, table in contents.tables.items()}
    html = report_page(contents, tables)
    stored.write_whole(file, html.encode())
    return file


def open_report(path: str | os.PathLike[str]) -> dict[str, pl.DataFrame]:
    """Return the tables of a report, by name.

    Args:
        path: A file that `report` wrote.

    Returns:
        The tables that the page was made from: `summary`, `by_time`, `slices` and others.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no report, or only the beginning of one.

    Example: see `report`.
    """
    data = pathlib.Path(path).read_bytes()
    if _MARK not in data:
        raise ValueError(
            f"`path` must be a file that `report` wrote. Received: {os.fspath(path)!r}"
        )
    if not data.rstrip().endswith(b"</html>"):
        raise ValueError(
            f"`path` must be a complete report. Received: {os.fspath(path)!r}, whose end is missing"
        )
    try:
        return {name.decode(): _table_of(packed) for name, packed in _TABLE.findall(data)}
    except (ValueError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(
            f"`path` must be a complete report. Received: {os.fspath(path)!r}, whose tables "
            f"cannot be read: {error}"
        ) from error


def _text_of(table: pl.DataFrame) -> str:
    """Return a table as text: Arrow's form, compressed, which is smaller than Parquet."""
    file = io.BytesIO()
    table.rechunk().write_ipc(file)
    return assets.packed(file.getvalue())


def _table_of(text: bytes) -> pl.DataFrame:
    return pl.read_ipc(io.BytesIO(assets.unpacked(text)))
