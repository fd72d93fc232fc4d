"""Who owns which journal files of a folder, told by file locks that end with their process.

Each writer of a folder has a lock file, `worker-00000.attempt-<µs>.lock`, which it keeps locked
while it lives, and journal files of the same stem beside it. What has no living owner was left by
a process that crashed: whoever gets its lock owns it from then on.

Some file systems keep locks that only one machine sees. So a lock file names its machine, and its
owner renews the file's time every few seconds: to other machines it lives for a minute after that.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import socket
import stat
import threading
import time
from typing import NamedTuple

from monolith_keras_metrics.journal import locks
from monolith_keras_metrics.journal.locks import TakenError
from monolith_keras_metrics.journal.regular import NotOursError, Probe, open_regular
from monolith_keras_metrics.records import run_folder

_LIVES_SECONDS = 60.0
_LOCK_BYTES = 4_096


class Claim:
    """The right to the journal files of one stem; made by `claim_new` and `claim_left`.

    Args:
        folder: Where the files are.
        stem: What their names begin with.
        journal: A name for what they hold that nothing else has.
        descriptor: The lock file, open and locked; None if it is not held yet.
    """

    def __init__(
        self, folder: pathlib.Path, stem: str, journal: str, descriptor: int | None = None
    ) -> None:
        self.folder = folder
        self.stem = stem
        self.journal = journal
        self._files_left = 0
        self._counting = threading.Lock()
        self._holding = threading.Lock()  # so that nobody uses a descriptor that is closed
        self._path = run_folder.lock_path(folder, stem)
        self._descriptor = descriptor

    def file(self, number: int) -> pathlib.Path:
        """Return the path of the journal file with this number."""
        return run_folder.journal_path(self.folder, self.stem, number)

    def count_files(self, more: int) -> int:
        """Note that there are more journal files, or fewer; return how many there are now."""
        with self._counting:
            self._files_left += more
            return self._files_left

    def renew(self) -> None:
        """Make folder and lock where they are missing, or where somebody has removed them.

        Raises:
            TakenError: If somebody else has the stem.
            OSError: If they cannot be made, or the file system has no locks.
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
                raise TakenError(self.stem) from None
            except FileNotFoundError:
                continue  # whoever was the last in the folder has just removed it
        try:
            _lock(self._path, descriptor)
        except BaseException:
            self._path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        try:
            os.write(descriptor, json.dumps({"machine": _machine()}).encode())
        except OSError:
            pass  # a full disk: the lock holds all the same

    def beat(self) -> None:
        """Show machines that do not see the lock that its owner lives."""
        with self._holding:
            if self._descriptor is not None:
                try:
                    os.utime(self._descriptor)
                except OSError:
                    pass

    def release(self) -> None:
        """Release the lock so that others can have the files; remove it where there are none."""
        if self._descriptor is None:
            return
        if not self._files_left:
            try:
                self._path.unlink(missing_ok=True)
                if self.folder.name.startswith("."):  # ours, in a run's folder; not a user's own
                    self.folder.rmdir()  # fails where others have files
            except OSError:
                pass
        self.detach()

    def detach(self) -> None:
        """Close this process's hold on the lock; one that it was forked from keeps its own."""
        with self._holding:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)


def claim_new(folder: pathlib.Path, stem: str, journal: str) -> Claim:
    """Claim a stem that nobody has.

    Args:
        folder: Made if it is missing.
        stem: What `stem_of` returned.
        journal: The journal's name.

    Raises:
        TakenError: If somebody has that stem.
        OSError: If the folder cannot be written to, or knows no locks.
    """
    claim = Claim(folder, stem, journal)
    claim.renew()
    return claim


class Listing(NamedTuple):
    """What stands in a folder of journals.

    Attributes:
        journals: The journal files of each stem, the oldest attempt first; none where there is
            only a lock.
        aside: Names of files that were set aside.
    """

    journals: dict[str, list[pathlib.Path]]
    aside: list[str]


