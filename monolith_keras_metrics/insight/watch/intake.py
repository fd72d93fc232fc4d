"""Which records are measured, and how far in time each worker is.

**Watermark.** Records of one worker come about in the order of their times; workers may be apart.
So the watermark, up to which no more records are expected, is the time of the worker that is
farthest behind. A worker that was silent for `idle` seconds does not hold it back, unless there is
something of it that was not read yet. If no worker holds it back, everything there is has been
read, and all windows may be closed.

Records from the future, by a wrong clock or unit, would close all windows. They are left out.

**Visits.** As in `summary`, only the first visit of an example is measured, but what is published
cannot be taken back: the first record counts, and not that of the last attempt. A restored training
visits again what it had recorded since its checkpoint. These are the records of a later attempt
that are not newer than the newest of its worker's earlier attempts. (With windows by `train_time`,
records need not be in the order of `req_time`, and no attempt is compared with another.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import polars as pl

from monolith_keras_metrics.insight import long
from monolith_keras_metrics.insight.rows import Time
from monolith_keras_metrics.records.schema import SCHEMA
from monolith_keras_metrics.threads import WarnOnce

_PLAIN = ("uid", "req_time", "train_time", "label", "predict", "sample_rate", "from_logits")
_ORIGIN = ("run", "worker", "attempt")
_AHEAD_SECONDS = 3600.0  # that a clock may be ahead
GRACE_SECONDS = 60.0
"""How long after the first file of a run other workers may come with theirs."""


class Intake:
    """What is known of the records so far.

    Args:
        fields: The fields that windows and rules need.
        time: The column that decides a record's window.
        mode: The mode whose records are measured; "" for all.
        model: The model whose records are measured; "" for that of the first record.
        idle: After how many seconds a silent worker does not hold back the watermark.
        clock: Returns the time, Unix seconds.

    Attributes:
        model: The model; "" while it is not known.
        counts: Numbers of records that were read but not measured, by reason.
    """

    def __init__(
        self,
        fields: Collection[str],
        time: Time,
        mode: str,
        model: str,
        idle: float,
        clock: Callable[[], float],
    ) -> None:
        self.model = model
        self.counts = dict.fromkeys(("revisits", "replays", "untimed", "future", "others"), 0)
        self._fields = [*fields]
        self._time = time
        self._mode = mode
        self._idle = idle
        self._clock = clock
        self._first_heard: float | None = None
        self._newest: dict[str, list[float]] = {}  # of each worker: its time, and when it was heard
        self._attempts: dict[str, list[int | None]] = {}  # attempt, its newest time, that before it
        self._warn_once = WarnOnce()

    def memory(self) -> dict[str, Any]:
        """Return what has to be remembered, as JSON."""
        return {
            "model": self.model,
            "counts": self.counts,
            "first_heard": self._first_heard,
            "newest": self._newest,
            "attempts": self._attempts,
        }

    def remember(self, memory: dict[str, Any]) -> None:
        """Take up what `memory` returned."""
        self.model = self.model or memory["model"]
        self.counts = memory["counts"]
        self._first_heard = memory["first_heard"]
        self._newest, self._attempts = memory["newest"], memory["attempts"]

    def take(self, part: str, records: pl.DataFrame, heard: float) -> pl.DataFrame:
        """Return the records that are measured, with the columns that this needs.

        Args:
            part: The part of the source that they come from.
            records: Records, as `open_run` gives them.
            heard: When they came, Unix seconds.
        """
        heard = min(heard, self._clock())
        self._first_heard = heard if self._first_heard is None else self._first_heard
        records = self._of_the_model(records)
        origin = [name for name in _ORIGIN if name in records.columns]
        is_one = all(records.get_column(name).n_unique() <= 1 for name in origin)
        by = [records] if is_one else records.partition_by(origin, maintain_order=True)
        kept = [self._of_worker(part, own, heard) for own in by if own.height]
        taken = pl.concat(kept) if kept else records.clear()
        return self._columns(taken)

    def watermark(self, behind: Collection[str]) -> float | None:
        """Return the time up to which no more records are expected.

        Args:
            behind: The parts of the source with something that was not read yet.

        Returns:
            Unix seconds; the present if everything was read, and all workers are silent; None if
            nothing is known of a part, or other workers may only be beginning.
        """
        now = self._clock()
        if self._first_heard is not None and now < self._first_heard + GRACE_SECONDS:
            return None
        known = {key.split("/", 1)[0] for key in self._newest}
        if not known.issuperset(behind):
            return None
        expected = [
            newest
            for key, (newest, heard) in self._newest.items()
            if heard + self._idle > now or key.split("/", 1)[0] in behind
        ]
        return min(expected, default=now)

    def _of_the_model(self, records: pl.DataFrame) -> pl.DataFrame:
        """Return the records of the mode and the model, that have a time and are first visits."""
        columns = records.columns
        if "mode" in columns and self._mode:
            records = records.filter(pl.col("mode").fill_null(self._mode) == self._mode)
        if "model_name" in columns and records.height:
            names = records.get_column("model_name").fill_null("")
            self.model = self.model or names[0]
            mine = names == self.model
            if others := records.height - int(mine.sum()):
                self.counts["others"] += others
                self._warn_once(
                    "model",
                    "records of other models than %r are not measured. Watch them with --model",
                    self.model,
                )
                records = records.filter(mine)
        if "epoch" in columns:
            records = self._without(records, pl.col("epoch").fill_null(0) > 0, "revisits")
        if self._time not in columns:
            self.counts["untimed"] += records.height
            return records.clear()
        time = pl.col(self._time)
        records = self._without(records, time.is_null() | (time < 0), "untimed")
        return self._without(records, time > self._clock() + _AHEAD_SECONDS, "future")

    def _of_worker(self, part: str, records: pl.DataFrame, heard: float) -> pl.DataFrame:
        """Return the records of one attempt of a worker without replays, and note its time."""
        first = {name: records.get_column(name)[0] for name in _ORIGIN if name in records.columns}
        worker = f"{first.get('run')}/{first.get('worker')}"
        newest = records.get_column(self._time).max()
        assert isinstance(newest, int)
        attempt = first.get("attempt")
        if self._time == "req_time" and attempt is not None:
            known = self._attempts.setdefault(worker, [attempt, None, None])
            if attempt > (known[0] or 0):
                known[:] = [attempt, None, max((one for one in known[1:] if one), default=None)]
            if known[2] is not None and attempt == known[0]:
                records = self._without(records, pl.col("req_time") <= known[2], "replays")
            known[1] = max(known[1] or newest, newest)
        key = f"{part}/{worker}"
        before = self._newest.get(key, [newest, heard])
        self._newest[key] = [max(before[0], newest), max(before[1], heard)]
        return records

    def _without(self, records: pl.DataFrame, which: pl.Expr, reason: str) -> pl.DataFrame:
        if not records.height:
            return records
        kept = records.filter(~which)
        self.counts[reason] += records.height - kept.height
        return kept

    def _columns(self, records: pl.DataFrame) -> pl.DataFrame:
        """Return the columns that are needed, with fields under their own names."""
        form = long.take_apart(records.lazy())
        fields = [name for name in self._fields if name in form.kept]
        extras = form.flat(fields).collect() if fields else pl.DataFrame()
        missing = [name for name in self._fields if name not in fields]
        for name in missing:
            there = [one for one in form.kept if one not in SCHEMA]
            self._warn_once(name, "no record has the field %r yet; there are %s", name, there)
        plain = [name for name in _PLAIN if name in records.columns]
        if "train_time" not in plain:
            missing = [*missing, "train_time"]
        columns: Sequence[Any] = [
            *(records.get_column(name) for name in plain),
            *(extras.get_column(name) for name in fields),
        ]
        return pl.DataFrame(columns).with_columns(
            pl.lit(None, pl.Int64 if name == "train_time" else pl.String).alias(name)
            for name in missing
        )
