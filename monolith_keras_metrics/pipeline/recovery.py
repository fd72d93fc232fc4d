"""`recover`: deliver the journals of crashed processes without a training run."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from monolith_keras_metrics.journal import claims
from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.regular import probe
from monolith_keras_metrics.journal.segment import KeptFile
from monolith_keras_metrics.pipeline.journal_home import identities
from monolith_keras_metrics.pipeline.outlet import Outlet
from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.sinks import Destination, SinkLike, open_all, parse_all
from monolith_keras_metrics.sinks.folder import FolderDestination


class Recovered(NamedTuple):
    """The outcome of a recovery.

    Attributes:
        delivered: Number of records that every sink has.
        left: Number of records that still wait, because a sink did not write them in time.
        lost: Number of records that were unreadable or refused by a sink. Their journal files are
            set aside.
        problems: Descriptions of what else could not be recovered, one sentence each.
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
    """Deliver the records that crashed processes left; return the outcome.

    Args:
        path: The run's folder, or the folder of its journal.
        places: The sinks. Default: the run's folder in its format, if the records were for it
            alone. A journal is untrusted, so it never selects any other sink.
        timeout: Seconds without progress after which recovery ends.
        redirect: Whether to deliver records for other sinks to `places`, too.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If `places` is empty and the records were for other sinks than the folder.
        OSError: If a sink cannot be written to.
    """
    root = pathlib.Path(os.path.abspath(os.path.expanduser(path)))
    if not root.is_dir():
        raise FileNotFoundError(f"`path` must be the folder of a run. Received: path={str(path)!r}")
    place = run_folder.journal_of(root)
    if redirect and not places:
        raise ValueError(
            "`places` must name at least one sink if `redirect` is True. Received: no sink"
        )
    to = parse_all(places) or _own_folder(place)
    if not any(claims.listing(place).journals.values()):
        to = []  # no sink is opened needlessly
    outlet = Outlet(
        open_all(to, Origin("recover", 0, 0)), place, identities(to, place), redirect=redirect
    )
    for thread in outlet.threads:
        thread.start()
    deadline, seen = time.monotonic() + timeout, (-1, 0)
    while time.monotonic() < deadline and not all(one.join(0.05) for one in outlet.threads):
        if (progress := outlet.progress()) != seen:
            deadline, seen = time.monotonic() + timeout, progress
    outlet.hurry.set()
    outlet.stop()
    for thread in outlet.threads:
        thread.join(1.0)
    outlet.close()
    aside = claims.listing(place).aside
    problems = [*outlet.adoption.problems] if outlet.adoption is not None else []
    if aside:
        problems.append(
            f"{len(aside)} files in {str(place)!r} are set aside, because some of their records "
            f"could not be delivered: {', '.join(aside[:3])}{', …' if aside[3:] else ''}. To retry "
            "a file, rename it to end in .journal; otherwise delete it"
        )
    stats = outlet.recovered.stats()
    return Recovered(stats.written, stats.spooled, stats.failed, tuple(problems))


def _own_folder(place: pathlib.Path) -> list[Destination]:
    """Return the sinks of a run's own folder: its journals may select formats, but no paths."""
    claim = claims.Claim(place, "", "", uids=probe(place).uids)
    said: set[tuple[str, ...]] = set()
    for paths in claims.listing(place).journals.values():
        for path in paths:
            with contextlib.suppress(journal.UnreadableError, OSError):  # the adoption reports it
                said.add(journal.read_header(KeptFile(claim, path)).sinks)
    names = {name for sinks_of_one in said for name in sinks_of_one}
    formats = [f"{name}:." for name in run_folder.FORMATS]
    if not names:
        return []
    if place.name != run_folder.JOURNAL or not names <= set(formats):
        raise ValueError(
            f"The records in {str(place)!r} were for {', '.join(sorted(names))}. Name these sinks: "
            f"deep-insight recover {place} --sink URI, with the same URI and options as in "
            "training, and one --sink for each sink. To deliver to other sinks, add --redirect"
        )
    if len(said) > 1:
        raise ValueError(
            f"The records in {str(place)!r} were for different sinks: {', '.join(sorted(names))}. "
            "Name the sinks to deliver to with --sink"
        )
    return [FolderDestination(name.partition(":")[0], place.parent) for name in sorted(names)]
