"""Number attempts so that a later one is always larger, whatever the clock says.

An attempt's number is about the time at which it began, in microseconds since 1970. If the clock
was set back or has stopped, the number is one that exceeds all numbers seen so far. Numbers are
looked up in this process, in the file names of the run's and the journal's folders, and, for a
Kafka topic, in a file of the journal's folder. A random part of up to one second separates
processes that begin at the same moment and cannot see each other.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import secrets
import threading
from collections.abc import Callable, Sequence

from monolith_keras_metrics.journal.regular import open_regular
from monolith_keras_metrics.records.run_folder import JOURNAL, LAST_ATTEMPT, attempt_in
from monolith_keras_metrics.sinks.destination import Destination

_SPREAD = 1_000_000  # microseconds
# The year 33658. A larger number, from a foreign file, would leave no room for the next attempts.
_LARGEST = 10**18
_lock = threading.Lock()
_last = 0


def new_attempt(clock: Callable[[], float], at_least: int = 0) -> int:
    """Return the number of a new attempt: microseconds since 1970, within a second.

    The number is larger than `at_least` and than every earlier number of this process. It may
    therefore run ahead of the clock.

    Args:
        clock: Returns Unix seconds.
        at_least: The largest number seen, as returned by `largest_seen`.
    """
    global _last
    with _lock:
        first = max(int(clock() * 1e6), _last + 1, at_least + 1)
        _last = first + secrets.randbelow(_SPREAD)
        return _last


def largest_seen(destinations: Sequence[Destination], journal: pathlib.Path | None) -> int:
    """Return the largest attempt recorded in the folders of a run; 0 if there is none.

    Args:
        destinations: The destinations of the records.
        journal: The journal's folder; None without a journal.
    """
    folders = [*(one.folder for one in destinations), journal]
    seen = [largest_attempt(folder) for folder in folders if folder is not None]
    return max([*seen, _read(journal) if journal is not None else 0])


def largest_attempt(folder: str | os.PathLike[str]) -> int:
    """Return the largest attempt in the names of a folder's files, including hidden ones.

    Returns:
        0 if there is none, or the folder is missing or cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            found = [attempt_in(entry.name) or 0 for entry in entries]
    except OSError:
        return 0
    return max((attempt for attempt in found if attempt < _LARGEST), default=0)


def remember(
    attempt: int, destinations: Sequence[Destination], journal: pathlib.Path | None
) -> None:
    """Save the attempt in the journal's folder, for destinations that do not keep it themselves.

    Does nothing if the folder already has a larger attempt or cannot be written.

    Args:
        attempt: The attempt.
        destinations: The destinations of the records.
        journal: The journal's folder; None without a journal.
    """
    if journal is None or journal.name == JOURNAL:  # the names of the run's files keep the attempt
        return
    if all(one.keeps_attempts for one in destinations) or _read(journal) >= attempt:
        return
    aside = journal / f".{LAST_ATTEMPT}.{secrets.token_hex(8)}"
    with contextlib.suppress(OSError):
        journal.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(f"{attempt}\n")
            file.flush()
            os.fsync(descriptor)
        aside.replace(journal / LAST_ATTEMPT)
    with contextlib.suppress(OSError):  # if that has failed
        aside.unlink(missing_ok=True)


def _read(journal: pathlib.Path) -> int:
    """Return the attempt that `remember` saved; 0 if there is none or the file is invalid."""
    try:
        with open(open_regular(journal / LAST_ATTEMPT), "rb") as file:
            text = file.read(64)
    except OSError:
        return 0
    attempt = int(text) if re.fullmatch(rb"\d{1,19}\n", text) else 0
    return attempt if attempt < _LARGEST else 0
