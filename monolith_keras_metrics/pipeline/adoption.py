"""Adopt the journals of crashed processes, so that their records are delivered."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Callable, Sequence

from absl import logging

from monolith_keras_metrics.journal import claims
from monolith_keras_metrics.journal.leftovers import ForeignError, Leftovers, find
from monolith_keras_metrics.journal.regular import NotOursError, Probe, probe
from monolith_keras_metrics.threads import BackgroundThread, WarnOnce

# Most journals adopted at once: each claim holds a file descriptor.
_MOST_CLAIMS = 64
# Interval between looks: processes may crash later, or on machines whose locks are invisible here.
_LOOK_SECONDS = 60.0


class Adoption(BackgroundThread):
    """Adopt the journals of crashed processes, a few at a time.

    The thread looks at least once, even if `stop` is called before.

    Args:
        leftovers: Where the sinks find the records.
        place: The folder of the journals.
        own: Identities of the sinks. Records for other sinks are left alone. None accepts all.
        idle: Called when every record of crashed processes has been dealt with.
        again: Whether to look again every minute until `stop` is called.
        hurry: Event that stops adoption, because the process is about to exit.

    Attributes:
        problems: Descriptions of what could not be recovered, one sentence each.
    """

    def __init__(
        self,
        leftovers: Leftovers,
        place: pathlib.Path,
        own: tuple[str, ...] | None,
        *,
        idle: Callable[[], None],
        again: bool,
        hurry: threading.Event,
    ) -> None:
        super().__init__(self._recover, "deep-insight-recovery")
        self.problems: list[str] = []
        self._leftovers = leftovers
        self._place = place
        self._own = own
        self._idle = idle
        self._again = again
        self._hurry = hurry
        self._warn_once = WarnOnce()  # its subjects are journals and files, which are then skipped

    def _recover(self) -> None:
        try:
            while True:
                try:
                    self._look()
                except OSError as error:
                    self._report("", f"cannot read the journals in {str(self._place)!r}: {error}")
                self._leftovers.wait(0, self._is_ending)
                if not self._is_ending():
                    self._idle()
                if not self._again or self._stopping.wait(_LOOK_SECONDS) or self._hurry.is_set():
                    return
        except BaseException:  # a defect of this file: the journals stay on disk
            logging.exception("Deep insight: the recovery thread has failed")
        finally:
            self._leftovers.end()

    def _is_ending(self) -> bool:
        return self._hurry.is_set() or self._stopping.is_set()

    def _look(self) -> None:
        """Adopt every journal that has no living owner."""
        stems = [s for s in claims.listing(self._place).journals if s not in self._warn_once]
        while stems and not self._hurry.is_set():
            self._leftovers.wait(_MOST_CLAIMS // 2, self._hurry.is_set)
            some, stems = stems[: _MOST_CLAIMS // 2], stems[_MOST_CLAIMS // 2 :]
            found = probe(self._place)
            held = [claim for stem in some if (claim := self._claim(stem, found)) is not None]
            # Listed again, since an owner that has just died may have added files.
            files = claims.listing(self._place).journals if held else {}
            for claim in held:
                self._adopt(claim, files.get(claim.stem, []))

    def _claim(self, stem: str, found: Probe) -> claims.Claim | None:
        try:
            return claims.claim_left(self._place, stem, found)
        except NotOursError as error:
            self._report(stem, f"{stem} in {str(self._place)!r} is left alone: {error.strerror}")
        except OSError as error:
            self._report(stem, f"{stem} in {str(self._place)!r} cannot be claimed: {error}")
        return None

    def _adopt(self, claim: claims.Claim, paths: Sequence[pathlib.Path]) -> None:
        """Adopt a journal's files, or release the claim."""
        try:
            found = find(claim, paths, self._own, self._report)
        except ForeignError as error:
            self._report(
                claim.stem,
                f"{str(claim.folder)!r} has records of an earlier process for other sinks "
                f"({', '.join(error.args)}). To deliver them there, run: deep-insight recover "
                f"{claim.folder} --sink URI{_about_objects(error.args)}",
            )
        except OSError as error:
            self._report(
                claim.stem,
                f"the journal of a crashed process, {claim.stem} in {str(claim.folder)!r}, cannot "
                f"be read and is left in place: {error.strerror or error}",
            )
        else:
            if found.files:
                logging.info(
                    "Deep insight: delivering %d records of a crashed process, %s",
                    sum(one.rows for one in found.places),
                    claim.stem,
                )
                self._leftovers.adopt(claim, found)
                return
        claim.release()

    def _report(self, subject: str, problem: str) -> None:
        """Log a problem once for each subject. Later looks skip the subject."""
        if self._warn_once(subject, "%s", problem):
            self.problems.append(problem)


def _about_objects(identities: Sequence[str]) -> str:
    """Return the hint for records of a sink object without an identity; "" for other sinks."""
    if not any(name.startswith("object:") and "#" in name for name in identities):
        return ""
    return (
        " --redirect (the records were for a sink object without an `identity`, which another "
        "process cannot recognise: see `sinks.Sink`)"
    )
