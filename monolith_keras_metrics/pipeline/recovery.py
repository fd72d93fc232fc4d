"""Delivers what crashed processes left in their journals, to the sinks that it was for."""

from __future__ import annotations

import os
import pathlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import logging

from monolith_keras_metrics.journal import claims
from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.claims import Claim
from monolith_keras_metrics.journal.decoder import Decoder
from monolith_keras_metrics.journal.files import SpoolFiles
from monolith_keras_metrics.journal.format import KeptFile, NothingError, Place, UnreadableError
from monolith_keras_metrics.journal.locks import TakenError
from monolith_keras_metrics.journal.regular import NotOursError, Probe, probe
from monolith_keras_metrics.journal.spool import RECOVERY, Spool
from monolith_keras_metrics.pipeline.delivery import Delivery
from monolith_keras_metrics.pipeline.ledger import Ledger
from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.records.run_folder import stem_of
from monolith_keras_metrics.sinks import Destination, Sink, SinkLike, open_all, parse_all
from monolith_keras_metrics.sinks.folder import FolderDestination
from monolith_keras_metrics.threads import BackgroundThread

# Of how many crashed processes the files are held at once: each takes a descriptor.
_AT_ONCE = 64
# What crashes later, or lives on a machine whose locks are not seen here, is found then.
_AGAIN_SECONDS = 60.0
_RETRY_SECONDS = 30.0


def place_of(
    destinations: Sequence[Destination], spool: str | os.PathLike[str] | None
) -> pathlib.Path | None:
    """Return the folder of the journal; None where records wait in memory.

    Args:
        destinations: Where records go.
        spool: A folder; `"auto"` for that of the first sink that has one, folders before topics;
            None for none.
    """
    if spool is None or not destinations:
        return None
    if spool != "auto":
        return pathlib.Path(os.path.abspath(os.path.expanduser(spool)))
    own = [(one, folder) for one in destinations if (folder := one.journal_folder) is not None]
    if not own and any(one.wants_journal for one in destinations):
        logging.warning(
            "Deep insight: there is no home for a journal, so records wait in memory, and a kill "
            "loses them: name a folder with `spool`"
        )
    in_folders = [folder for one, folder in own if one.folder is not None]
    return next(iter([*in_folders, *(folder for _, folder in own)]), None)


def identities(destinations: Sequence[Destination], place: pathlib.Path) -> tuple[str, ...]:
    """Return what a journal says of its sinks, in an order that does not matter."""
    return tuple(sorted(one.identity(place) for one in destinations))


def spool_of_others(
    opened: Sequence[Sink], changed: threading.Condition, ledger: Ledger, decoder: Decoder
) -> Spool:
    """Return a spool for what crashed processes left.

    Args:
        opened: The sinks.
        changed: As of `Spool`.
        ledger: Where it is noted what becomes of it.
        decoder: Reads what other processes wrote.
    """
    return Spool(
        [bool(getattr(sink, "gathers", False)) for sink in opened],
        SpoolFiles(None),
        changed,
        ledger,
        threads=[RECOVERY],
        read=decoder.read,
    )


