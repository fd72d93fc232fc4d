"""Adopt the journals of crashed processes, so that their records are delivered."""

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

# Most journals adopted at once: each claim holds a file descriptor.
_MOST_CLAIMS = 64
# Interval between looks: processes may crash later, or on machines whose locks are invisible here.
_LOOK_SECONDS = 60.0


class Adoption(BackgroundThread):
    """Move the records of crashed processes into a spool, a few journals at a time.

    Args:
        spool: The spool that the sinks take the records from.
        place: The folder of the journals.
        own: Identities of the sinks. Records for other sinks are left alone.
        redirect: Whether to deliver records for other sinks to these sinks, too.
        idle: Called when every record of crashed processes has been dealt with.
        again: Whether to look again every minute until `stop` is called.
        hurry: Event that stops adoption, because the process is about to exit.

    Attributes:
        problems: Descriptions of what could not be recovered, one sentence each.
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
        self._reported: set[str] = set()  # journals and files to skip: each is logged once

    def stop(self) -> None:
        """Request the end of the thread after its first look. Does not wait."""
        self._stopping.set()

    def _recover(self) -> None:
        try:
            while True:
                try:
                    self._look()
                except OSError as error:
                    self._report("", f"cannot read the journals in {str(self._place)!r}: {error}")
                self._spool.wait_for_claims(0, self._is_ending)
                if not self._is_ending():
                    self._idle()
                if not self._again or self._stopping.wait(_LOOK_SECONDS) or self._hurry.is_set():
                    return
        except BaseException:  # a defect of this file: the journals stay on disk
            logging.exception("Deep insight: the recovery thread has failed")
        finally:
            self._spool.end_adopting()

    def _is_ending(self) -> bool:
        return self._hurry.is_set() or self._stopping.is_set()

    def _look(self) -> None:
        """Adopt every journal that has no living owner."""
        stems = [s for s in claims.listing(self._place).journals if s not in self._reported]
        while stems and not self._hurry.is_set():
            self._spool.wait_for_claims(_MOST_CLAIMS // 2, self._hurry.is_set)
            some, stems = stems[: _MOST_CLAIMS // 2], stems[_MOST_CLAIMS // 2 :]
            found = probe(self._place)
            held = [claim for stem in some if (claim := self._claim(stem, found)) is not None]
            # Listed again, since an owner that has just died may have added files.
            files = claims.listing(self._place).journals if held else {}
            for claim in held:
                self._adopt(claim, files.get(claim.stem, []), found)

    def _claim(self, stem: str, found: Probe) -> Claim | None:
        try:
            return claims.claim_left(self._place, stem, found)
        except NotOursError as error:
            self._report(stem, f"{stem} in {str(self._place)!r} is left alone: {error.strerror}")
        except OSError as error:
            self._report(stem, f"{stem} in {str(self._place)!r} cannot be claimed: {error}")
        return None

    def _adopt(self, claim: Claim, paths: Sequence[pathlib.Path], found: Probe) -> None:
        try:
            adopted = self._adopt_files(claim, paths, found)
        except OSError as error:
            adopted = False
            self._report(
                claim.stem,
                f"the journal of a crashed process, {claim.stem} in {str(claim.folder)!r}, cannot "
                f"be read and is left in place: {error.strerror or error}",
            )
        if not adopted:
            claim.release()

    def _adopt_files(self, claim: Claim, paths: Sequence[pathlib.Path], found: Probe) -> bool:
        """Return True if the spool took the files. Otherwise the caller releases the claim."""
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
                    raise UnreadableError("its header names another worker or attempt")
            except FileNotFoundError:
                claim.count_files(-1)
                continue
            except OSError as error:
                claim.count_files(-1)
                why = error.strerror or error
                self._report(path.name, f"{str(path)!r} cannot be read and is left in place: {why}")
                continue
            except NothingError:
                path.unlink(missing_ok=True)
                claim.count_files(-1)
                continue
            except UnreadableError as error:
                aside = claims.set_aside(path)
                claim.count_files(-1)
                self._report(
                    path.name, f"{str(path)!r}: {error}. The file is set aside as {aside.name!r}"
                )
                continue
            if header.sinks != self._own and not self._redirect:
                self._report(
                    claim.stem,
                    f"{str(claim.folder)!r} has records of an earlier process for other sinks "
                    f"({', '.join(header.sinks)}). To deliver them there, run: deep-insight "
                    f"recover {claim.folder} --sink URI{_about_objects(header.sinks)}",
                )
                return False
            claim.journal = header.journal
            if contents.unreadable:
                kept.to_keep = True
                self._report(
                    path.name,
                    f"{contents.unreadable:,} bytes in {str(path)!r} are not records. The file is "
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
                "Deep insight: ignored %d bytes at the end of a crashed process's journal, %s: "
                "the last record is incomplete",
                torn,
                claim.stem,
            )
        if not files:
            return False
        places = [*without_position, *(by_position[at] for at in sorted(by_position))]
        logging.info(
            "Deep insight: delivering %d records of a crashed process, %s",
            sum(one.rows for one in places),
            claim.stem,
        )
        self._spool.adopt(claim, files, places)
        return True

    def _report(self, subject: str, problem: str) -> None:
        """Log a problem once for each subject. Later looks skip the subject."""
        if subject not in self._reported:
            self._reported.add(subject)
            self.problems.append(problem)
            logging.warning("Deep insight: %s", problem)


def _about_objects(identities: Sequence[str]) -> str:
    """Return the hint for records of a sink object without an identity; "" for other sinks."""
    if not any(name.startswith("object:") and "#" in name for name in identities):
        return ""
    return (
        " --redirect (the records were for a sink object without an `identity`, which another "
        "process cannot recognise: see `sinks.Sink`)"
    )
