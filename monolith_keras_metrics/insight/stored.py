"""A state in a file: one Parquet file with all of its tables.

A row of the file is a row of one table, which `_TABLE` names; columns of other tables are null. The
first row describes the file, as JSON: a mark, the version of this format, the form, the targets,
the number of rows of each table, and what else its writer wants to keep with it. Then the tables
follow one after the other, so that of each only its own rows and columns are read.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import pathlib
import secrets
from collections.abc import Sequence
from typing import Any

import polars as pl

from monolith_keras_metrics.insight.tables import TABLES, Form, Tables

VERSION = 2
_MARK = "monolith_keras_metrics state"
_TABLE = "\ntable"  # no user's column has these names
_ABOUT = "\nabout"
_GROUPS = "groups"


class ForeignError(ValueError):
    """A file holds no state that this version understands.

    Args:
        file: The file.
        what: What it holds instead.
    """

    def __init__(self, file: pathlib.Path, what: str) -> None:
        super().__init__(
            f"`path` must be a file that State.write_parquet of this version ({VERSION}) wrote. "
            f"Received: {str(file)!r}, with {what}. Make the state again from its records"
        )
        self.what = what


def write(state: Tables, path: str | os.PathLike[str], notes: dict[str, Any] | None = None) -> None:
    """Write a state aside and give it its name.

    Args:
        state: The state.
        path: The file.
        notes: What is kept with it; must be JSON.

    Raises:
        OSError: If it cannot be written.
    """
    write_whole(path, contents_of(state, notes).getbuffer())


def contents_of(state: Tables, notes: dict[str, Any] | None = None) -> io.BytesIO:
    """Return what `write` writes."""
    frames = {_GROUPS: state.groups, **state.tables}
    about = {
        "mark": _MARK,
        "version": VERSION,
        "form": state.form._asdict(),
        "targets": state.targets,
        "keys": state.keys,
        "rows": {name: frame.height for name, frame in frames.items()},
        "notes": notes or {},
    }
    rows = [pl.DataFrame({_TABLE: [""], _ABOUT: [json.dumps(about)]})]
    for name, frame in frames.items():
        columns = [column.alias(f"{name}.{column.name}") for column in frame.get_columns()]
        rows.append(
            pl.DataFrame([pl.Series(_TABLE, [name]).new_from_index(0, frame.height), *columns])
        )
    # Of a full disk, Polars does not always tell.
    contents = io.BytesIO()
    pl.concat(rows, how="diagonal").write_parquet(contents)
    return contents


def write_whole(path: str | os.PathLike[str], contents: bytes | memoryview) -> None:
    """Write a file aside and give it its name.

    Raises:
        OSError: If it cannot be written.
    """
    final = pathlib.Path(path)
    aside = final.with_name(f".{final.name}.{secrets.token_hex(4)}.inprogress")
    try:
        aside.write_bytes(contents)
        aside.replace(final)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def read(path: str | os.PathLike[str]) -> tuple[Tables, dict[str, Any]]:
    """Read a state and the notes with it.

    Raises:
        FileNotFoundError: If there is no such file.
        ForeignError: If it holds no state that this version understands.
    """
    file = pathlib.Path(path)
    if not file.exists():
        raise FileNotFoundError(f"`path` must be a file with a state. Received: {str(file)!r}")
    return _read(file, file)


def read_contents(contents: bytes) -> Tables:
    """Read a state from what `contents_of` returned.

    Raises:
        ForeignError: If it is no state that this version understands.
    """
    return _read(io.BytesIO(contents), pathlib.Path("a state in memory"))[0]


def _read(source: pathlib.Path | io.BytesIO, file: pathlib.Path) -> tuple[Tables, dict[str, Any]]:
    """Read a state and the notes with it; `file` is for errors."""
    try:
        rows = pl.scan_parquet(source, glob=False, hive_partitioning=False)
        about = _described(rows)
        if about.get("mark") != _MARK or about["version"] != VERSION:
            raise ForeignError(file, _about(about))
        form = dict(about["form"], **{k: tuple(about["form"][k]) for k in ("groups", "tables")})
        columns = {name: [*TABLES[name].keys, *TABLES[name].sums] for name in form["tables"]}
        columns = {_GROUPS: ["target", *about["keys"]], **columns}
        ends = itertools.accumulate([1, *(about["rows"][name] for name in columns)])
        tables = {
            name: _table(rows, start, about["rows"][name], name, own)
            for (name, own), start in zip(columns.items(), ends, strict=False)
        }
        groups = tables.pop(_GROUPS)
        if any((table.get_column("group") >= groups.height).any() for table in tables.values()):
            raise ForeignError(file, "a state whose groups are missing")
        return Tables(Form(**form), about["targets"], groups, tables), about["notes"]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ForeignError(file, f"damage: {str(error).strip().splitlines()[0]}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ForeignError(file, f"what is no state: {error!r}") from error


def _described(rows: pl.LazyFrame) -> dict[str, Any]:
    """Return what the first row says; nothing if it is none of a state."""
    if _ABOUT not in rows.collect_schema():
        return {}
    first = rows.select(_ABOUT).head(1).collect().to_series().to_list()
    about: dict[str, Any] = json.loads(first[0]) if first and first[0] else {}
    return about


def _table(
    rows: pl.LazyFrame, start: int, height: int, name: str, columns: Sequence[str]
) -> pl.DataFrame:
    """Return a table, whose rows begin at `start`."""
    named = [f"{name}.{column}" for column in columns]
    found = rows.slice(start, height).select(_TABLE, *named).collect()
    if found.height != height or not (found.get_column(_TABLE) == name).all():
        raise KeyError(name)
    return found.drop(_TABLE).rename(dict(zip(found.columns[1:], columns, strict=True)))


def _about(about: dict[str, Any]) -> str:
    return f"a state of version {about['version']}" if about.get("mark") == _MARK else "no state"
