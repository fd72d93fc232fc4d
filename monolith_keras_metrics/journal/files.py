"""The journal files of a spool: written, made durable, removed, left to the next process.

Whatever may have to wait for a disk is here, and is done while nobody holds the spool's lock. The
encoder's thread alone makes files and appends to them. The journal's thread alone has the disk keep
them, and closes them: however slow that is, what is accepted reaches the files.
"""

from __future__ import annotations

import errno
import os
import threading

import polars as pl
from absl import logging

from monolith_keras_metrics.journal import claims
from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.claims import Claim
from monolith_keras_metrics.journal.format import Header, JournalFile, KeptFile, Place
from monolith_keras_metrics.journal.locks import TakenError


class SpoolFiles:
    """Writes the journal files of one process.

    Args:
        claim: Where they go; None for no journal.
        header: Whose records they hold.

    Attributes:
        claim: As above.
    """

    def __init__(self, claim: Claim | None, header: Header | None = None) -> None:
        self.claim = claim
        self._header = header
        self._number = 0
        self._current: JournalFile | None = None
        self._syncing = threading.Lock()  # one thread at a time
        self._lock = threading.Lock()  # for the next three; never held while a disk works
        self._open: list[JournalFile] = []
        self._kept: set[KeptFile] = set()
        self._gone: list[KeptFile] = []
        self._fails = False

    def encode(self, frame: pl.DataFrame) -> bytes:
        """Return what `append` writes for a frame; nothing where there is no journal."""
        return b"" if self.claim is None else journal.encode(frame)

    def append(self, data: bytes) -> Place | None:
        """Add an entry to the current file; when this returns, a kill does not lose it.

        Returns:
            Where it stands; None if it could not be written.
        """
        if self.claim is None or self._header is None:
            return None
        try:
            file = self._current
            if file is None or file.broken or file.kept.whole:
                self.finish_file()
                file = self._current = self._new_file(self.claim, self._header)
            place = file.append(data)
        except (OSError, TakenError) as error:
            self.note(error)
            return None
        if self._fails:
            self._fails = False
            logging.warning("Deep insight: the journal in %r works again", str(self.claim.folder))
        return place

    def finish_file(self) -> KeptFile | None:
        """Have the next entry begin a file of its own; return the file that is whole now."""
        file, self._current = self._current, None
        if file is None:
            return None
        file.kept.whole = True
        return file.kept

    def gone(self) -> list[KeptFile]:
        """Return files that are no longer what they were, each once.

        Somebody has removed them, or the disk has failed to keep them. What stood in them is to be
        appended again.
        """
        with self._lock:
            gone, self._gone = self._gone, []
        return gone

    def sync(self) -> None:
        """Make what was appended safe from a machine that stops; close whole files."""
        with self._syncing:
            self._sync()

    def look_after(self) -> None:
        """Note files that somebody has removed, also those that are closed."""
        with self._lock:
            kept = list(self._kept)
        for one in kept:
            if not one.done and not os.path.lexists(one.path):
                self._note_gone(one)

    def _sync(self) -> None:
        with self._lock:
            files = list(self._open)
        for file in files:
            whole = file.kept.whole  # asked first: nothing is appended after that
            try:
                if file.kept.entries_left and not file.sync():
                    file.broken = True
            except OSError as error:
                self.note(error)
            if file.broken:
                self._note_gone(file.kept)
            if whole:  # else the thread that writes may be at it
                self._close(file)

    def _note_gone(self, kept: KeptFile) -> None:
        with self._lock:
            if kept in self._kept:
                self._kept.discard(kept)
                self._gone.append(kept)

    def remove(self, kept: KeptFile) -> bool:
        """Remove a file that nobody needs any more, or set it aside; return True if it is gone."""
        with self._lock:
            self._kept.discard(kept)
        try:
            if kept.to_keep:
                aside = claims.set_aside(kept.path)
                logging.warning(
                    "Deep insight: not everything in a crashed process's journal was delivered; "
                    "it is set aside as %r",
                    str(aside),
                )
            else:
                kept.path.unlink(missing_ok=True)
        except OSError as error:
            logging.warning("Deep insight: %r stays: %s", str(kept.path), error)
            return False
        return True

    def detach(self) -> None:
        """In a forked process: release what belongs to the process that it came from."""
        self._lock = threading.Lock()
        for file in list(self._open):
            self._close(file)
        if self.claim is not None:
            self.claim.detach()

    def note(self, error: Exception) -> None:
        """Log that the journal cannot be written, once until it works again."""
        if not self._fails:
            self._fails = True
            logging.warning(
                "Deep insight: the journal in %r cannot be written; records wait in memory until "
                "it can, and a kill would lose them. %s: %s",
                str(self.claim.folder) if self.claim is not None else "",
                type(error).__name__,
                error,
            )

    def _new_file(self, claim: Claim, header: Header) -> JournalFile:
        claim.renew()
        while True:
            kept = KeptFile(claim, claim.file(self._number))
            self._number += 1
            try:
                file = JournalFile(kept, header)
            except FileExistsError:  # somebody has put something there
                continue
            except OSError as error:
                self._number -= 1
                if error.errno == errno.ENOENT:  # the folder has gone since
                    claim.renew()
                raise
            claim.count_files(1)
            with self._lock:
                self._open.append(file)
                self._kept.add(kept)
            return file

    def _close(self, file: JournalFile) -> None:
        with self._lock:
            self._open.remove(file)
        try:
            file.close()
        except OSError as error:  # what NFS could not write shows here
            self.note(error)
            self._note_gone(file.kept)
