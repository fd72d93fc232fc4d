"""States that are kept beside the files they come from, in a run's folder `.insight/`.

A data file never changes once it has its name. So the state of files that were read before is still
right, and only new files are read.

- An *entry* is a state of some files for one question (groups, window, and what else `state_of`
  takes). Its name begins with a hash of the question. It names its files, with size and time.
- An entry is used if all of its files are there, unchanged. Otherwise it is deleted.
- Every look at new files adds an entry; when there are more than `_ENTRIES`, they are merged to
  one. All entries together have at most `_BYTES`; those that were not used for longest go first.
- Entries are written aside and renamed, so that several readers may look at a run at once. At
  worst, two of them read the same new files.
- States cannot tell which of several records of an example is its first visit. Of files with
  records that depend on those of others (see `visits`, `replays`), nothing is kept.
- A *table*, such as the slices that are wrong, is kept for one question about exactly these files.
- If entries cannot be written, as in a folder that is read-only, everything is read each time.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import io
import json
import os
import pathlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl
from absl import logging

from monolith_keras_metrics.insight import stored
from monolith_keras_metrics.insight.state import State
from monolith_keras_metrics.insight.visits import Facts
from monolith_keras_metrics.records import run_folder

_ENTRIES = 8
_BYTES = 1 << 30
_STALE_SECONDS = 86_400
_CORRUPT = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
Identities = dict[str, list[int]]


class Entry(NamedTuple):
    """A state that is kept.

    Attributes:
        path: Its file; None before it has one.
        state: The state.
        files: Size and time of modification of each file, by name.
        facts: What tells whether any of their records depends on others.
        schema: The columns of their records.
    """

    path: pathlib.Path | None
    state: State
    files: Identities
    facts: Facts
    schema: pl.Schema


class Kept:
    """The entries of a question about a run.

    Args:
        run: The run's folder.
        question: All arguments that a state depends on; must be JSON.
    """

    def __init__(self, run: pathlib.Path, question: dict[str, Any]) -> None:
        self._folder = run / run_folder.STATES
        text = json.dumps([stored.VERSION, question], sort_keys=True)
        self._key = hashlib.sha256(text.encode()).hexdigest()[:20]

    def entries(self, files: Identities) -> list[Entry]:
        """Return entries of these files, no file in two of them; delete what is of no use."""
        usable: list[Entry] = []
        seen: set[str] = set()
        for entry in sorted(self._all(), key=lambda entry: -len(entry.files)):
            assert entry.path is not None
            if seen & entry.files.keys() or self._is_stale(entry, files):
                _delete(entry.path)
                continue
            if not entry.files.keys() <= files.keys():
                continue  # another reader has seen a file that has just come
            seen |= entry.files.keys()
            usable.append(entry)
            with contextlib.suppress(OSError):
                os.utime(entry.path)  # those that are used are deleted last
        if len({entry.state.form for entry in usable}) > 1:
            return []
        return usable

    def add(self, entry: Entry, others: Sequence[Entry]) -> None:
        """Keep an entry, merged with the others if there are too many; delete what is too much."""
        superseded: Sequence[Entry] = ()
        if len(others) >= _ENTRIES:
            entry, superseded = merged([*others, entry]), others
        notes = {
            "files": entry.files,
            "attempts": sorted(map(list, entry.facts.attempts), key=repr),
            "revisits": entry.facts.revisits,
            "schema": _text_of(entry.schema),
        }
        if self._write(lambda path: stored.write(entry.state, path, notes)):
            self.delete(superseded)
            self._shrink()

    def table(self) -> pl.DataFrame | None:
        """Return the table that is kept as the answer to the question; None if there is none."""
        for path in _listed(self._folder):
            if path.name.startswith(f"{self._key}."):
                with contextlib.suppress(OSError, *_CORRUPT):
                    table = pl.read_parquet(path, glob=False, hive_partitioning=False)
                    os.utime(path)
                    return table
                _delete(path)
        return None

    def add_table(self, table: pl.DataFrame) -> None:
        """Keep a table as the answer to the question."""
        contents = io.BytesIO()
        table.write_parquet(contents)
        if self._write(lambda path: stored.write_whole(path, contents.getbuffer())):
            self._shrink()

    def _write(self, write: Callable[[pathlib.Path], None]) -> bool:
        """Write a file, and return whether that was possible: measuring must not fail for it."""
        path = self._folder / f"{self._key}.{secrets.token_hex(8)}.parquet"
        try:
            self._folder.mkdir(exist_ok=True)
            write(path)
        except OSError as error:
            # Whoever looks at a run of others need not be told each time.
            is_closed = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            log = logging.info if is_closed else logging.warning
            log("summary: what was read cannot be kept in %s: %s", self._folder, error)
            return False
        return True

    def delete(self, entries: Sequence[Entry]) -> None:
        """Delete entries that are of no use."""
        for entry in entries:
            if entry.path is not None:
                _delete(entry.path)

    def _all(self) -> Iterator[Entry]:
        for path in _listed(self._folder):
            if path.name.startswith(f"{self._key}."):
                try:
                    tables, notes = stored.read(path)
                    yield Entry(
                        path,
                        State(tables.form, tables.targets, tables.groups, tables.tables),
                        dict(notes["files"]),
                        Facts(frozenset(map(tuple, notes["attempts"])), notes["revisits"]),
                        _schema_of(notes["schema"]),
                    )
                except FileNotFoundError:
                    continue  # another reader has merged or deleted it
                except (OSError, ValueError, KeyError, TypeError) as error:
                    what = error.what if isinstance(error, stored.ForeignError) else f"{error!r}"
                    logging.warning(
                        "summary: the records are read again, since %s cannot be used: %s",
                        *(path, what),
                    )
                    _delete(path)

    def _is_stale(self, entry: Entry, files: Identities) -> bool:
        """Return True if a file of the entry has changed or is gone."""
        return any(
            files[name] != identity if name in files else not (self._folder.parent / name).exists()
            for name, identity in entry.files.items()
        )

    def _shrink(self) -> None:
        """Delete the entries of any question that were not used for longest, and what was left."""
        found = []
        for path in _listed(self._folder, suffix=""):
            with contextlib.suppress(OSError):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in found)
        for modified, size, path in sorted(found):
            left = path.suffix != ".parquet" and time.time() - modified > _STALE_SECONDS
            if total > _BYTES or left:
                _delete(path)
                total -= size


def merged(entries: Sequence[Entry]) -> Entry:
    """Return the entry of all files of several entries."""
    files: Identities = {}
    facts = Facts(frozenset(), False)
    for entry in entries:
        files |= entry.files
        facts = facts | entry.facts
    return Entry(
        None, State.merge(entry.state for entry in entries), files, facts, entries[-1].schema
    )


def identities_of(files: Sequence[pathlib.Path]) -> Identities:
    """Return size and time of modification of each file, by name."""
    found = {}
    for file in files:
        stat = file.stat()
        found[file.name] = [stat.st_size, stat.st_mtime_ns]
    return found


def _listed(folder: pathlib.Path, suffix: str = ".parquet") -> list[pathlib.Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(suffix))
    except OSError:
        return []


def _delete(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _text_of(schema: pl.Schema) -> str:
    file = io.BytesIO()
    pl.DataFrame(schema=schema).write_ipc(file)
    return base64.b64encode(file.getvalue()).decode()


def _schema_of(text: str) -> pl.Schema:
    return pl.read_ipc(io.BytesIO(base64.b64decode(text))).schema
