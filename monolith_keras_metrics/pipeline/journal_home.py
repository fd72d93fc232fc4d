"""Where a client's journal is, and under which attempt it writes there."""

from __future__ import annotations

import functools
import pathlib
import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import logging

from monolith_keras_metrics.journal import claims
from monolith_keras_metrics.journal.claims import Claim
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
        origin: Who writes.
        name: The journal's name, which no other journal has.
        is_named: Whether anything tells this training from others: a run's name, or a journal.
        folder: The journal's folder; None if records wait in memory.
        claim: The right to its files; None without a folder.
        header: What its files say of themselves; None without a folder.
    """

    origin: Origin
    name: str
    is_named: bool
    folder: pathlib.Path | None = None
    claim: Claim | None = None
    header: Header | None = None


def claim_home(
    destinations: Sequence[Destination], options: Options, clock: Callable[[], float]
) -> JournalHome:
    """Choose the attempt and claim the journal's files, before any sink is opened.

    Args:
        destinations: Where records go.
        options: Says where the journal is, and which run and worker write.
        clock: Returns Unix seconds; makes the attempt's number.
    """
    run_names = [name for one in destinations if (name := one.run_name)]
    run = options.run or next(iter(run_names), None)
    folder = folder_of(destinations, options.spool)
    attempt = attempts.new_attempt(clock, attempts.largest_seen(destinations, folder))
    origin = Origin(run or "run", attempt, int(options.worker or 0))
    name = secrets.token_hex(8)
    if folder is None:
        return JournalHome(origin, name, is_named=run is not None)
    claim, origin = _claim(folder, origin, name, functools.partial(attempts.new_attempt, clock))
    attempts.remember(origin.attempt, destinations, folder)
    header = Header(name, origin.worker, origin.attempt, identities(destinations, folder))
    return JournalHome(origin, name, True, folder, claim, header)


def folder_of(destinations: Sequence[Destination], spool: object) -> pathlib.Path | None:
    """Return the folder of the journal; None where records wait in memory.

    Args:
        destinations: Where records go.
        spool: The option: a folder; `"auto"` for that of the first destination that has one,
            folders before topics; None for none.
    """
    if spool is None or not destinations:
        return None
    if spool != "auto":
        return pathlib.Path(str(spool))
    own = [(one, folder) for one in destinations if (folder := one.journal_folder) is not None]
    if not own and any(one.wants_journal for one in destinations):
        logging.warning(
            "Deep insight: there is no home for a journal, so records wait in memory, and a kill "
            "loses them: name a folder with `spool`"
        )
    in_folders = [folder for one, folder in own if one.folder is not None]
    return next(iter([*in_folders, *(folder for _, folder in own)]), None)


def identities(destinations: Sequence[Destination], folder: pathlib.Path) -> tuple[str, ...]:
    """Return the names by which a journal knows its destinations, in sorted order."""
    return tuple(sorted(one.identity(folder) for one in destinations))


def _claim(
    folder: pathlib.Path, origin: Origin, name: str, another: Callable[[], int]
) -> tuple[Claim, Origin]:
    """Claim journal files.

    Args:
        folder: The folder of the journals.
        origin: Who writes.
        name: The journal's name.
        another: Returns another attempt, if somebody has that of `origin`.

    Returns:
        The claim, and the origin with an attempt that nobody else has. Where the journal cannot be
        written now, which is logged, the claim is tried again when there is something to write.
    """
    while True:
        stem = stem_of(origin.worker, origin.attempt)
        try:
            return claims.claim_new(folder, stem, name), origin
        except TakenError:
            origin = origin._replace(attempt=another())
        except OSError as error:
            logging.warning(
                "Deep insight: there can be no journal in %r now, so records wait in memory until "
                "there can, and a kill loses them. If that is to stay so, choose another folder "
                "with `spool`. %s: %s",
                str(folder),
                type(error).__name__,
                error,
            )
            return Claim(folder, stem, name), origin