def listing(folder: pathlib.Path) -> Listing:
    """List the files of a folder; nothing where there is none.

    Raises:
        OSError: If the folder cannot be read.
    """
    numbered: dict[str, list[tuple[int, str]]] = collections.defaultdict(list)
    aside = []
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        names = []
    for name in names:
        if (known := run_folder.journal_name(name)) is not None:
            numbered[known.stem] += [] if known.number is None else [(known.number, name)]
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
    """Claim what a process that no longer lives has left.

    Args:
        folder: The folder.
        stem: A stem that is there.
        found: What the folder's file system was found to do.

    Returns:
        The claim, whose `journal` is not known yet; None if its owner lives, or has just ended.

    Raises:
        NotOursError: If the lock is no regular file, or another user's.
        OSError: If the lock cannot be opened, or the file system has no locks.
    """
    path = run_folder.lock_path(folder, stem)
    try:
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT, found.uids)
    except FileNotFoundError:
        return None  # the folder is gone
    try:
        _lock(path, descriptor)
        if _lives_elsewhere(descriptor, found.now):
            raise TakenError(stem)
    except TakenError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return Claim(folder, stem, "", descriptor)


class Left(NamedTuple):
    """What somebody who only looks sees of what others have left.

    Attributes:
        journals: Stems with journal files that nobody owns who lives.
        foreign: Stems with journal files of other users, or that are no regular files.
        aside: Names of files that were set aside.
    """

    journals: list[str]
    foreign: list[str]
    aside: list[str]


def look(folder: pathlib.Path) -> Left:
    """Look at what processes that no longer live have left in a folder.

    Changes nothing, and takes no locks.

    Args:
        folder: The folder, which may be missing.
    """
    try:
        there = listing(folder)
    except OSError:
        return Left([], ["?"], [])
    journals, foreign = [], []
    for stem in [stem for stem, files in there.journals.items() if files]:
        try:
            descriptor = open_regular(run_folder.lock_path(folder, stem))
        except FileNotFoundError:
            if any(path.exists() for path in there.journals[stem]):
                journals.append(stem)  # a machine that stopped may have kept no more
            continue
        except OSError:
            foreign.append(stem)
            continue
        try:
            if not _lives(descriptor) and any(p.exists() for p in there.journals[stem]):
                journals.append(stem)
        finally:
            os.close(descriptor)
    return Left(journals, foreign, there.aside)


def set_aside(path: pathlib.Path) -> pathlib.Path:
    """Give a file a name under which nobody takes it for a journal; never replace another."""
    number = 0
    while True:
        aside = run_folder.aside_path(path, number)
        if not os.path.lexists(aside):
            path.rename(aside)
            return aside
        number += 1


def _check_folder(folder: pathlib.Path) -> None:
    """Raise where another user has planted a link in the place of the folder."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode) and status.st_uid not in (os.geteuid(), 0):
        raise NotOursError(0, f"it is a link of another user ({status.st_uid})", str(folder))


def _lock(path: pathlib.Path, descriptor: int) -> None:
    locks.take(descriptor)
    # Whoever had the lock before may have removed the file: then this is not the one there.
    if not _is_at(path, descriptor):
        raise TakenError(path.name)


def _lives(descriptor: int) -> bool:
    """Return True if a lock file's owner lives, as far as one can see without locking it."""
    if locks.AVAILABLE:
        return locks.is_taken(descriptor)
    return abs(time.time() - os.fstat(descriptor).st_mtime) < _LIVES_SECONDS


def _lives_elsewhere(descriptor: int, now: float) -> bool:
    """Return True if a lock is of another machine, and was renewed a short while ago."""
    try:
        machine = json.loads(os.pread(descriptor, _LOCK_BYTES, 0))["machine"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    age = now - os.fstat(descriptor).st_mtime
    return bool(machine != _machine() and abs(age) < _LIVES_SECONDS)


def _machine() -> str:
    """Return what tells machines apart that do not see each other's locks: their kernels."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _is_at(path: pathlib.Path, descriptor: int) -> bool:
    try:
        status, own = path.lstat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (status.st_dev, status.st_ino) == (own.st_dev, own.st_ino)
