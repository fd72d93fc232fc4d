"""`watch`: follow a run beside its training, and publish its windows and alerts."""

from __future__ import annotations

import os
import pathlib
import re
import threading
from collections.abc import Callable, Sequence

import polars as pl
from absl import logging

from monolith_keras_metrics.insight import dataset
from monolith_keras_metrics.insight.alerts.alarms import Alarms
from monolith_keras_metrics.insight.alerts.rule_file import RuleFile
from monolith_keras_metrics.insight.check import seconds_of
from monolith_keras_metrics.insight.items import Item, Window, moment
from monolith_keras_metrics.insight.publish import publisher_of
from monolith_keras_metrics.insight.publish.publisher import Publisher
from monolith_keras_metrics.insight.rows import Time
from monolith_keras_metrics.insight.state import named_measures
from monolith_keras_metrics.insight.watch.blobs import Prefixed
from monolith_keras_metrics.insight.watch.delivery import Delivery
from monolith_keras_metrics.insight.watch.folder import Folder
from monolith_keras_metrics.insight.watch.following import Following
from monolith_keras_metrics.insight.watch.source import Source
from monolith_keras_metrics.insight.watch.store import FILE, Store
from monolith_keras_metrics.insight.watch.sums import MEASURES
from monolith_keras_metrics.insight.watch.watcher import Settings, Watcher
from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.schema import SCHEMA
from monolith_keras_metrics.threads import WarnOnce

LOOK_SECONDS = 1.0
"""Interval between looks for something new, if nothing was there."""

_NO_FIELDS = {*SCHEMA, "target", "window"} - {"model_name", "mode", "run", "worker", "attempt"}
_CALENDAR = re.compile("mo|q|y")  # lengths that differ
_KEEP_SECONDS = 90 * 86_400  # of windows that all publishers have
_EVERY = 100  # windows, after which old ones are deleted
_LAST_SECONDS = 10.0  # for publishers at the end
_STALLED_SECONDS = 60.0  # the same for a watch that ends by itself
_DRAIN_SECONDS = 0.2
_TRIES_ONCE = 5  # of a source that cannot be read; a file that stays so is skipped before
_TRIES = 4  # of a publisher, after which it is not waited for at the end
_LONGEST_REST = 30.0  # after failures


