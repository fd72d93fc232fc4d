"""`Leftovers`: the journals of crashed processes, whose records this process delivers."""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import logging

from monolith_keras_metrics.journal import claims
from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.log import Account, Log, Room
from monolith_keras_metrics.journal.segment import Entry, KeptFile, Place
from monolith_keras_metrics.records.run_folder import stem_of

RECOVERY = "recovery"


class ForeignError(Exception):
    """A journal holds records for other sinks, whose identities are the arguments."""


class Found(NamedTuple):
    """The records of a crashed process.

    Attributes:
        files: Its journal files.
        places: Their entries, in the order of delivery.
    """

    files: list[KeptFile]
    places: list[Place]


class Leftovers:
    """Keep the records of crashed processes until every consumer has them.

    They have a log of their own, without bounds: they are on disk already, and are never given up
    to make room. The recovery thread calls `adopt`, `wait` and `end`.

    Args:
        consumers: Number of consumers.
        changed: As in `Log`.
        account: As in `Log`.

    Attributes:
        log: The log of the entries.
    """

    def __init__(self, consumers: int, changed: threading.Condition, account: Account) -> None:
        self.log = Log(
            consumers,
            changed,
            account,
            Room(),
            users=[RECOVERY],
            remove=self._remove,
            released=self._release,
        )
        self._account = account
        self._claims: set[claims.Claim] = set()

    def adopt(self, claim: claims.Claim, found: Found) -> None:
        """Take over what a crashed process left.

        Args:
            claim: The claim to its files.
            found: Its files and entries.
        """
        with self.log.changed:
            self._claims.add(claim)
        for place in found.places:
            self._account.adopt(place.rows)
            self.log.add(Entry(place.rows, time.monotonic(), place=place), claim.journal)
        self.log.close()
        for kept in found.files:
            self.log.finish(kept)

    def wait(self, at_most: int, stop: Callable[[], bool]) -> None:
        """Wait until at most so many processes' journals are left, or `stop` returns True."""
        with self.log.changed:
            while len(self._claims) > at_most and not stop():
                self.log.changed.wait(0.5)

    def end(self) -> None:
        """Declare that nothing more is adopted."""
        self.log.end()
        self.log.leave(RECOVERY)

    def detach(self) -> None:
        """Release what belongs to the parent process. Called in a forked process."""
        for claim in self._claims:
            claim.detach()

    def _remove(self, kept: KeptFile) -> None:
        """Remove a file, or set it aside if it has records that could not be delivered."""
        try:
            if kept.has_failed:
                aside = claims.set_aside(kept.path)
                logging.warning(
                    "Deep insight: some records in a crashed process's journal could not be "
                    "delivered. The file is set aside as %r",
                    str(aside),
                )
            else:
                kept.path.unlink()
        except FileNotFoundError:
            pass  # another program has removed it
        except OSError as error:
            logging.warning("Deep insight: cannot remove %r: %s", str(kept.path), error)
            return
        if not kept.claim.count_files(-1):
            with self.log.changed:
                self._claims.discard(kept.claim)
                self.log.changed.notify_all()
            kept.claim.release()

    def _release(self) -> None:
        for claim in self._claims:
            claim.release()


def find(
    claim: claims.Claim,
    paths: Sequence[pathlib.Path],
    sinks: tuple[str, ...] | None,
    report: Callable[[str, str], None],
) -> Found:
    """Find the records in a crashed process's journal files.

    Deletes empty files, and sets unreadable ones aside.

    Args:
        claim: The claim to the files. Learns the journal's name.
        paths: The files.
        sinks: The identities of the sinks that the records must be for; None for any.
        report: Called with a subject and a description, for what cannot be recovered.

    Raises:
        ForeignError: If the records are for other sinks.
        OSError: If a file cannot be deleted or set aside.
    """
    files: list[KeptFile] = []
    by_position: dict[int, Place] = {}
    without_position: list[Place] = []
    torn = 0
    claim.count_files(len(paths))
    for kept in [KeptFile(claim, path) for path in paths]:
        if (contents := _scan(kept, report)) is None:
            claim.count_files(-1)
            continue
        if sinks is not None and contents.header.sinks != sinks:
            raise ForeignError(*contents.header.sinks)
        claim.journal = contents.header.journal
        if contents.unreadable:
            kept.has_failed = True
            report(
                kept.path.name,
                f"{contents.unreadable:,} bytes in {str(kept.path)!r} are not records. The file is "
                "set aside once its records are delivered",
            )
        torn += contents.torn
        files.append(kept)
        for one in contents.places:
            if one.position == journal.NO_POSITION:
                without_position.append(one)
            else:  # the last copy wins, since an entry may have been written again
                by_position[one.position] = one
    if torn:
        logging.warning(
            "Deep insight: ignored %d bytes at the end of a crashed process's journal, %s: the "
            "last record is incomplete",
            torn,
            claim.stem,
        )
    return Found(files, [*without_position, *(by_position[at] for at in sorted(by_position))])


def _scan(kept: KeptFile, report: Callable[[str, str], None]) -> journal.Contents | None:
    """Return the contents of a file; None if it holds nothing to deliver."""
    path = kept.path
    try:
        contents = journal.scan(kept)
        if stem_of(contents.header.worker, contents.header.attempt) != kept.claim.stem:
            raise journal.UnreadableError("its header names another worker or attempt")
        return contents
    except FileNotFoundError:
        pass
    except OSError as error:
        why = error.strerror or error
        report(path.name, f"{str(path)!r} cannot be read and is left in place: {why}")
    except journal.NothingError:
        path.unlink(missing_ok=True)
    except journal.UnreadableError as error:
        aside = claims.set_aside(path)
        report(path.name, f"{str(path)!r}: {error}. The file is set aside as {aside.name!r}")
    return None
