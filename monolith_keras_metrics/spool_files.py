"""The journal files of a spool: written, made durable, removed, left to the next process.

Whatever may have to wait for a disk is here, and is done while nobody holds the spool's lock. The
background thread alone writes and closes files; whoever settles a file's last entry removes it.
"""

from __future__ import annotations

import polars as pl
from absl import logging

from monolith_keras_metrics import journal
from monolith_keras_metrics.claims import Claim, TakenError
from monolith_keras_metrics.segments import Segment


class SpoolFiles:
    """Writes the journal files of one process.

    Args:
        claim: Where they go; None for no journal.
    """

    def __init__(self, claim: Claim | None) -> None:
        self.claim = claim
        self._number = 0
        self._open: list[Segment] = []
        self._fails = False

    def encode(self, frame: pl.DataFrame) -> bytes:
        """What `append` writes for a frame; nothing where there is no journal."""
        return b"" if self.claim is None else journal.encode(frame)

    def append(self, segment: Segment, data: bytes, rows: int) -> journal.Place | None:
        """Adds an entry to a segment's file; when this returns, a kill does not lose it.

        Returns:
            Where it stands; None if it waits in memory alone.
        """
        # A file of only the end of a segment would be another portion after a kill than before.
        in_memory = segment.entries and segment.entries[0].place is None
        if self.claim is None or in_memory:
            return None
        try:
            if segment.file is None:
                self.claim.renew()
                segment.path = self.claim.journal(self._number)
                self._number += 1
                segment.file = journal.JournalFile(segment.path)
                self._open.append(segment)
            place = segment.file.append(data, rows)
        except (OSError, TakenError) as error:
            self._note(error)
            return None
        if self._fails:
            self._fails = False
            logging.warning("Deep insight: the journal in %r works again", str(self.claim.folder))
        return place

    def sync(self) -> bool:
        """Makes what was appended safe from a machine that stops; lets go of whole files.

        Returns:
            Whether the files are still where they were: else somebody has removed them.
        """
        here = True
        for segment in list(self._open):
            try:
                if segment.file is not None and segment.entries_left:
                    here &= segment.file.sync() or segment.closed
            except OSError as error:
                self._note(error)
            else:
                if segment.closed:
                    self._close(segment)
        return here

    def finish(self) -> None:
        """Makes everything durable: nothing more is appended."""
        self.sync()
        for segment in list(self._open):
            self._close(segment)

    def remove(self, segment: Segment) -> None:
        """Removes the file of a segment that nobody needs any more."""
        if segment.path is not None:
            try:
                segment.path.unlink(missing_ok=True)
            except OSError as error:
                logging.warning("Deep insight: %r stays: %s", str(segment.path), error)

    def forget(self) -> None:
        """In a forked process: lets go of what belongs to the process that it came from."""
        for segment in list(self._open):
            self._close(segment)
        if self.claim is not None:
            self.claim.forget()

    def _close(self, segment: Segment) -> None:
        self._open.remove(segment)
        file, segment.file = segment.file, None
        try:
            if file is not None:
                file.close()
        except OSError as error:  # what NFS could not write shows here
            self._note(error)

    def _note(self, error: Exception) -> None:
        if not self._fails:
            self._fails = True
            logging.warning(
                "Deep insight: the journal in %r cannot be written; records wait in memory, and a "
                "kill would lose them. %s: %s",
                str(self.claim.folder) if self.claim is not None else "",
                type(error).__name__,
                error,
            )
