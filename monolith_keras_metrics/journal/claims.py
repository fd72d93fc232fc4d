"""Claim journal files with file locks, which the system releases when a process ends.

Each writer to a folder has a lock file, `worker-00000.attempt-<µs>.lock`, which it keeps locked
while it lives. Its journal files have the same stem. Files without a living owner were left by a
crashed process. The process that locks their lock file becomes their owner.

Some file systems have locks that are only visible on one machine. So a lock file names its machine,
and its owner updates the file's modification time every few seconds. Other machines consider the
owner alive for one minute after each update.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import os
import pathlib
import socket
import stat
import threading
import time
from typing import NamedTuple

from monolith_keras_metrics.journal import locks
from monolith_keras_metrics.journal.regular import NotOursError, Probe, open_regular
from monolith_keras_metrics.records import run_folder

_ALIVE_SECONDS = 60.0
_LOCK_BYTES = 4_096


class Claim:
    """The ownership of the journal files of one stem.

    `renew` claims the files of a new stem; `claim_left` those that a crashed process left.

    Args:
        folder: The folder of the files.
        stem: The beginning of their names.
        journal: The journal's unique name.
        descriptor: The open, locked lock file; None if it is not locked yet.
        uids: Users whose files are accepted. Default: this process's user.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        stem: str,
        journal: str,
        descriptor: int | None = None,
        uids: frozenset[int] = frozenset(),
    ) -> None:
        self.folder = folder
        self.stem = stem
        self.journal = journal
        self.uids = uids
        self._files_left = 0
        self._counting = threading.Lock()
        self._holding = threading.Lock()  # keeps other threads from using a closed descriptor
        self._path = run_folder.lock_path(folder, stem)
        self._descriptor = descriptor

    def file(self, number: int) -> pathlib.Path:
        """Return the path of the journal file with this number."""
        return run_folder.journal_path(self.folder, self.stem, number)

    def count_files(self, more: int) -> int:
        """Add to the number of journal files; return the new number."""
        with self._counting:
            self._files_left += more
            return self._files_left

    def renew(self) -> None:
        """Create and lock the lock file, and create the folder, if they are missing.

        Raises:
            TakenError: If another process has claimed the stem.
            OSError: If they cannot be created, or the file system has no locks.
        """
        if self._descriptor is not None:
            if _is_at(self._path, self._descriptor):
                return
            self.detach()
        _check_folder(self.folder)
        descriptor = None
        while descriptor is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = open_regular(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                raise locks.TakenError(self.stem) from None
            except FileNotFoundError:
                continue  # the last other owner has just removed the folder
        try:
            _lock(self._path, descriptor)
        except BaseException:
            self._path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # the lock is valid without its text, on a full disk
            os.write(descriptor, json.dumps({"machine": _machine()}).encode())

    def beat(self) -> None:
        """Show machines that cannot see the lock that its owner is alive."""
        with self._holding, contextlib.suppress(OSError):
            if self._descriptor is not None:
                os.utime(self._descriptor)

    def release(self) -> None:
        """Release the lock, so that another process can recover the remaining journal files.

        Delete the lock file, and a journal folder in a run's folder, if no files remain.
        """
        if self._descriptor is None:
            return
        if not self._files_left:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
                if self.folder.name.startswith("."):  # not a folder that the user chose
                    self.folder.rmdir()  # fails if other owners have files
        self.detach()

    def detach(self) -> None:
        """Close the lock file. A parent process keeps the lock."""
        with self._holding:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)


class Listing(NamedTuple):
    """The contents of a folder of journals.

    Attributes:
        journals: The journal files of each stem, the oldest attempt first; empty if there is only a
            lock file.
        aside: Names of files that were set aside.
    """

    journals: dict[str, list[pathlib.Path]]
    aside: list[str]


