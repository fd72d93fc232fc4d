"""Who owns which journal files of a folder, told by file locks that end with their process.

Each writer of a folder has a lock file, `worker-00000.attempt-<µs>.lock`, which it keeps locked
while it lives, and journal files of the same stem beside it. What has no living owner was left by
a process that was killed: whoever gets its lock owns it from then on. The lock file tells which
sinks the records are for; a password or a token never stands in it.
"""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

_FORMAT = 1
_LOCK = ".lock"
_FILE = re.compile(r"(worker-\d{5,19}\.attempt-\d{16,19})(?:\.(\d{6,12})\.journal|\.lock)")


class TakenError(Exception):
    """Another process, or another client of this one, owns it."""


class Claim:
    """The right to the journal files of one stem; made by `new` and `leftovers`.

    Attributes:
        folder: Where the files are.
        stem: What their names begin with.
        sinks: What identifies the sinks that the records are for.
    """

    def __init__(self, folder: pathlib.Path, stem: str, descriptor: int, sinks: list[str]) -> None:
        self.folder = folder
        self.stem = stem
        self.sinks = sinks
        self._descriptor: int | None = descriptor

    def journal(self, number: int) -> pathlib.Path:
        """The path of the journal file with this number."""
        return self.folder / f"{self.stem}.{number:06d}.journal"

    def journals(self) -> list[pathlib.Path]:
        """The journal files there are, in the order of their numbers."""
        found = [
            (int(match[2]), path)
            for path in self.folder.iterdir()
            if (match := _FILE.fullmatch(path.name)) and match[1] == self.stem and match[2]
        ]
        return [path for _, path in sorted(found)]

    def renew(self) -> None:
        """Makes folder and lock again where somebody has removed them.

        Raises:
            TakenError: If somebody else has the stem meanwhile.
            OSError: If they cannot be made.
        """
        path = self.folder / f"{self.stem}{_LOCK}"
        if self._descriptor is not None and not _is_at(path, self._descriptor):
            again = new(self.folder, self.stem, self.sinks)
            os.close(self._descriptor)
            self._descriptor, again._descriptor = again._descriptor, None

    def release(self) -> None:
        """Lets others have what journal files are left; without any, nothing of it stays."""
        if self._descriptor is None:
            return
        try:
            if not self.journals():
                (self.folder / f"{self.stem}{_LOCK}").unlink(missing_ok=True)
                if self.folder.name.startswith("."):  # ours, in a run's folder; not a user's own
                    self.folder.rmdir()  # fails where others have files
        except OSError:
            pass
        self.forget()

    def forget(self) -> None:
        """Closes this process's hold on the lock; a process that forked from it keeps its own."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def stem_of(worker: int, attempt: int) -> str:
    """What the names of a writer's files begin with."""
    return f"worker-{worker:05d}.attempt-{attempt:016d}"


def new(folder: pathlib.Path, stem: str, sinks: Sequence[str]) -> Claim:
    """Claims a stem that nobody has.

    Args:
        folder: Made if it is missing.
        stem: What `stem_of` returned.
        sinks: What identifies the sinks.

    Raises:
        TakenError: If somebody has that stem.
        OSError: If the folder cannot be written to, or knows no locks.
    """
    path = folder / f"{stem}{_LOCK}"
    descriptor = None
    while descriptor is None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise TakenError(stem) from None
        except FileNotFoundError:
            continue  # whoever was the last in the folder has just removed it
    try:
        _lock(path, descriptor)
        os.write(descriptor, json.dumps({"format": _FORMAT, "sinks": list(sinks)}).encode())
    except BaseException:
        os.close(descriptor)
        raise
    return Claim(folder, stem, descriptor, list(sinks))


def leftovers(folder: pathlib.Path) -> Iterator[Claim]:
    """Claims what processes that no longer live left in a folder, the oldest attempt first.

    Args:
        folder: The folder; nothing is claimed where there is none.

    Raises:
        OSError: If the folder cannot be read.
    """
    if not folder.is_dir():
        return
    matches = [_FILE.fullmatch(path.name) for path in folder.iterdir()]
    stems = {match[1] for match in matches if match}
    for stem in sorted(stems, key=lambda stem: (stem.rpartition("-")[2].zfill(19), stem)):
        path = folder / f"{stem}{_LOCK}"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue  # the folder is gone: its owner has just ended
        except PermissionError:
            continue  # another user's, who is the one to deliver it
        try:
            _lock(path, descriptor)
            sinks = _sinks(os.pread(descriptor, 1 << 20, 0))
        except TakenError:
            os.close(descriptor)
            continue
        except BaseException:
            os.close(descriptor)
            raise
        yield Claim(folder, stem, descriptor, sinks)


def abandoned(folder: pathlib.Path) -> bool:
    """Whether a process that no longer lives has left journal files in a folder; changes nothing.

    Args:
        folder: The folder, which may be missing.
    """
    for journal in folder.glob("worker-*.journal"):
        match = _FILE.fullmatch(journal.name)
        if match is None:
            continue
        try:
            descriptor = os.open(folder / f"{match[1]}{_LOCK}", os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            continue
        finally:
            os.close(descriptor)
        return True
    return False


def _lock(path: pathlib.Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TakenError(path.name) from None
    # Whoever had the lock before may have removed the file: then this is not the one there.
    if not _is_at(path, descriptor):
        raise TakenError(path.name)


def _is_at(path: pathlib.Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _sinks(text: bytes) -> list[str]:
    """What a lock file tells; nothing, where it was torn or is not ours."""
    try:
        told: Any = json.loads(text)
        names = told["sinks"] if told["format"] == _FORMAT else []
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
