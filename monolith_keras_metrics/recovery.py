"""What killed processes left in their journals is delivered by the next one with the same sinks."""

from __future__ import annotations

import os
import pathlib
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl
from absl import logging

from monolith_keras_metrics import claims, journal, sinks
from monolith_keras_metrics.claims import Claim
from monolith_keras_metrics.delivery import Delivery
from monolith_keras_metrics.record import Origin
from monolith_keras_metrics.spool import Spool


def place_of(
    places: Sequence[sinks.SinkLike], spool: str | os.PathLike[str] | None
) -> pathlib.Path | None:
    """The folder of the journal; None where records wait in memory.

    Args:
        places: The sinks.
        spool: A folder; `"auto"` for that of the first sink that has one, folders before topics;
            None for none.
    """
    if spool is None or not places:
        return None
    if spool != "auto":
        return pathlib.Path(os.path.abspath(os.path.expanduser(spool)))
    own = [place for place in map(sinks.spool_place, places) if place is not None]
    if not own and any(isinstance(place, (str, os.PathLike)) for place in places):
        logging.warning(
            "Deep insight: there is no home for a journal, so records wait in memory, and a kill "
            "loses them: name a folder with `spool`"
        )
    in_folders = [place for place in own if place.name == sinks.SPOOL_FOLDER]
    return next(iter(in_folders + own), None)


def identities(places: Sequence[sinks.SinkLike], place: pathlib.Path) -> list[str]:
    """What a journal says of its sinks, in an order that does not matter."""
    return sorted(sinks.identity(sink, place) for sink in places)


def claim(
    place: pathlib.Path, origin: Origin, places: Sequence[sinks.SinkLike]
) -> tuple[Claim | None, Origin]:
    """Claims journal files for a new client.

    Returns:
        The claim, and the origin with an attempt that nobody else has; None, after a warning,
        where there can be no journal.
    """
    while True:
        try:
            names = identities(places, place)
            stem = claims.stem_of(origin.worker, origin.attempt)
            return claims.new(place, stem, names), origin
        except claims.TakenError:
            origin = origin._replace(attempt=origin.attempt + 1)
        except OSError as error:
            logging.warning(
                "Deep insight: there can be no journal in %r, so records wait in memory, and a "
                "kill loses them: choose another folder with `spool`. %s: %s",
                str(place),
                type(error).__name__,
                error,
            )
            return None, origin


def adopt(
    spool: Spool,
    place: pathlib.Path,
    places: Sequence[sinks.SinkLike],
    opened: Sequence[sinks.Sink],
) -> None:
    """Puts into a spool what killed processes with the same sinks left."""
    own = identities(places, place)
    firsts: list[pl.DataFrame] = []
    try:
        for left in claims.leftovers(place):
            firsts += _adopt(spool, left, own)
    except OSError as error:
        logging.warning("Deep insight: journals in %r cannot be read: %s", str(place), error)
    _tell(opened, firsts)


def _tell(opened: Sequence[sinks.Sink], firsts: Sequence[pl.DataFrame]) -> None:
    """Tells sinks that want to know it what is recovered."""
    for sink in opened:
        expect = getattr(sink, "expect", None)
        if expect is not None and firsts:
            expect(firsts)


def _adopt(spool: Spool, left: Claim, own: list[str]) -> list[pl.DataFrame]:
    """Takes over one process's journal files, or leaves them, where they cannot be had.

    Returns:
        The first records of that process; none if there are none.
    """
    try:
        return _adopt_files(spool, left, own)
    except OSError as error:
        logging.warning(
            "Deep insight: the journal of a killed process, %s in %r, cannot be read and stays: %s",
            left.stem,
            str(left.folder),
            error,
        )
        left.release()
        return []