class Recovery(BackgroundThread):
    """Puts what crashed processes left into a spool, a few of them at a time.

    Args:
        spool: Where to; from there the sinks take it.
        place: The folder of the journals.
        own: What identifies the sinks. What is for others is left alone.
        redirect: Whether the sinks get what was for others, too.
        idle: Called when nothing of crashed processes is left.
        again: Whether to look again, now and then, until `stop` is called.
        hurry: Once set, nothing more is adopted: the process wants to end.

    Attributes:
        problems: What could not be recovered, a sentence each.
    """

    def __init__(
        self,
        spool: Spool,
        place: pathlib.Path,
        own: tuple[str, ...],
        *,
        idle: Callable[[], None],
        redirect: bool = False,
        again: bool = True,
        hurry: threading.Event,
    ) -> None:
        super().__init__(self._recover, "deep-insight-recovery")
        self.problems: list[str] = []
        self._spool = spool
        self._place = place
        self._own = own
        self._idle = idle
        self._redirect = redirect
        self._again = again
        self._hurry = hurry
        self._stopping = threading.Event()
        self._left_alone: set[str] = set()  # stems that are for others, or not to be had

    def stop(self) -> None:
        """Have it end after the first look is through; does not wait."""
        self._stopping.set()

    def _recover(self) -> None:
        try:
            while True:
                try:
                    self._look()
                except OSError as error:
                    self._tell("", f"journals in {str(self._place)!r} cannot be read: {error}")
                self._spool.wait_for_claims(0, self._is_ending)
                if not self._is_ending():
                    self._idle()
                if not self._again or self._stopping.wait(_AGAIN_SECONDS) or self._hurry.is_set():
                    return
        except BaseException:  # of a defect here: what was left stays
            logging.exception("Deep insight: recovery has ended")
        finally:
            self._spool.end_adopting()

    def _is_ending(self) -> bool:
        return self._hurry.is_set() or self._stopping.is_set()

    def _look(self) -> None:
        """Adopt everything that is there and nobody owns."""
        stems = [s for s in claims.listing(self._place).journals if s not in self._left_alone]
        while stems and not self._hurry.is_set():
            self._spool.wait_for_claims(_AT_ONCE // 2, self._hurry.is_set)
            some, stems = stems[: _AT_ONCE // 2], stems[_AT_ONCE // 2 :]
            found = probe(self._place)
            held = [claim for stem in some if (claim := self._claim(stem, found)) is not None]
            # Listed again: what an owner that lived a moment ago has added since is ours, too.
            files = claims.listing(self._place).journals if held else {}
            for claim in held:
                self._adopt(claim, files.get(claim.stem, []), found)

    def _claim(self, stem: str, found: Probe) -> Claim | None:
        try:
            return claims.claim_left(self._place, stem, found)
        except NotOursError as error:
            self._tell(stem, f"{stem} in {str(self._place)!r} is left alone: {error.strerror}")
        except OSError as error:
            self._tell(stem, f"{stem} in {str(self._place)!r} cannot be claimed: {error}")
        return None

    def _adopt(self, claim: Claim, paths: Sequence[pathlib.Path], found: Probe) -> None:
        try:
            adopted = self._adopt_files(claim, paths, found)
        except OSError as error:
            adopted = False
            self._tell(
                claim.stem,
                f"the journal of a crashed process, {claim.stem} in {str(claim.folder)!r}, cannot "
                f"be read and stays: {error.strerror or error}",
            )
        if not adopted:
            claim.release()

    def _adopt_files(self, claim: Claim, paths: Sequence[pathlib.Path], found: Probe) -> bool:
        """Return True if the spool has them now; else the claim is to be released."""
        claim.count_files(len(paths))
        files: list[KeptFile] = []
        by_position: dict[int, Place] = {}
        without_position: list[Place] = []
        torn = 0
        for path in paths:
            kept = KeptFile(claim, path)
            try:
                contents = journal.scan(kept, found.uids)
                header = contents.header
                if stem_of(header.worker, header.attempt) != claim.stem:
                    raise UnreadableError("it says that it is of another worker or attempt")
            except FileNotFoundError:
                claim.count_files(-1)
                continue
            except OSError as error:
                claim.count_files(-1)
                why = error.strerror or error
                self._tell(path.name, f"{str(path)!r} cannot be read and stays: {why}")
                continue
            except NothingError:
                path.unlink(missing_ok=True)
                claim.count_files(-1)
                continue
            except UnreadableError as error:
                aside = claims.set_aside(path)
                claim.count_files(-1)
                self._tell(path.name, f"{str(path)!r}: {error}. It is set aside as {aside.name!r}")
                continue
            if header.sinks != self._own and not self._redirect:
                self._tell(
                    claim.stem,
                    f"{str(claim.folder)!r} has records of an earlier process for other sinks "
                    f"({', '.join(header.sinks)}). To deliver them there: deep-insight recover "
                    f"{claim.folder} --sink URI{_about_objects(header.sinks)}",
                )
                return False
            claim.journal = header.journal
            if contents.unreadable:
                kept.to_keep = True
                self._tell(
                    path.name,
                    f"{contents.unreadable:,} bytes in {str(path)!r} are no records; it is set "
                    "aside when the others are delivered",
                )
            torn += contents.torn
            files.append(kept)
            for one in contents.places:
                if one.position == journal.NO_POSITION:
                    without_position.append(one)
                else:  # an entry that was written again stands in a later file
                    by_position[one.position] = one
        if torn:
            logging.warning(
                "Deep insight: %d bytes at the end of a crashed process's journal, %s, are no "
                "whole records and were cut off",
                torn,
                claim.stem,
            )
        if not files:
            return False
        places = [*without_position, *(by_position[at] for at in sorted(by_position))]
        logging.info(
            "Deep insight: %d records of a crashed process, %s, are delivered",
            sum(one.rows for one in places),
            claim.stem,
        )
        self._spool.adopt(claim, files, places)
        return True

    def _tell(self, subject: str, problem: str) -> None:
        """Log a problem, once for each subject, and leave it alone from then on."""
        if subject not in self._left_alone:
            self._left_alone.add(subject)
            self.problems.append(problem)
            logging.warning("Deep insight: %s", problem)


def _about_objects(identities: Sequence[str]) -> str:
    """Tell why nobody takes what was for a sink object without an identity."""
    if not any(name.startswith("object:") and "#" in name for name in identities):
        return ""
    return (
        " --redirect. (It was for a sink object without an `identity`, which another process "
        "cannot know again: see `sinks.Sink`)"
    )


class Recovered(NamedTuple):
    """What became of the records that were found.

    Attributes:
        delivered: Records that every sink has.
        left: Records that wait on, since a sink did not take them in time.
        lost: Records that do not read or that a sink refused; what they stood in is set aside.
        problems: What else could not be recovered, a sentence each.
    """

    delivered: int
    left: int
    lost: int
    problems: tuple[str, ...] = ()


def recover(
    path: str | os.PathLike[str],
    places: Sequence[SinkLike] = (),
    timeout: float = 60.0,
    *,
    redirect: bool = False,
) -> Recovered:
    """Deliver what crashed processes left, without a training.

    Args:
        path: The run's folder, or that of its journal.
        places: The sinks. Default: the run's folder, in its format, if the records were for
            nothing else; a journal's word alone is never a reason to write anywhere else.
        timeout: Seconds in which nothing is delivered before it ends.
        redirect: Whether `places` get what was meant for other sinks, too.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If the records were for other sinks than the folder.
        OSError: If a sink cannot be written to.
    """
    root = pathlib.Path(os.path.abspath(os.path.expanduser(path)))
    if not root.is_dir():
        raise FileNotFoundError(f"`path` must be the folder of a run. Received: path={str(path)!r}")
    place = run_folder.journal_of(root)
    if redirect and not places:
        raise ValueError("`redirect` needs `places`: say where to deliver what was for others")
    to = parse_all(places) or _own_folder(place)
    if not any(claims.listing(place).journals.values()):
        to = []  # which are not opened for nothing
    hurry = threading.Event()
    opened = open_all(to, Origin("recover", 0, 0))
    decoder = Decoder(probe(place).uids)
    ledger = Ledger()
    spool = spool_of_others(opened, threading.Condition(), ledger, decoder)
    recovery = Recovery(
        spool,
        place,
        identities(to, place),
        idle=decoder.close,
        redirect=redirect,
        again=False,
        hurry=hurry,
    )
    deliveries = [
        Delivery(sink, number, [spool], _RETRY_SECONDS, hurry, time.monotonic)
        for number, sink in enumerate(opened)
    ]
    threads: list[BackgroundThread] = [recovery, *deliveries]
    for thread in threads:
        thread.start()
    deadline, seen = time.monotonic() + timeout, -1
    while time.monotonic() < deadline and not all(one.join(0.05) for one in threads):
        if (waits := ledger.fates().journaled) != seen:
            deadline, seen = time.monotonic() + timeout, waits
    hurry.set()
    spool.release()
    for thread in threads:
        thread.join(1.0)
    decoder.close()
    aside = claims.listing(place).aside
    problems = [*recovery.problems]
    if aside:
        problems.append(
            f"{len(aside)} files in {str(place)!r} are set aside, since not everything in them "
            f"could be delivered: {', '.join(aside[:3])}{', …' if aside[3:] else ''}. Rename one "
            "to end in .journal to have it tried again, or remove it"
        )
    fates = ledger.fates()
    return Recovered(fates.written, fates.journaled, fates.failed, tuple(problems))


def _own_folder(place: pathlib.Path) -> list[Destination]:
    """Return a run folder's own sinks, from what its journals say: formats, and no paths."""
    found = probe(place)
    said: set[tuple[str, ...]] = set()
    for paths in claims.listing(place).journals.values():
        for path in paths:
            try:
                kept = KeptFile(Claim(place, "", ""), path)
                said.add(journal.read_header(kept, found.uids).sinks)
            except (UnreadableError, OSError):
                continue  # which is told when it is its turn
    names = {name for sinks_of_one in said for name in sinks_of_one}
    formats = [f"{name}:." for name in run_folder.FORMATS]
    if not names:
        return []
    if place.name != run_folder.JOURNAL or not names <= set(formats):
        raise ValueError(
            f"The records in {str(place)!r} were for {', '.join(sorted(names))}. Say where to "
            f"deliver them now: deep-insight recover {place} --sink URI, the URI as training was "
            "given it, with its options; several sinks take a --sink each. What was for other "
            "sinks than these is delivered with --redirect"
        )
    if len(said) > 1:
        raise ValueError(
            f"The records in {str(place)!r} were for different sinks, {', '.join(sorted(names))}: "
            "say with --sink where to deliver them"
        )
    return [FolderDestination(name.partition(":")[0], place.parent) for name in sorted(names)]


def new_claim(
    place: pathlib.Path, origin: Origin, name: str, another: Callable[[], int]
) -> tuple[Claim, Origin]:
    """Claim journal files for a new client.

    Args:
        place: The folder of the journals.
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
            return claims.claim_new(place, stem, name), origin
        except TakenError:
            origin = origin._replace(attempt=another())
        except OSError as error:
            logging.warning(
                "Deep insight: there can be no journal in %r now, so records wait in memory until "
                "there can, and a kill loses them. If that is to stay so, choose another folder "
                "with `spool`. %s: %s",
                str(place),
                type(error).__name__,
                error,
            )
            return Claim(place, stem, name), origin
