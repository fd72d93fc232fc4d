"""Adopts what crashed processes left in their journals, so that it is delivered."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Callable, Sequence

from absl import logging

from monolith_keras_metrics.journal import claims
from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.claims import Claim
from monolith_keras_metrics.journal.format import KeptFile, NothingError, Place, UnreadableError
from monolith_keras_metrics.journal.regular import NotOursError, Probe, probe
from monolith_keras_metrics.journal.spool import Spool
from monolith_keras_metrics.records.run_folder import stem_of
from monolith_keras_metrics.threads import BackgroundThread

# Of how many crashed processes the files are held at once: each takes a descriptor.
_AT_ONCE = 64
# What crashes later, or lives on a machine whose locks are not seen here, is found then.
_AGAIN_SECONDS = 60.0


class Adoption(BackgroundThread):
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
