"""How often the alerts of `deep-insight watch` are false, and how soon a fault is found.

    python benchmarks/false_alerts.py --replicates 1000 --whole 5

Each replicate is a training of 30 days with three targets and about 2,000 examples an hour each
(see `trainings`), whose windows of an hour are closed one after the other. Rules have the default
spans: 6 hours, 1, 3 and 7 days.

Most replicates are judged by the functions that the alerts use, on sums of all hours at once. A few
go through `Alarms` itself: `--whole` of each kind, with states that are made of the same sums, and
have to fire in the same hour; and some record by record, where the alert has to name the slice.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from judged import Sums, evidence_at
from trainings import HOURS, PER_HOUR, Scenario, drawn

from monolith_keras_metrics.insight.alerts.alarms import Alarms
from monolith_keras_metrics.insight.alerts.durations import seconds_of
from monolith_keras_metrics.insight.alerts.evidence_blocks import Span
from monolith_keras_metrics.insight.alerts.rule_file import LAST, RuleFile
from monolith_keras_metrics.insight.asks import Ask, chosen_measures, of_records
from monolith_keras_metrics.insight.cells import cell_of
from monolith_keras_metrics.insight.evidence import _share
from monolith_keras_metrics.insight.items import Alert
from monolith_keras_metrics.insight.measures import COUNTS, SUMS
from monolith_keras_metrics.insight.state import State
from monolith_keras_metrics.insight.tables import PARTS, TABLES, Form, needed

TARGETS = 3
BEGIN = 480  # the hour in which a fault begins
SPANS = [Span.of((seconds_of(text) or 0) // 3600, 1) for text in LAST]
FALSE_ALARMS = 0.01
_FACTORS = np.log([1.0, *(_share(moves) / _share(1) for moves in range(1, HOURS))])

HEALTHY = (
    Scenario("calibration on both bounds, records independent", taste=0.0),
    Scenario("calibration on both bounds, persistent users"),
    Scenario("on the upper bound, persistent users", calibration=1.05, bounds=(0.95, 1.05)),
    Scenario("in the middle, persistent users", bounds=(0.95, 1.05)),
    Scenario("rate 0.3 %, on both bounds, records independent", taste=0.0, rate=0.003),
    Scenario("users stay for 3 days, on both bounds", users=20_000, stays_hours=72),
    Scenario("3 rules on their bounds, records independent", taste=0.0, targets=3),
    Scenario("3 rules on their bounds, persistent users", targets=3),
)
# A slice of a fifth of the traffic that is at 1.5 makes the whole 1.1.
ILL = (
    Scenario("1.1 from day 20 on, records independent", taste=0.0, calibration=1.1),
    Scenario("1.1 from day 20 on, 100,000 users", users=100_000, taste=0.3, calibration=1.1),
    Scenario("1.3 from day 20 on, records independent", taste=0.0, calibration=1.3),
    Scenario("1.3 from day 20 on, 100,000 users", users=100_000, taste=0.3, calibration=1.3),
)


class Training(NamedTuple):
    """A training that is made up: of each target, the sums of each hour.

    Attributes:
        scenario: What it is like.
        hours: The sums of each target.
    """

    scenario: Scenario
    hours: list[Sums]

    @classmethod
    def of(cls, scenario: Scenario, seed: int) -> Training:
        """Draw a training."""
        seeds = [[seed, target] for target in range(TARGETS)]
        return cls(scenario, [drawn(scenario, np.random.default_rng(one)) for one in seeds])

    @classmethod
    def ill(cls, scenario: Scenario, seed: int) -> Training:
        """Draw a training whose first target begins to be wrong."""
        healthy = scenario._replace(calibration=1.0, bounds=(0.95, 1.05))
        well = cls.of(healthy, seed)
        wrong = drawn(scenario, np.random.default_rng([seed, 0]))  # the same users
        parts = zip(well.hours[0], wrong, strict=True)
        first = Sums(*(np.concatenate([one[:BEGIN], other[BEGIN:]]) for one, other in parts))
        return cls(healthy, [first, *well.hours[1:]])


def broken_hours(training: Training, targets: int = TARGETS) -> list[npt.NDArray[np.int64]]:
    """Return for each of the first targets the hours at whose end a rule is broken."""
    scenario = training.scenario
    rules = scenario.rules()
    asked = math.log(TARGETS * len(rules) * len(SPANS) / FALSE_ALARMS)
    ends = np.arange(HOURS) + 1
    found = []
    for sums in training.hours[:targets]:
        broken = np.zeros(HOURS, np.bool_)
        for span in SPANS:
            first = np.maximum(0, -(-(ends - span.seconds) // span.size) * span.size)
            so_far = [np.concatenate([one[:1] * 0, one.cumsum(axis=0)]) for one in sums]
            looks = Sums(*(one[ends] - one[first] for one in so_far))
            moves = np.maximum(0, np.ceil(ends / span.seconds).astype(int) - 1)
            # Of how often the window has moved, the evidence has a factor only.
            evidence = evidence_at(looks, scenario.predictions, rules, np.minimum(moves, 1))
            broken |= evidence.max(axis=0) + _FACTORS[moves] >= asked
        found.append(np.flatnonzero(broken))
    return found


def through_alarms(training: Training) -> list[Alert]:
    """Return what `Alarms` says of a training, hour by hour."""
    file = RuleFile.of([rule.text for rule in training.scenario.rules()])
    alarms = Alarms(file, 3600, {})
    (ask,) = alarms.asks
    alerts = []
    for hour in range(HOURS):
        state = state_of_hour(training, hour, ask)
        alerts += alarms.close(hour * 3600, (hour + 1) * 3600, [state], lambda _: None)
    return alerts


def state_of_hour(training: Training, hour: int, ask: Ask) -> State:
    """Return the state of an hour that its records would have."""
    p = training.scenario.predictions
    sums, cells = [], []
    for group, target in enumerate(training.hours):
        positives, negatives = target.positives[hour], target.negatives[hour]
        both = positives + negatives
        yes, no = np.ones(p.size), np.zeros(p.size)
        of = {
            name: positives @ value(yes, p, yes) + negatives @ value(no, p, yes)
            for name, value in SUMS.items()
        }
        counts = {name: np.zeros(PARTS, np.int64) for name in COUNTS}
        counts["examples"] = both.sum(1).astype(np.int64)
        frame = pl.DataFrame({"group": group, "part": np.arange(PARTS), **of, **counts})
        sums.append(frame.filter(pl.col("examples") > 0))
        part, at = np.divmod(np.arange(both.size), p.size)
        cells.append(
            pl.DataFrame({
                "group": group, "part": part, "cell": cell_of(p)[at],
                "positives": positives.ravel(), "negatives": negatives.ravel(),
                "predictions": (both * p).ravel(), "examples": both.ravel(),
            }).filter(pl.col("examples") > 0)
        )  # fmt: skip
    types = pl.col("group").cast(pl.UInt32), pl.col("part").cast(pl.UInt8)
    of_parts = pl.concat(cells).with_columns(types)
    columns = TABLES["cells"]
    tables = {
        "sums": pl.concat(sums).with_columns(types),
        "cells": of_parts.group_by(columns.keys).agg(pl.col(columns.sums).sum()).sort(columns.keys),
        "part_cells": of_parts.sort(TABLES["part_cells"].keys),
    }
    names = needed(chosen_measures(ask.measures, []), PARTS, ask.users)
    targets = [f"target {number}" for number in range(TARGETS)]
    form = Form((), True, False, PARTS, names)
    groups = pl.DataFrame({"target": targets})
    return State(form, targets, groups, {name: tables[name] for name in names})


def by_records(seed: int) -> list[Alert]:
    """Return the alerts of 30 days, record by record, a fifth of whose traffic is wrong at last."""
    random = np.random.default_rng(seed)
    uids = random.integers(-(2**62), 2**62, 100_000)
    factor = np.exp(random.normal(0, 0.3, uids.size) - 0.3**2 / 2)
    alarms = Alarms(RuleFile.of("0.95 <= calibration <= 1.05"), 3600, {})
    (ask,) = alarms.asks
    kept: list[pl.DataFrame] = []
    alerts = []
    for hour in range(HOURS):
        user = random.integers(0, uids.size, PER_HOUR)
        p = 0.2 * (1 + 0.8 * random.choice([-1, 1], PER_HOUR))
        wrong = (user % 5 == 0) & (hour >= BEGIN)
        y = random.random(PER_HOUR) < p / np.where(wrong, 1.5, 1.0) * factor[user]
        kept.append(pl.DataFrame({
            "uid": uids[user],
            "req_time": np.full(PER_HOUR, hour * 3600),
            "label": pl.DataFrame({"ctr": y.astype(np.float64)}).to_struct(),
            "predict": pl.DataFrame({"ctr": p}).to_struct(),
            "extra_str": pl.DataFrame({
                "country": np.array(["US", "DE", "FR", "JP", "BR"])[user % 5],
                "device": np.array(["web", "ios", "android"])[user % 3],
            }).to_struct(),
        }))  # fmt: skip
        kept = kept[-200:]
        state = of_records(kept[-1].lazy(), ask)

        def recent(since: int, kept: list[pl.DataFrame] = kept) -> pl.LazyFrame:
            return pl.concat(kept).lazy().filter(pl.col("req_time") >= since)

        alerts += alarms.close(hour * 3600, (hour + 1) * 3600, [state], recent)
    return alerts


def _print_false(replicates: int) -> None:
    print("healthy trainings with any alert in 30 days")
    for number, scenario in enumerate(HEALTHY):
        begin = time.monotonic()
        seeds = range(1_000_003 * number, 1_000_003 * number + replicates)
        false = sum(
            any(hours.size for hours in broken_hours(Training.of(scenario, seed))) for seed in seeds
        )
        seconds = time.monotonic() - begin
        print(f"{scenario.name:50} {false:5} of {replicates:,}   ({seconds:.0f} s)", flush=True)


def _print_found(replicates: int) -> None:
    print(f"\n{'hours until it is found':50} {'median':>8} {'90 %':>8} {'found':>8}")
    for number, scenario in enumerate(ILL):
        hours = np.full(replicates, np.inf)
        for replicate in range(replicates):
            training = Training.ill(scenario, 7_000_003 * (1 + number) + replicate)
            hours[replicate] = _found_after(broken_hours(training, 1)[0])
        median, most = np.quantile(hours, [0.5, 0.9], method="higher")
        share = np.isfinite(hours).mean()
        print(f"{scenario.name:50} {median:8.0f} {most:8.0f} {share:8.1%}", flush=True)


def _print_whole(replicates: int) -> None:
    print("\nthrough Alarms: hours of the first alert, as by sums; since when")
    kinds = [*((one, Training.ill) for one in ILL), *((one, Training.of) for one in HEALTHY)]
    for scenario, draw in kinds:
        for seed in range(replicates):
            training = draw(scenario, seed)
            firsts = [hours[0] + 1 for hours in broken_hours(training) if hours.size]
            alerts = through_alarms(training)
            first = [alert.at // 3600 for alert in alerts[:1]]
            assert first == [min(firsts)] * bool(firsts), (first, firsts)
            since = [None if one.since is None else one.since // 3600 for one in alerts[:1]]
            print(f"{scenario.name:50} {first} {since}", flush=True)


def _found_after(broken: npt.NDArray[np.int64]) -> float:
    """Return the hours from the begin of a fault until it fires."""
    late = broken[broken >= BEGIN]
    return float(late[0] + 1 - BEGIN) if late.size else math.inf


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--whole", type=int, default=5, help="trainings of each kind, by Alarms")
    parser.add_argument("--records", type=int, default=5, help="trainings record by record")
    arguments = parser.parse_args()
    print(f"{HOURS} hours, {TARGETS} targets, {PER_HOUR:,} examples an hour each\n")
    _print_false(arguments.replicates)
    _print_found(max(1, arguments.replicates // 4))
    print("\nrecord by record: country=US, a fifth of the traffic, is at 1.5 from hour 480 on")
    for seed in range(arguments.records):
        for alert in by_records(seed):
            print(f"  hour {alert.at // 3600}: {alert.state}, {alert.text}", flush=True)
    _print_whole(arguments.whole)


if __name__ == "__main__":
    main()
