"""Write, sync and remove the journal files of a process.

All operations that may wait for a disk are here. They run without the log's lock. Only the
encoder's thread creates files and appends to them. Only the journal's thread syncs and closes them,
so that a slow disk does not keep accepted examples from the files.
"""

from __future__ import annotations

import errno
import os
import threading

import polars as pl
from absl import logging

from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.claims import Claim
from monolith_keras_metrics.journal.locks import TakenError
from monolith_keras_metrics.journal.regular import open_regular
from monolith_keras_metrics.journal.segment import KeptFile, Place
from monolith_keras_metrics.records.durable import make_durable
from monolith_keras_metrics.threads import WarnOnce


class JournalFile:
    """A new journal file to append frames to.

    The encoder's thread calls all methods except `sync` and `close`, which the journal's thread
    calls.

    Args:
        kept: The file. Its path must not exist.
        header: The header of the file.

    Raises:
        OSError: If the file exists or cannot be created.
    """

    def __init__(self, kept: KeptFile, header: journal.Header) -> None:
        self.kept = kept
        self.broken = False  # True if nothing more can be appended or safely stored
        self._descriptor = open_regular(kept.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._size = 0
        self._synced_size = 0
        self._name_is_durable = False
        try:
            self._write(journal.file_header(header))
        except BaseException:
            os.close(self._descriptor)
            kept.path.unlink(missing_ok=True)
            raise

    def append(self, entry: bytes) -> Place:
        """Write an entry and return its place. The entry then survives a SIGKILL.

        Args:
            entry: The entry, as returned by `encode`.

        Raises:
            OSError: If the entry cannot be written. The file is then unchanged, or `broken`.
        """
        offset = self._size
        self._write(entry)
        return journal.place_of(entry, self.kept, offset)

    def sync(self) -> bool:
        """Sync the file to disk, so that its entries survive a crash of the machine.

        Returns:
            True if the file still exists; False if another program has removed it.

        Raises:
            OSError: If the disk fails. The file is then `broken`, because the system considers the
                unsynced data written and does not retry.
        """
        size = self._size
        if self._synced_size < size:
            try:
                os.fsync(self._descriptor)
            except OSError:
                self.broken = True
                raise
            self._synced_size = size
        if not self._name_is_durable:
            try:
                make_durable(self.kept.path.parent)
            except FileNotFoundError:
                return False
            self._name_is_durable = True
        return os.fstat(self._descriptor).st_nlink > 0

    def close(self) -> None:
        """Close the file. It stays on disk."""
        os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            try:
                os.ftruncate(self._descriptor, self._size)
                os.lseek(self._descriptor, self._size, os.SEEK_SET)
            except OSError:  # the torn entry cannot be removed
                self.broken = True
            raise
        self._size += len(data)


class Files:
    """Write the journal files of one process.

    Args:
        claim: The claim to the files; None for no journal.
        header: The header of the files; None for no journal.

    Attributes:
        claim: As above.
    """

    def __init__(self, claim: Claim | None, header: journal.Header | None = None) -> None:
        self.claim = claim
        self._header = header
        self._number = 0
        self._current: JournalFile | None = None
        self._syncing = threading.Lock()  # one thread at a time
        self._lock = threading.Lock()  # for the next three; never held during disk access
        self._open: list[JournalFile] = []
        self._kept: set[KeptFile] = set()
        self._gone: list[KeptFile] = []
        self._warn_once = WarnOnce()

    def encode(self, frame: pl.DataFrame) -> bytes:
        """Return the bytes of a frame for `append`.

        Empty without a journal, and if they cannot be made now; `Writer` retries that.
        """
        if self.claim is None:
            return b""
        try:
            return journal.encode(frame)
        except (Exception, pl.exceptions.PanicException) as error:
            self._note(error)
            return b""

    def append(self, data: bytes) -> Place | None:
        """Append an entry to the current file. The entry then survives a SIGKILL.

        Returns:
            The place of the entry; None if it could not be written.
        """
        if self.claim is None or self._header is None:
            return None
        try:
            file = self._current
            if file is None or file.broken or file.kept.whole:
                if file is not None and file.broken:
                    self._note_gone(file.kept)  # what is in it is written again, and it is removed
                self.finish_file()
                file = self._current = self._new_file(self.claim, self._header)
            place = file.append(data)
        except (OSError, TakenError) as error:
            self._note(error)
            return None
        if self._warn_once.forget("writing"):
            logging.warning("Deep insight: the journal in %r works again", str(self.claim.folder))
        return place

    def finish_file(self) -> KeptFile | None:
        """Finish the current file and return it; None if there is none.

        The next entry begins a new file.
        """
        file, self._current = self._current, None
        if file is None:
            return None
        file.kept.whole = True
        return file.kept

    def gone(self) -> list[KeptFile]:
        """Return the files that are lost, each once.

        Another program has removed them, or the disk has failed to store them. Their entries must
        be appended again.
        """
        with self._lock:
            gone, self._gone = self._gone, []
        return gone

    def sync(self) -> None:
        """Sync the files, so that they survive a crash of the machine; close complete ones."""
        with self._syncing:
            with self._lock:
                files = list(self._open)
            for file in files:
                whole = file.kept.whole  # read before the sync, which must include the last entry
                try:
                    if file.kept.entries_left and not file.sync():
                        file.broken = True
                except OSError as error:
                    self._note(error)
                if file.broken:
                    self._note_gone(file.kept)
                if whole:  # otherwise the encoder's thread may still append
                    self._close(file)

    def look_after(self) -> None:
        """Show that the owner is alive, and find files that another program has removed."""
        if self.claim is not None:
            self.claim.beat()
        with self._lock:
            kept = list(self._kept)
        for one in kept:
            if not one.done and not os.path.lexists(one.path):
                self._note_gone(one)

    def _note_gone(self, kept: KeptFile) -> None:
        with self._lock:
            if kept in self._kept:
                self._kept.discard(kept)
                self._gone.append(kept)

    def remove(self, kept: KeptFile) -> None:
        """Remove a file for which nobody waits."""
        with self._lock:
            self._kept.discard(kept)
        try:
            kept.path.unlink(missing_ok=True)
        except OSError as error:
            logging.warning("Deep insight: cannot remove %r: %s", str(kept.path), error)
        else:
            kept.claim.count_files(-1)

    def release(self) -> None:
        """Release the claim, so that another process can recover the remaining files."""
        if self.claim is not None:
            self.claim.release()

    def detach(self) -> None:
        """Release what belongs to the parent process. Called in a forked process."""
        self._lock = threading.Lock()
        for file in list(self._open):
            self._close(file)
        if self.claim is not None:
            self.claim.detach()

    def _note(self, error: Exception) -> None:
        """Log that the journal cannot be written, once until it works again."""
        self._warn_once(
            "writing",
            "the journal in %r cannot be written. Records wait in memory until it can, and are "
            "lost if the process is killed. %s: %s",
            str(self.claim.folder) if self.claim is not None else "",
            type(error).__name__,
            error,
        )

    def _new_file(self, claim: Claim, header: journal.Header) -> JournalFile:
        claim.renew()
        while True:
            kept = KeptFile(claim, claim.file(self._number))
            self._number += 1
            try:
                file = JournalFile(kept, header)
            except FileExistsError:  # another program has put a file there
                continue
            except OSError as error:
                self._number -= 1
                if error.errno == errno.ENOENT:  # the folder was removed meanwhile
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
        except OSError as error:  # NFS reports failed writes on close
            self._note(error)
            self._note_gone(file.kept)
