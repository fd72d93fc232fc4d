"""`recover`: delivers what crashed processes left in their journals, without a training."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from monolith_keras_metrics.journal import claims
from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.claims import Claim
from monolith_keras_metrics.journal.format import KeptFile, UnreadableError
from monolith_keras_metrics.journal.regular import probe
from monolith_keras_metrics.pipeline.journal_home import identities
from monolith_keras_metrics.pipeline.outlet import Outlet
from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.sinks import Destination, SinkLike, open_all, parse_all
from monolith_keras_metrics.sinks.folder import FolderDestination


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
    outlet = Outlet(
        open_all(to, Origin("recover", 0, 0)), place, identities(to, place), redirect=redirect
    )
    for thread in outlet.threads:
        thread.start()
    deadline, seen = time.monotonic() + timeout, -1
    while time.monotonic() < deadline and not all(one.join(0.05) for one in outlet.threads):
        if (waits := outlet.recovered.fates().journaled) != seen:
            deadline, seen = time.monotonic() + timeout, waits
    outlet.hurry.set()
    outlet.stop()
    for thread in outlet.threads:
        thread.join(1.0)
    outlet.close()
    aside = claims.listing(place).aside
    problems = [*outlet.adoption.problems] if outlet.adoption is not None else []
    if aside:
        problems.append(
            f"{len(aside)} files in {str(place)!r} are set aside, since not everything in them "
            f"could be delivered: {', '.join(aside[:3])}{', …' if aside[3:] else ''}. Rename one "
            "to end in .journal to have it tried again, or remove it"
        )
    fates = outlet.recovered.fates()
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
