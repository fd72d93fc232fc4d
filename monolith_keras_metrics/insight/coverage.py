"""`coverage`: how old and how complete the records of a run are."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
from absl import logging

from monolith_keras_metrics.insight.dataset import TOPIC, locate, open_files
from monolith_keras_metrics.journal.regular import open_regular
from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.coverage import COUNTS, Coverage, decode

_SCHEMA: dict[str, type[pl.DataType] | pl.DataType] = {
    "place": pl.String,
    "run": pl.String,
    "worker": pl.Int64,
    "attempt": pl.Int64,
    **dict.fromkeys((*COUNTS, "records"), pl.Int64),
    "as_of": pl.Datetime("us", "UTC"),
    "ended": pl.Boolean,
}
_MOST_BYTES = 65_536
_LARGEST = 2**63 - 1  # of a column


def coverage(place: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> pl.DataFrame:
    """Return what became of the examples of a run: how many are in its records, and how many not.

    Each process that writes to a folder keeps its counts there, in a hidden file. It replaces them
    whenever it completes a file of records, and when its client is closed. So they are as old as
    `as_of`. If a process was killed, its last ones remain: what was `waiting` then, and what it
    accepted later, may be lost, or wait in the journal. Recovery does not change the counts; the
    records that it delivers are in `records`.

    Args:
        place: A run's folder, one file of it, or a list of these. As in `open_run`, a format may
            precede: `"jsonl:PATH"`. A topic has no such counts.

    Returns:
        A row for each place and each process that wrote there:

        `place`: the folder or file. `run`, `worker`, `attempt`: which process; the last two are
        null for files whose names do not say. `accepted`, `unsampled`, `written`, `dropped`,
        `failed`, `waiting`: its counts, as in `Stats`; `written` counts what all sinks of the
        process have. If a process writes to several places, each has its counts. They are null if
        there are none, as in runs of earlier versions. `records`: the number of records in its
        files; null if these are not all Parquet. `as_of`: when it counted. `ended`: True if its
        client was closed, and these counts are its last; False if it still runs, was killed, or
        could not close in time.

    Raises:
        FileNotFoundError: If a place does not exist, or nothing was ever written there.
        ValueError: If a place is a topic.

    Example:
    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> counts = (
    ...     '{"run": "ctr", "accepted": 10, "unsampled": 5, "written": 3, "dropped": 0,'
    ...     ' "failed": 0, "waiting": 2, "as_of": 1790000000, "ended": false}'
    ... )
    >>> name = ".worker-00003.attempt-1790000000000000.ledger"
    >>> with open(os.path.join(folder, name), "w") as file:
    ...     print(counts, file=file)
    >>> found = coverage(folder)
    >>> found.select("worker", "accepted", "written", "waiting", "records").rows()
    [(3, 10, 3, 2, 0)]
    """
    places = [place] if isinstance(place, (str, os.PathLike)) else list(place)
    for one in places:
        if TOPIC.fullmatch(os.fspath(one)):
            raise ValueError(
                "`place` must be a folder or a file, since a topic does not hold the counts of its "
                "processes: ask their clients' stats(). Received: a topic"
            )
    located = dict.fromkeys((wanted, root.resolve()) for wanted, root in map(locate, places))
    rows = [row for wanted, root in located for row in _rows(wanted, root)]
    return pl.DataFrame(rows, _SCHEMA).sort("place", "attempt", "worker")


def _rows(wanted: str | None, root: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of one place."""
    files: dict[str | None, list[pathlib.Path]] = collections.defaultdict(list)
    folder = root
    if not root.is_dir():
        folder, files[_stem_in(root.name)] = root.parent, [root]
    for path in sorted(root.iterdir()) if folder == root else []:
        file_format, stem = run_folder.format_of(path.name), _stem_in(path.name)
        if file_format and wanted in (None, file_format) and path.is_file():
            files[stem].append(path)
        elif stem and not file_format:  # a ledger
            files[stem] += []
    if not files:
        raise FileNotFoundError(
            "`place` must be a folder that training has written to, or a file of it. Received: "
            f"{str(root)!r}, which has neither records nor counts yet"
        )
    for stem, parts in files.items():
        counts = _read(run_folder.ledger_path(folder, stem)) if stem else None
        yield {
            "place": str(root),
            "worker": run_folder.worker_of(stem) if stem else None,
            "attempt": run_folder.attempt_of(stem) if stem else None,
            "records": _count(parts),
            **({} if counts is None else {**counts._asdict(), "as_of": counts.moment}),
        }


def _stem_in(name: str) -> str | None:
    stem = run_folder.stem_in(name)
    if stem and max(run_folder.worker_of(stem), run_folder.attempt_of(stem)) > _LARGEST:
        return None
    return stem


def _count(files: Sequence[pathlib.Path]) -> int | None:
    """Return the number of records in Parquet files, from their footers; None for other files."""
    if any(run_folder.format_of(file.name) != "parquet" for file in files):
        return None
    records, problems = open_files("parquet", files)
    for file, problem in problems.items():
        logging.warning("coverage: %r: %s", str(file), problem)
    return 0 if records is None else int(records.select(pl.len()).collect().item())


def _read(path: pathlib.Path) -> Coverage | None:
    """Return the counts in a file; None, and a warning, if it cannot be read."""
    try:
        owner = frozenset({path.lstat().st_uid})  # a run may be another user's
        with open(open_regular(path, uids=owner), "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        return decode(data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logging.warning("coverage: %r cannot be read, and is skipped: %s", str(path), error)
        return None
