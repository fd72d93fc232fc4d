"""How often each rule would have fired, had the run been watched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.insight import dataset, steps
from monolith_keras_metrics.insight.alerts.alarms import NO_DATA, Alarms
from monolith_keras_metrics.insight.alerts.durations import FORM, seconds_of, text_of_seconds
from monolith_keras_metrics.insight.alerts.rule_file import RuleFile
from monolith_keras_metrics.insight.asks import of_records
from monolith_keras_metrics.insight.items import Alert, moment
from monolith_keras_metrics.insight.rows import check_times, lazy
from monolith_keras_metrics.insight.states import Records

_RECORDS = 500_000  # that are held at a time, if no window has more
_TIME = pl.Datetime("us", "UTC")
_ALERTS: dict[str, pl.DataType | type[pl.DataType]] = {
    "name": pl.String,
    "target": pl.String,
    "group": pl.String,
    "fired": _TIME,
    "since": _TIME,
    "resolved": _TIME,
    "firing_seconds": pl.Int64,
    "span": pl.String,
    "value": pl.Float64,
    "value_low": pl.Float64,
    "value_high": pl.Float64,
    "evidence": pl.Float64,
    "asked": pl.Float64,
    "culprit": pl.String,
    "share": pl.Float64,
    "severity": pl.String,
    "text": pl.String,
}
_RULES: dict[str, pl.DataType | type[pl.DataType]] = {
    "name": pl.String,
    "rule": pl.String,
    "by": pl.String,
    "fired": pl.Int64,
    "firing_now": pl.Int64,
    "firing_seconds": pl.Int64,
    "firing_share": pl.Float64,
}


class Replay(NamedTuple):
    """What would have fired.

    Attributes:
        alerts: A row per alert that fired, in order: `name`, `target`, `group`; when it `fired`,
            `since` when the fault was there, and when it was `resolved`, in UTC, null if it still
            fires at the end; `firing_seconds`; the `span` that decided, its `value` with
            `value_low` and `value_high`, `evidence` and `asked`; the first `culprit` and its
            `share`; `severity`; and `text`.
        rules: A row per rule, also if it never fired: `name`, `rule`, `by`; how often it `fired`,
            and how many of these alerts still fire at the end; for how many seconds any of them
            was firing, and for what share of the time.
        start: When the time begins, Unix seconds.
        end: When it ends.
        time: The column whose gaps decide whether there were data.
    """

    alerts: pl.DataFrame
    rules: pl.DataFrame
    start: int
    end: int
    time: str


def replay_alerts(
    records: Records,
    rules: RuleFile | str | os.PathLike[str],
    window: str = "1h",
    since: str | None = None,
) -> Replay:
    """Tell what would have fired, and when, had a run been watched with these rules.

    Windows are closed one after the other, as `deep-insight watch` closes them: by `req_time`, each
    complete. So nothing is late, and alerts can be some minutes earlier than they would have been.

    Args:
        records: Records or a run, as for `summary`.
        rules: A file of rules, or what `RuleFile.read` or `RuleFile.of` returned.
        window: The length of a window: rules are judged when one closes.
        since: A length of time, such as `"30d"`: only records whose `req_time` is at most that much
            older than the newest. Default: all. The watch then begins there.

    Returns:
        The alerts and a summary of each rule: see `Replay`. Whether there were no data is decided
        by the gaps of `train_time`, or of `req_time` if the records have no `train_time`.

    Raises:
        OSError: If the file of rules cannot be read.
        ValueError: If it is not understood, if `records` does not hold records with `req_time`, or
            if an argument is invalid.

    Example:
    Half of 8,000 users click, in each of two hours, and the model promises 0.6 in the second.

    >>> from monolith_keras_metrics.insight import RuleFile
    >>> records = pl.DataFrame({
    ...     "uid": [*range(8_000)] * 2, "req_time": [60] * 8_000 + [3_660] * 8_000,
    ...     "label": [{"ctr": user % 2.0} for user in range(8_000)] * 2,
    ...     "predict": [{"ctr": 0.5}] * 8_000 + [{"ctr": 0.7}] * 8_000,
    ... })
    >>> found = replay_alerts(records, RuleFile.of("0.9 <= calibration <= 1.1"))
    >>> found.alerts.select(pl.col("since").dt.hour(), "span", pl.col("value").round(3)).rows()
    [(1, '2h', 1.2)]
    """
    file = rules if isinstance(rules, RuleFile) else RuleFile.read(rules)
    length, back = _seconds("window", window), None if since is None else _seconds("since", since)
    source = dataset.open_run(records) if isinstance(records, (str, os.PathLike)) else lazy(records)
    schema = source.collect_schema()
    if "req_time" not in schema:
        raise ValueError(
            f"`records` must have a column 'req_time'. Received: columns {schema.names()}"
        )
    check_times(schema)
    time = pl.col("req_time")
    if back is not None:
        newest = source.select(time.max()).collect().item()
        source = source.filter(time > (newest or 0) - back)
    sizes = (
        source.filter(time.is_not_null())
        .group_by(start=time // length * length)
        .len()
        .sort("start")
        .collect()
    )
    if sizes.is_empty():
        raise ValueError("`records` must hold records with a 'req_time'. Received: none")
    alarms = Alarms(file, length, {})
    found: list[Alert] = []
    closing = steps.begin("closing", sizes.height, "windows")
    for start, window_records in _windows(source, sizes, length):
        states = [of_records(window_records.lazy(), ask) for ask in alarms.asks]
        end = start + length

        def recent(at: int, end: int = end) -> pl.LazyFrame:
            return source.filter(time.is_between(at, end, closed="left"))

        found += alarms.close(start, end, states, recent)
        closing.done += 1
    first, last = sizes.item(0, "start"), sizes.item(-1, "start") + length
    column, gaps = _gaps(source, alarms)
    return _replayed(file, [*found, *gaps], first, last, column)


def _windows(
    source: pl.LazyFrame, sizes: pl.DataFrame, length: int
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield the records of each window, of which there are `sizes`; several are read at once."""
    time = pl.col("req_time")
    numbered = sizes.with_columns(portion=(pl.col("len").cum_sum() - 1) // _RECORDS)
    for together in numbered.partition_by("portion", maintain_order=True):
        starts = together.get_column("start")
        begin, end = starts[0], starts[-1] + length
        records = source.filter(time.is_between(begin, end, closed="left")).collect()
        for start in starts:
            yield start, records.filter(time.is_between(start, start + length, closed="left"))


def _gaps(source: pl.LazyFrame, alarms: Alarms) -> tuple[str, list[Alert]]:
    """Return the column whose gaps tell that there were no data, and their alerts."""
    column = "req_time"
    if "train_time" in source.collect_schema():
        ends = source.select(first=pl.col("train_time").min(), last=pl.col("train_time").max())
        first, last = ends.collect().row(0)
        if first != last:
            column = "train_time"
    after = alarms.rules.no_data
    if after is None:
        return column, []
    times = source.select(pl.col(column).drop_nulls().cast(pl.Int64).unique().sort()).collect()
    long = times.with_columns(next=pl.col(column).shift(-1)).filter(
        pl.col("next") - pl.col(column) >= after.after
    )
    alerts = []
    for newest, coming in long.iter_rows():
        alerts += alarms.look(newest + after.after, newest)
        alerts += alarms.look(coming, coming)
    return column, alerts


def _replayed(file: RuleFile, found: list[Alert], start: int, end: int, time: str) -> Replay:
    """Return the alerts as tables."""
    rows: list[dict[str, Any]] = []
    open_rows: dict[Any, dict[str, Any]] = {}
    for alert in sorted(found, key=lambda one: one.at):
        key = (alert.name, alert.target, *alert.group.items())
        if alert.state == "firing":
            open_rows[key] = _row(alert)
            rows.append(open_rows[key])
        else:
            open_rows.pop(key)["resolved"] = moment(alert.at)
    for row in rows:
        over = row["resolved"] or max(moment(end), row["fired"])
        row["firing_seconds"] = int((over - row["fired"]).total_seconds())
    alerts = pl.DataFrame(rows, _ALERTS)
    names = [(one.name, one.rule.text, ", ".join(one.by)) for one in file.rules]
    if file.no_data is not None:
        names.append((NO_DATA, f"no records for {text_of_seconds(file.no_data.after)}", ""))
    of_rules = []
    for name, rule, by in names:
        mine = [row for row in rows if row["name"] == name]
        seconds = _together([(row["fired"].timestamp(), row["firing_seconds"]) for row in mine])
        of_rules.append({
            "name": name, "rule": rule, "by": by or None, "fired": len(mine),
            "firing_now": sum(row["resolved"] is None for row in mine),
            "firing_seconds": seconds, "firing_share": min(1.0, seconds / (end - start)),
        })  # fmt: skip
    return Replay(alerts, pl.DataFrame(of_rules, _RULES), start, end, time)


def _row(alert: Alert) -> dict[str, Any]:
    first = alert.culprits[0] if alert.culprits else None
    return {
        "name": alert.name,
        "target": alert.target or None,
        "group": ", ".join(f"{k}={'null' if v is None else v}" for k, v in alert.group.items())
        or None,
        "fired": moment(alert.at),
        "since": None if alert.since is None else moment(alert.since),
        "resolved": None,
        "span": alert.span,
        "value": alert.value,
        "value_low": alert.low,
        "value_high": alert.high,
        "evidence": alert.evidence,
        "asked": alert.asked,
        "culprit": None if first is None else first.where,
        "share": None if first is None else first.share,
        "severity": alert.severity,
        "text": alert.text,
    }


def _together(times: list[tuple[float, int]]) -> int:
    """Return for how long any of some times of these lengths was going on, in seconds."""
    total, until = 0.0, float("-inf")
    for start, seconds in sorted(times):
        total += max(0.0, start + seconds - max(start, until))
        until = max(until, start + seconds)
    return int(total)


def _seconds(name: str, text: str) -> int:
    seconds = seconds_of(text)
    if seconds is None:
        raise ValueError(f"`{name}` must be {FORM}. Received: {name}={text!r}")
    return seconds