def watch(
    run: str | os.PathLike[str],
    to: str | Publisher | Sequence[str | Publisher] = (),
    rules: str | os.PathLike[str] | None = None,
    *,
    window: str = "1h",
    by: str | Sequence[str] = (),
    measures: str | Sequence[str] | None = None,
    time: Time = "req_time",
    lateness: str = "5m",
    idle: str = "15m",
    most: int = 200,
    mode: str = "train",
    model: str = "",
    state: str | os.PathLike[str] | None = None,
    once: bool = False,
    final: bool = False,
    told: Callable[[Item], None] | None = None,
    stop: threading.Event | None = None,
) -> dict[str, int]:
    """Follow a run beside its training, and publish its windows and alerts.

    A window of time is closed as soon as no more records of it are expected. Its measures are then
    published once, at its own time, whatever becomes of this process: what was read, what came of
    it and who has it already is kept in one file, step by step. Start it again, and it goes on.

    Args:
        run: A run's folder or a topic, as for `open_run`.
        to: Where to publish: `"tensorboard:DIR"`, `"prometheus://HOST:PORT"`,
            `"prometheus:/FILE.prom"`, `"wandb:PROJECT/RUN"`, `"mlflow:EXPERIMENT/RUN"`,
            `"webhook:URL"`, a `Publisher`, or several of these.
        rules: A file of rules, which raise alerts.
        window: The length of a window, such as `"1h"`: a fixed number of seconds.
        by: Extra fields, by whose values windows are published, too.
        measures: The measures that are published. Default: `MEASURES`.
        time: The column that decides a record's window. Take `"train_time"` if training does not
            see examples in the order of their requests.
        lateness: For how long a window stays open for records that are out of order, in their time.
        idle: After which silence a worker does not hold windows open any longer.
        most: How many values of a field are told apart. Further ones are published as `"other"`.
        mode: The mode whose records are measured; `""` for all.
        model: The model whose records are measured. Default: that of the first record.
        state: The folder for the file with the state. Default: `.watch` in the run's folder. A
            topic needs one.
        once: Whether to end once everything there is has been read and published. Default: a
            folder that does not exist yet is waited for, and so is all that comes.
        final: Whether training has ended, so that all windows are closed at the end, as with
            `once`.
        told: Called with each item, once it is committed.
        stop: Ends it, after what was begun is committed.

    Returns:
        Numbers of records: `records` that were measured, `late` ones of these, and those that were
        not, by reason; and `undelivered`, the number of items that a publisher could not take.

    Raises:
        ValueError: If an argument is invalid, another process watches with the same state, or the
            state was begun with other arguments.
        FileNotFoundError: If the run does not exist.
        ImportError: If the extra of a publisher is not installed.
        OSError: If `once`, and the run or the state cannot be read or written.
        RuntimeError: If the state cannot be read while a window is closed. Start it again: it goes
            on from what was committed.

    Example:
    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> message = '{"uid":7,"req_time":60,"label":{"ctr":1.0},"predict":{"ctr":0.75}}'
    >>> with open(os.path.join(folder, "worker-00000.jsonl"), "w") as file:
    ...     print(message, file=file)
    >>> watch(folder, once=True, final=True)["records"]
    1
    >>> watched(folder).select("target", "examples", "mean_prediction").rows()
    [('ctr', 1.0, 0.75)]
    """
    fields = tuple(dict.fromkeys([by] if isinstance(by, str) else by))
    _check_fields("by", fields)
    names = MEASURES if measures is None else [one.name for one in named_measures(measures)]
    seconds = seconds_of("window", window)
    if _CALENDAR.search(window):
        raise ValueError(
            f"`window` must be a fixed number of seconds, such as '1h' or '7d'. Received: "
            f"window={window!r}"
        )
    settings = Settings(window, seconds, time, fields, tuple(names), most, mode, model)
    if time not in ("req_time", "train_time"):
        raise ValueError(f"`time` must be 'req_time' or 'train_time'. Received: time={time!r}")
    if most < 1:
        raise ValueError(f"`most` must be at least 1. Received: most={most!r}")
    late, silent = seconds_of("lateness", lateness, 0), seconds_of("idle", idle, 0)
    once = once or final
    stop = stop or threading.Event()
    if not once:
        _wait_for(run, stop)
    folder = state_folder(run, state)
    source = _source(run, time)
    store = Store(folder)
    try:
        judge = None
        if rules is not None:
            file = RuleFile.read(rules)
            for rule in file.rules:
                _check_fields(f"by` of the rule `{rule.name}", rule.by)
            judge = Alarms(file, seconds, Prefixed(store.blobs, "rules/"))
        watcher = Watcher(source, store, settings, judge, late, silent)
        publishers = _publishers(to, store.id)
        loop = _Loop(watcher, source, store, publishers, told, stop)
        loop.start()
        try:
            loop.run(once, final)
        finally:
            undelivered = loop.end(_STALLED_SECONDS if once else _LAST_SECONDS)
        return {**watcher.totals, "open": watcher.open_windows(), "undelivered": undelivered}
    finally:
        source.close()
        store.close()


def watched(
    run: str | os.PathLike[str], *, state: str | os.PathLike[str] | None = None
) -> pl.DataFrame:
    """Return the windows that `watch` has closed, with the late records that came since.

    Args:
        run: The run, as for `watch`, which may be following it.
        state: The folder with the state, as for `watch`.

    Returns:
        A row per window, target and value: `window`, `target`, `field` and `value` (null for all
        records), and the measures.

    Raises:
        FileNotFoundError: If it was never watched.
    """
    folder = state_folder(run, state)
    if not (folder / FILE).exists():
        raise FileNotFoundError(
            f"`run` must be watched by deep-insight watch. Received: {os.fspath(run)!r}, of which "
            f"there is no state in {str(folder)!r}"
        )
    rows = [
        {
            "window": moment(window.start),
            "target": one.target,
            "field": one.field,
            "value": one.value,
            **one.measures,
        }
        for window in Store.windows_in(folder)
        for one in window.series
    ]
    texts = dict.fromkeys(("target", "field", "value"), pl.String())
    known = {"window": pl.Datetime("us", "UTC"), **texts}
    names = {name for row in rows for name in row} - known.keys()
    overrides = {**known, **dict.fromkeys(names, pl.Float64())}
    if not rows:
        return pl.DataFrame(schema=known)
    return pl.DataFrame(rows, schema_overrides=overrides, infer_schema_length=None)


def state_folder(run: str | os.PathLike[str], state: str | os.PathLike[str] | None) -> pathlib.Path:
    """Return the folder of the state.

    Raises:
        ValueError: If a topic has none.
    """
    if state is not None:
        return pathlib.Path(state).expanduser()
    if dataset.TOPIC.fullmatch(os.fspath(run)):
        raise ValueError(
            "`state` must name a folder for what is known of a topic, such as "
            "'~/.local/state/watch-ctr'. Received: none"
        )
    return dataset.locate(run)[1] / run_folder.WATCH


