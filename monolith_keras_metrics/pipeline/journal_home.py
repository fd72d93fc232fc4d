"""Choose the folder of a client's journal, and the attempt under which the client writes."""

from __future__ import annotations

import pathlib
import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import logging

from monolith_keras_metrics.journal.claims import Claim
from monolith_keras_metrics.journal.files import Files
from monolith_keras_metrics.journal.format import Header
from monolith_keras_metrics.journal.locks import TakenError
from monolith_keras_metrics.pipeline import attempts
from monolith_keras_metrics.pipeline.options import Options
from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.records.run_folder import stem_of
from monolith_keras_metrics.sinks.destination import Destination


class JournalHome(NamedTuple):
    """A client's journal.

    Attributes:
        origin: The run, attempt and worker of the records.
        name: The journal's unique name.
        is_named: Whether this training can be distinguished from others, by a run's name or a
            journal.
        files: The journal's files, which are claimed.
        folder: The journal's folder; None if records wait in memory.
        sinks: The identities of the sinks in the journal; empty without a folder.
    """

    origin: Origin
    name: str
    is_named: bool
    files: Files
    folder: pathlib.Path | None = None
    sinks: tuple[str, ...] = ()


def claim_home(
    destinations: Sequence[Destination], options: Options, clock: Callable[[], float]
) -> JournalHome:
    """Choose the attempt and claim the journal's files, before any sink is opened.

    If the journal cannot be written, a warning is logged, and the claim is made later.

    Args:
        destinations: The destinations of the records.
        options: The options, of which `run`, `worker` and `spool` are used.
        clock: Returns Unix seconds, for the attempt's number.
    """
    run = options.run or next((name for one in destinations if (name := one.run_name)), None)
    folder = folder_of(destinations, options.spool)
    attempt = attempts.new_attempt(clock, attempts.largest_seen(destinations, folder))
    origin = Origin(run or "run", attempt, int(options.worker or 0))
    name = secrets.token_hex(8)
    if folder is None:
        return JournalHome(origin, name, run is not None, Files(None))
    while True:
        claim = Claim(folder, stem_of(origin.worker, origin.attempt), name)
        try:
            claim.renew()
        except TakenError:
            origin = origin._replace(attempt=attempts.new_attempt(clock))
            continue
        except OSError as error:  # `Files` tries again when there is something to write
            logging.warning(
                "Deep insight: cannot create a journal in %r. Until that succeeds, records wait in "
                "memory and are lost if the process is killed. If the error persists, set `spool` "
                "to another folder. %s: %s",
                str(folder),
                type(error).__name__,
                error,
            )
        break
    attempts.remember(origin.attempt, destinations, folder)
    sinks = identities(destinations, folder)
    files = Files(claim, Header(name, origin.worker, origin.attempt, sinks))
    return JournalHome(origin, name, True, files, folder, sinks)


def folder_of(destinations: Sequence[Destination], spool: object) -> pathlib.Path | None:
    """Return the folder of the journal; None if records wait in memory.

    Args:
        destinations: The destinations of the records.
        spool: The option `spool`: a folder; `"auto"` for the journal folder of the first
            destination that has one, folders before topics; None for no journal.
    """
    if spool is None or not destinations:
        return None
    if spool != "auto":
        return pathlib.Path(str(spool))
    folders_first = sorted(destinations, key=lambda one: one.folder is None)
    own = [folder for one in folders_first if (folder := one.journal_folder) is not None]
    if not own and any(one.wants_journal for one in destinations):
        logging.warning(
            "Deep insight: there is no folder for a journal. Records wait in memory and are lost "
            "if the process is killed. Set `spool` to a folder"
        )
    return own[0] if own else None


def identities(destinations: Sequence[Destination], folder: pathlib.Path) -> tuple[str, ...]:
    """Return the names that identify destinations in a journal, in sorted order."""
    return tuple(sorted(one.identity(folder) for one in destinations))