def listing(folder: pathlib.Path) -> Listing:
    """List the files of a folder of journals; empty if the folder is missing.

    Raises:
        OSError: If the folder cannot be read.
    """
    numbered: dict[str, list[tuple[int, str]]] = collections.defaultdict(list)
    aside = []
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        if (known := run_folder.journal_name(name)) is not None:
            stem, number = known
            numbered[stem] += [] if number is None else [(number, name)]
        elif run_folder.is_set_aside(name):
            aside.append(name)
    return Listing(
        {
            stem: [folder / name for _, name in sorted(numbered[stem])]
            for stem in sorted(numbered, key=lambda stem: (run_folder.attempt_of(stem), stem))
        },
        sorted(aside),
    )


def claim_left(folder: pathlib.Path, stem: str, found: Probe) -> Claim | None:
    """Claim the files that a crashed process left.

    Args:
        folder: The folder of the journals.
        stem: A stem in that folder.
        found: The result of `probe` for the folder.

    Returns:
        The claim, whose `journal` is not known yet; None if the owner is alive or has just ended.

    Raises:
        NotOursError: If the lock file is not a regular file, or belongs to another user.
        OSError: If the lock file cannot be opened, or the file system has no locks.
    """
    path = run_folder.lock_path(folder, stem)
    try:
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT, found.uids)
    except FileNotFoundError:
        return None  # the folder is gone
    try:
        _lock(path, descriptor)
        if _is_alive_elsewhere(descriptor, found.now):
            raise locks.TakenError(stem)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, locks.TakenError):
            return None
        raise
    return Claim(folder, stem, "", descriptor, found.uids)


class Left(NamedTuple):
    """The journals that crashed processes left in a folder.

    Attributes:
        journals: Stems with journal files that have no living owner.
        foreign: Stems with a lock file that belongs to another user or cannot be opened.
        aside: Names of files that were set aside.
    """

    journals: list[str]
    foreign: list[str]
    aside: list[str]


def look(folder: pathlib.Path) -> Left:
    """Return the journals that crashed processes left in a folder.

    Changes nothing and takes no locks.

    Args:
        folder: The folder of the journals, which may be missing.
    """
    try:
        there = listing(folder)
    except OSError:
        return Left([], ["?"], [])
    journals, foreign = [], []
    for stem in [stem for stem, files in there.journals.items() if files]:
        try:
            with open(open_regular(run_folder.lock_path(folder, stem)), "rb") as lock:
                is_alive = _is_alive(lock.fileno())
        except FileNotFoundError:
            is_alive = False  # the lock file may be lost in a crash of the machine
        except OSError:
            foreign.append(stem)
            continue
        if not is_alive and any(path.exists() for path in there.journals[stem]):
            journals.append(stem)
    return Left(journals, foreign, there.aside)


def set_aside(path: pathlib.Path) -> pathlib.Path:
    """Rename a file so that it no longer counts as a journal; return its new path.

    Never replaces another file.
    """
    names = (run_folder.aside_path(path, number) for number in itertools.count())
    return path.rename(next(name for name in names if not os.path.lexists(name)))


def _check_folder(folder: pathlib.Path) -> None:
    """Raise NotOursError if another user has replaced the folder by a link."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode) and status.st_uid not in (os.geteuid(), 0):
        raise NotOursError(
            0, f"it is a link that belongs to another user ({status.st_uid})", str(folder)
        )


def _lock(path: pathlib.Path, descriptor: int) -> None:
    locks.take(descriptor)
    # The previous owner may have removed the file, so that this lock protects nothing.
    if not _is_at(path, descriptor):
        raise locks.TakenError(path.name)


def _is_alive(descriptor: int) -> bool:
    """Return True if a lock file's owner appears to be alive. Does not lock the file."""
    if locks.AVAILABLE:
        return locks.is_taken(descriptor)
    return abs(time.time() - os.fstat(descriptor).st_mtime) < _ALIVE_SECONDS


def _is_alive_elsewhere(descriptor: int, now: float) -> bool:
    """Return True if a lock file is of another machine and was updated within a minute."""
    try:
        machine = json.loads(os.pread(descriptor, _LOCK_BYTES, 0))["machine"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    age = now - os.fstat(descriptor).st_mtime
    return bool(machine != _machine() and abs(age) < _ALIVE_SECONDS)


def _machine() -> str:
    """Return a name for this machine's kernel, which is what keeps the locks."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _is_at(path: pathlib.Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
