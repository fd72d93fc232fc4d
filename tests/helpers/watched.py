"""A run of hours, as a watcher has it: records, states of windows, and what alarms say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import polars as pl

from monolith_keras_metrics.insight.alerts.alarms import Alarms
from monolith_keras_metrics.insight.alerts.rule_file import RuleFile
from monolith_keras_metrics.insight.asks import of_records
from monolith_keras_metrics.insight.items import Alert
from monolith_keras_metrics.insight.state import Memory

HOUR = 3_600
START = 1_795_392_000  # 2026-11-23 00:00 UTC
PER_HOUR = 1_000

# By how much predictions are too high, given the hour and a country.
Fault = Callable[[int, str], float]


def records(hours: Iterable[int], fault: Fault, seed: int = 0) -> pl.DataFrame:
    """Return 1,000 records an hour, of 4,000 users, each of whom has a country."""
    frames = []
    for hour in hours:
        random = np.random.default_rng([seed, hour])
        user = random.integers(0, 4_000, PER_HOUR)
        country = np.array(["US", "DE", "FR", "JP"])[user % 4]
        p = random.uniform(0.1, 0.5, PER_HOUR)
        y = (random.random(PER_HOUR) < p).astype(np.float64)
        factors = {name: fault(hour, name) for name in ("US", "DE", "FR", "JP")}
        predicted = p * np.array([factors[one] for one in country])
        frames.append(
            pl.DataFrame(
                {
                    "uid": user * 7919 + 13,
                    "req_time": START + hour * HOUR + np.arange(PER_HOUR) * 3,
                    "train_time": START + hour * HOUR + np.arange(PER_HOUR) * 3 + 60,
                    "label": pl.DataFrame({"ctr": y}).to_struct(),
                    "predict": pl.DataFrame({"ctr": predicted}).to_struct(),
                    "extra_str": pl.DataFrame({"country": country}).to_struct(),
                    "extra_int": pl.DataFrame(
                        {"slot": random.integers(0, 4, PER_HOUR)}
                    ).to_struct(),
                }
            )
        )
    return pl.concat(frames)


def hour_of(records: pl.DataFrame, hour: int) -> pl.DataFrame:
    """Return the records of an hour."""
    start = START + hour * HOUR
    return records.filter(pl.col("req_time").is_between(start, start + HOUR, closed="left"))


def close(
    alarms: Alarms, records: pl.DataFrame, hour: int, has_records: bool = True
) -> list[Alert]:
    """Close the window of an hour, with the records at hand to find slices, or without."""
    mine = hour_of(records, hour).lazy()
    start = START + hour * HOUR
    states = [of_records(mine, ask) for ask in alarms.asks]
    until = records.lazy().filter(pl.col("req_time") < start + HOUR)

    def recent(since: int) -> pl.LazyFrame | None:
        return until.filter(pl.col("req_time") >= since) if has_records else None

    return alarms.close(start, start + HOUR, states, recent)


def watch(
    rules: RuleFile,
    records: pl.DataFrame,
    hours: Iterable[int],
    memory: Memory | None = None,
) -> list[tuple[int, Alert]]:
    """Return the alerts of each hour."""
    alarms = Alarms(rules, HOUR, {} if memory is None else memory)
    return [(hour, alert) for hour in hours for alert in close(alarms, records, hour)]
