"""Every name in a run's folder and in a journal; only this module makes and parses them.

| name | what it is |
| --- | --- |
| `worker-W.attempt-A.part-N.FORMAT` | a complete file of records; N: the position of the first |
| `.worker-W.attempt-A.part-N.FORMAT.TOKEN.inprogress` | a file that is being written |
| `.worker-W.attempt-A.ledger` | the counts of that process, replaced now and then: see `coverage` |
| `.insight/` | states of the files, so that measuring them again is quick; may be deleted |
| `.spool/` | the run's journal, unless another folder was given |
| `worker-W.attempt-A.lock` | in a journal: locked while its owner runs |
| `worker-W.attempt-A.N.journal` | in a journal: records that are not delivered yet |
| `….aside`, `….aside-2` | in a journal: a file that could not be delivered completely |
| `last-attempt` | in the journal of a topic: the largest attempt so far |

Names begin with a *stem*, `worker-W.attempt-A`, so that many processes can share a folder.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import time

FORMATS = ("parquet", "jsonl", "tfrecord")
JOURNAL = ".spool"
STATES = ".insight"
WATCH = ".watch"
WATCH_STATE = "watch.sqlite"
WATCH_LOCK = "watch.lock"
LAST_ATTEMPT = "last-attempt"

_STALE_SECONDS = 86_400
_STEM = r"worker-(?P<worker>\d{5,19})\.attempt-(?P<attempt>\d{16,19})"
_OF_ATTEMPT = re.compile(rf"\.?(?P<stem>{_STEM})\..+")
_LEDGER = re.compile(rf"\.(?P<stem>{_STEM})\.ledger")
# Earlier versions had no token.
_IN_PROGRESS = re.compile(
    rf"\.(?P<stem>{_STEM})\.(?:part-\d{{12,}}\.\w+?|ledger)(?:\.[0-9a-f]+)?\.inprogress"
)
_IN_JOURNAL = re.compile(rf"(?P<stem>{_STEM})(?:\.(?P<number>\d{{6,12}})\.journal|\.lock)")
_SET_ASIDE = re.compile(rf"{_STEM}\..*\.aside(?:-\d+)?")
# Hidden files are still being written. Worker 3 dumps to NAME.part-00003.
_RECORDS = re.compile(rf"[^.].*\.({'|'.join(FORMATS)})(?:\.part-\d+)?", re.DOTALL)


def stem_of(worker: int, attempt: int) -> str:
    """Return the stem with which the names of a process's files begin.

    Example:
    >>> stem_of(3, 1_790_000_000_000_000)
    'worker-00003.attempt-1790000000000000'
    """
    return f"worker-{worker:05d}.attempt-{attempt:016d}"


def worker_of(stem: str) -> int:
    """Return the worker that a stem names."""
    return int(stem.partition(".")[0].rpartition("-")[2])


def attempt_of(stem: str) -> int:
    """Return the attempt that a stem names."""
    return int(stem.rpartition("-")[2])


def attempt_in(name: str) -> int | None:
    """Return the attempt in the name of any file, hidden or not; None if it has none."""
    match = _OF_ATTEMPT.fullmatch(name)
    return int(match["attempt"]) if match else None


def format_of(name: str) -> str | None:
    """Return the format of a file of records; None if the name is not that of one.

    Example:
    >>> format_of("worker-00000.attempt-1790000000000000.part-000000000000.parquet")
    'parquet'
    >>> format_of(".hidden.parquet")
    """
    match = _RECORDS.fullmatch(name)
    return match[1] if match else None


def stem_in(name: str) -> str | None:
    """Return the stem in the name of a file of records or a ledger; None if it has none.

    Example:
    >>> stem_in("worker-00003.attempt-1790000000000000.part-000000000000.parquet")
    'worker-00003.attempt-1790000000000000'
    """
    match = _LEDGER.fullmatch(name) or (format_of(name) and _OF_ATTEMPT.fullmatch(name))
    return match["stem"] if match else None


def ledger_path(folder: pathlib.Path, stem: str) -> pathlib.Path:
    """Return the path of the file that holds a process's counts."""
    return folder / f".{stem}.ledger"


def part_path(folder: pathlib.Path, stem: str, number: int, suffix: str) -> pathlib.Path:
    """Return the path of a complete file of records."""
    return folder / f"{stem}.part-{number:012d}.{suffix}"


def in_progress_path(final: pathlib.Path, token: str = "") -> pathlib.Path:
    """Return the temporary path of a file that is still being written.

    Args:
        final: The path of the complete file.
        token: A random text that identifies the writer; "" if only one process can write `final`.
    """
    return final.with_name(
        f".{final.name.removeprefix('.')}{'.' if token else ''}{token}.inprogress"
    )


def part_numbers(folder: pathlib.Path, stem: str, suffix: str) -> list[int]:
    """Return the part numbers of all complete files of a process, in order."""
    pattern = re.compile(rf"{re.escape(stem)}\.part-(\d{{12,}})\.{re.escape(suffix)}")
    return sorted(
        int(match[1]) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))
    )


def remove_stale(folder: pathlib.Path) -> None:
    """Delete files in progress that have not been modified for a day."""
    for path in folder.iterdir():
        if _IN_PROGRESS.fullmatch(path.name):
            with contextlib.suppress(OSError):  # another process may have finished or deleted it
                if time.time() - path.lstat().st_mtime > _STALE_SECONDS:
                    path.unlink()


def remove_in_progress(folder: pathlib.Path, stem: str) -> None:
    """Delete the files in progress of a process that has ended."""
    for path in folder.iterdir():
        if (match := _IN_PROGRESS.fullmatch(path.name)) and match["stem"] == stem:
            with contextlib.suppress(OSError):
                path.unlink()


def lock_path(folder: pathlib.Path, stem: str) -> pathlib.Path:
    """Return the path of the lock of a process's journal files."""
    return folder / f"{stem}.lock"


def journal_path(folder: pathlib.Path, stem: str, number: int) -> pathlib.Path:
    """Return the path of a journal file."""
    return folder / f"{stem}.{number:06d}.journal"


def journal_name(name: str) -> tuple[str, int | None] | None:
    """Return the stem and the number of a journal file, or the stem and None of a lock.

    Returns:
        None if it is another file's name.
    """
    match = _IN_JOURNAL.fullmatch(name)
    if match is None:
        return None
    return match["stem"], int(match["number"]) if match["number"] else None


def aside_path(path: pathlib.Path, number: int) -> pathlib.Path:
    """Return the path for setting a file aside; use the next `number` if it is taken."""
    return path.with_name(f"{path.name}.aside" + (f"-{number}" if number else ""))


def is_set_aside(name: str) -> bool:
    """Return True if the name is that of a journal file that was set aside."""
    return bool(_SET_ASIDE.fullmatch(name))


def journal_of(path: pathlib.Path) -> pathlib.Path:
    """Return the journal's folder.

    Args:
        path: The run's folder, or the journal's.
    """
    inside = path / JOURNAL
    return inside if inside.is_dir() else path