def _wait_for(run: str | os.PathLike[str], stop: threading.Event) -> None:
    """Wait for a folder that training has not made yet."""
    is_told = False
    while not stop.is_set() and not dataset.TOPIC.fullmatch(os.fspath(run)):
        try:
            dataset.locate(run)
        except FileNotFoundError:
            if not is_told:
                logging.warning("deep-insight watch: waiting for %s, which does not exist", run)
            is_told = True
            stop.wait(LOOK_SECONDS)
        else:
            return


def _check_fields(name: str, fields: Sequence[str]) -> None:
    for field in fields:
        if not field or field in _NO_FIELDS:
            raise ValueError(
                f"`{name}` must be extra fields, or model_name, mode, run, worker or attempt. "
                f"Received: {field!r}"
            )


def _publishers(to: str | Publisher | Sequence[str | Publisher], run: str) -> list[Publisher]:
    given = [to] if isinstance(to, (str, Publisher)) else [*to]
    return [publisher_of(one, run) if isinstance(one, str) else one for one in given]


def _source(run: str | os.PathLike[str], time: Time) -> Source:
    if topic := dataset.TOPIC.fullmatch(os.fspath(run)):
        return Following(topic[1], time)
    return Folder(run, time)


class _Loop:
    """A watcher, the publishers of what it finds, and how they begin and end."""

    def __init__(
        self,
        watcher: Watcher,
        source: Source,
        store: Store,
        publishers: Sequence[Publisher],
        told: Callable[[Item], None] | None,
        stop: threading.Event,
    ) -> None:
        self._watcher = watcher
        self._store = store
        self._told = told
        self._stop = stop
        once_each = {publisher.identity: publisher for publisher in publishers}
        self._deliveries = [Delivery(publisher, store) for publisher in once_each.values()]
        self._warn_once = WarnOnce()
        self._windows = 0
        self._newest = 0

    def start(self) -> None:
        """Start the publishers."""
        for delivery in self._deliveries:
            delivery.start()

    def run(self, once: bool, final: bool) -> None:
        """Read until stopped, or if once until everything is read."""
        failures = 0
        while not self._stop.is_set():
            try:
                items = self._watcher.step(final)
            except OSError as error:
                failures += 1
                if once and failures > _TRIES_ONCE:
                    raise
                self._warn_once("away", "tried again, nothing is lost: %s", error)
                if once:
                    continue
                self._stop.wait(min(LOOK_SECONDS * 2**failures, _LONGEST_REST))
                continue
            failures = 0
            self._warn_once.forget("away")
            self._tell(items)
            watcher = self._watcher
            if watcher.has_read or watcher.has_more or watcher.is_behind() or items:
                continue
            if once:
                return
            self._stop.wait(LOOK_SECONDS)

    def end(self, timeout: float) -> int:
        """Have the publishers take what they can, and return how many items are left.

        Args:
            timeout: How long to wait for a publisher that makes no progress.
        """
        for delivery in self._deliveries:
            identity, waited = delivery.publisher.identity, 0.0
            left = self._store.backlog(identity)
            while not delivery.drain(_DRAIN_SECONDS, _TRIES) and not delivery.has_failed(_TRIES):
                before, left = left, self._store.backlog(identity)
                is_moving = left < before and not self._stop.is_set()
                waited = 0.0 if is_moving else waited + _DRAIN_SECONDS
                if waited >= (min(timeout, _LAST_SECONDS) if self._stop.is_set() else timeout):
                    break
        self._forget()
        for delivery in self._deliveries:
            delivery.stop(1.0)
        return sum(self._store.backlog(one.publisher.identity) for one in self._deliveries)

    def _tell(self, items: Sequence[Item]) -> None:
        if not items:
            return
        for delivery in self._deliveries:
            delivery.wake()
        if self._told is not None:
            for item in items:
                self._tell_one(item)
        starts = [item.start for item in items if isinstance(item, Window)]
        self._windows += len(starts)
        self._newest = max(starts, default=self._newest)
        if self._windows >= _EVERY:
            self._windows = 0
            self._forget()

    def _tell_one(self, item: Item) -> None:
        assert self._told is not None
        try:
            self._told(item)
        except BrokenPipeError:  # nobody reads it any more
            raise
        except OSError as error:  # a full disk, say, behind the standard output
            self._warn_once("told", "what is found cannot be printed: %s", error)

    def _forget(self) -> None:
        """Delete old windows that all publishers have."""
        if self._newest:
            identities = [one.publisher.identity for one in self._deliveries]
            self._store.forget_items(self._newest - _KEEP_SECONDS, identities)