def _adopt_files(spool: Spool, left: Claim, own: list[str]) -> list[pl.DataFrame]:
    paths = left.journals()
    if paths and left.sinks != own:
        logging.warning(
            "Deep insight: %r has records of an earlier process for other sinks (%s). To deliver "
            "them: deep-insight recover %s --sink URI",
            str(left.folder),
            ", ".join(left.sinks) or "not known which",
            str(left.folder),
        )
        left.release()
        return []
    files = []
    rows = lost = 0
    for path in paths:
        places, unread = journal.scan(path)
        lost += unread
        rows += sum(place.rows for place in places)
        if places:
            files.append(places)
        else:
            path.unlink()
    if lost:
        logging.warning(
            "Deep insight: %d bytes at the end of a killed process's journal, %s, are no whole "
            "records and were cut off",
            lost,
            left.stem,
        )
    if not files:
        left.release()
        return []
    try:
        first = [journal.read(files[0][0])]
    except journal.CorruptEntryError:  # which is told when it is its turn
        first = []
    logging.info("Deep insight: %d records of a killed process, %s, are delivered", rows, left.stem)
    spool.adopt(left, files)
    return [frame for frame in first if "position" in frame.columns]


_RETRY_SECONDS = 30.0


class Recovered(NamedTuple):
    """What became of the records that were found.

    Attributes:
        delivered: Records that every sink has.
        left: Records that wait on, since a sink did not take them in time.
        lost: Records that do not read or that a sink refused.
    """

    delivered: int
    left: int
    lost: int


def recover(
    path: str | os.PathLike[str], places: Sequence[sinks.SinkLike] = (), timeout: float = 60.0
) -> Recovered:
    """Delivers what killed processes left, without a training.

    Args:
        path: The run's folder, or that of its journal.
        places: The sinks. Default: the run's folder, in its format, if the records were for
            nothing else; a journal's word alone is never a reason to write anywhere else.
        timeout: Seconds in which nothing is delivered before it ends.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If the records were for other sinks than the folder.
        OSError: If a sink cannot be written to.
    """
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"`path` must be the folder of a run. Received: path={str(path)!r}")
    place = root / sinks.SPOOL_FOLDER if (root / sinks.SPOOL_FOLDER).is_dir() else root
    found = list(claims.leftovers(place))
    try:
        with_records = [left for left in found if left.journals()]
        to = (places or _own_folder(place, with_records)) if with_records else ()
        opened = sinks.open_all(to, Origin("recover", 0, 0))
    except BaseException:
        for left in found:
            left.release()
        raise
    spool = Spool(
        [bool(getattr(sink, "gathers", False)) for sink in opened],
        None,
        memory_rows=0,
        spool_bytes=0,
        segment_seconds=0.0,
    )
    _tell(opened, [first for left in found for first in _adopt(spool, left, left.sinks)])
    spool.end()
    spool.release()
    hurry = threading.Event()
    deliveries = [
        Delivery(sink, number, spool, _RETRY_SECONDS, hurry, time.monotonic)
        for number, sink in enumerate(opened)
    ]
    for delivery in deliveries:
        delivery.start()
    deadline, seen = time.monotonic() + timeout, -1
    while time.monotonic() < deadline and not all(one.join(0.05) for one in deliveries):
        if (waits := spool.journaled(recovered=True)) != seen:
            deadline, seen = time.monotonic() + timeout, waits
    hurry.set()
    for delivery in deliveries:
        delivery.join(1.0)
    waiting = spool.journaled(recovered=True)
    return Recovered(spool.recovered["written"], waiting, spool.recovered["failed"])


def _own_folder(place: pathlib.Path, found: Sequence[Claim]) -> list[str]:
    """The sinks of a run's own folder, from what its journals say: formats, and no paths."""
    formats = [f"{name}:." for name in sinks.FOLDER_FORMATS]
    said = {name for left in found for name in left.sinks or ("unknown",)}
    if place.name != sinks.SPOOL_FOLDER or not said <= set(formats):
        raise ValueError(
            f"The records in {str(place)!r} were for {', '.join(sorted(said))}. Say where to "
            f"deliver them now: deep-insight recover {place} --sink URI, the URI as training was "
            "given it, with its options; several sinks take a --sink each"
        )
    if len({tuple(left.sinks) for left in found}) > 1:
        raise ValueError(
            f"The records in {str(place)!r} were for different sinks, {', '.join(sorted(said))}: "
            "say with --sink where to deliver them all"
        )
    return [f"{name.partition(':')[0]}:{place.parent}" for name in sorted(said)]
