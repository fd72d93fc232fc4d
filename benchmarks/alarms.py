"""How often `insight.check` raises a false alarm, and how soon a true one.

    python benchmarks/alarms.py --replicates 1000
    python benchmarks/alarms.py --replicates 200 --run runs/flights

Each replicate is a training of 30 days with about 2,000 examples an hour, that is looked at every
hour, or every minute. The numbers of examples of its users are Pareto distributed. *Persistent*
users come back all the time, and each of them always clicks more, or less, than the model can know.

The sums of each hour and part of the users are drawn at once, exactly as if each record were drawn:
given its users, the clicks of a part are Poisson distributed. They are judged by the functions that
`check` uses (`about_measure`, `weighed`). A few trainings are drawn record by record, and go
through `check` itself. A test at 1 % at every look, with errors by record, is what one might do
without any of this.

With `--run`, each replicate is that run with users and labels drawn again (see `redrawn`), looked
at every day, or every hour. Its model learns and its traffic changes, and so do its true AUC and
entropy. Estimates are moved by that change, so that the true values are on their bounds at every
look.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import numpy.typing as npt
import polars as pl
import redrawn
from judged import Array, Sums, at_truth, drawn_from, evidence_at, expected_of
from trainings import HEALTHY, HOURS, ILL, PER_HOUR, Scenario, drawn, looks_of, records

from monolith_keras_metrics import insight
from monolith_keras_metrics.insight.check import RULED
from monolith_keras_metrics.insight.rules import rules_of
from monolith_keras_metrics.insight.verdicts import EVENTS_NEEDED

FALSE_ALARMS = 0.01


def broken_at(scenario: Scenario, looks: Sums) -> npt.NDArray[np.bool_]:
    """Return at which looks `check` says that any rule of a target is broken."""
    moves = None
    if scenario.last is not None:
        hours = (np.arange(len(looks.positives)) + 1) / scenario.looks
        moves = np.maximum(0, np.ceil(hours / scenario.last) - 1).astype(int)
    rules = scenario.rules()
    evidence = evidence_at(looks, scenario.predictions, rules, moves).max(axis=0)
    broken: npt.NDArray[np.bool_] = evidence >= math.log(
        scenario.targets * len(rules) / FALSE_ALARMS
    )
    return broken


def tested_at(scenario: Scenario, looks: Sums) -> npt.NDArray[np.bool_]:
    """Return at which looks a test at 1 %, by record, says that the calibration is broken."""
    clicks, others = (one.sum(axis=(1, 2)) for one in looks)
    examples, p = (looks.positives + looks.negatives).sum(axis=1), scenario.predictions
    low, high = scenario.bounds
    predictions, error = examples @ p, np.sqrt(examples @ (p * (1 - p)))
    above = (predictions / high - clicks) / error
    below = (clicks - predictions / low) / error
    broken = np.maximum(above, below) > 2.576  # 0.5 % a side
    result: npt.NDArray[np.bool_] = broken & (np.minimum(clicks, others) >= EVENTS_NEEDED)
    return result


def false_alarms(scenario: Scenario, replicates: int, seed: int = 1) -> tuple[int, int]:
    """Return in how many trainings `check` and the test ever say that a rule is broken."""
    random = np.random.default_rng(seed)
    found = np.zeros(2, np.int64)
    for _ in range(replicates):
        any_found = np.zeros(2, np.bool_)
        for _ in range(scenario.targets):
            looks = looks_of(scenario, drawn(scenario, random))
            any_found |= [broken_at(scenario, looks).any(), tested_at(scenario, looks).any()]
        found += any_found
    return int(found[0]), int(found[1])


def hours_until_found(scenario: Scenario, replicates: int, seed: int = 2) -> Array:
    """Return the hours until a calibration of 1.1 breaks a rule of 0.95 to 1.05."""
    ill = scenario._replace(calibration=1.1, bounds=(0.95, 1.05))
    random = np.random.default_rng(seed)
    hours = np.full(replicates, np.inf)
    for number in range(replicates):
        broken = broken_at(ill, looks_of(ill, drawn(ill, random)))
        if broken.any():
            hours[number] = 1 + int(np.argmax(broken))
    return hours


def end_to_end(scenario: Scenario, hours: int, every: int, seed: int) -> int | None:
    """Return the hour of the first look at which `check` says that the rule is broken."""
    low, high = scenario.bounds
    rule = f"{low} <= calibration <= {high}"
    all_ = records(scenario, hours, seed)
    last = None if scenario.last is None else f"{scenario.last}h"
    for hour in range(every, hours + 1, every):
        result = insight.check(all_.head(hour * PER_HOUR), rule, last=last)
        if result["verdict"].item() == "broken":
            return hour
    return None


def of_run(run: str, replicates: int, taste: float) -> None:
    """Print how often rules that a run keeps break, and when a calibration of 1.1 is found."""
    random = np.random.default_rng(3)
    print(f"{'run with labels drawn again':54} {'looks':>6} {'broken':>8}   ({replicates:,} each)")
    for every, levels in (("1d", 20), ("1h", 4)):
        peaks = []
        for target in ("dep_late", "arr_late"):
            look = pl.from_epoch("req_time").dt.truncate(every).rle_id().cast(pl.Int64)
            rows = redrawn.recalibrated(run, target, levels).with_columns(look=look)
            p = rows.group_by("level").agg(pl.col("p").first()).sort("level")["p"].to_numpy()
            expected = expected_of(rows)
            texts = ["1 <= calibration <= 1", *at_truth(expected, p), "0.95 <= calibration <= 1.05"]
            rules = rules_of(texts, RULED)
            draws = (drawn_from(rows, 1.0, taste, random) for _ in range(replicates))
            peak = np.array([evidence_at(one, p, rules, None, expected).max(1) for one in draws])
            shares = (peak >= -math.log(FALSE_ALARMS)).mean(axis=0)
            for rule, share in zip(rules, shares, strict=True):
                print(
                    f"{f'{target}: {rule.text}':54} {len(expected[0]):6} {share:8.2%}", flush=True
                )
            peaks.append(peak[:, :3])
            ill = (drawn_from(rows, 1.1, taste, random) for _ in range(max(1, replicates // 4)))
            found = np.array([evidence_at(one, p, rules[3:])[0] for one in ill])
            share = (found >= -math.log(FALSE_ALARMS)).any(axis=1).mean()
            print(f"{f'{target}: the last rule, calibration 1.1':61} {share:8.2%}", flush=True)
        share = (np.hstack(peaks).max(axis=1) >= math.log(6 / FALSE_ALARMS)).mean()
        print(f"{'both targets, the first three rules each':61} {share:8.2%}", flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--run", help="a run with dep_late and arr_late, as of the quickstart")
    parser.add_argument("--taste", type=float, default=redrawn.TASTE, help="of users of the run")
    arguments = parser.parse_args()
    replicates = arguments.replicates
    if arguments.run:
        of_run(arguments.run, replicates, arguments.taste)
        return
    print(f"{HOURS} hours of {PER_HOUR:,} examples, looked at every hour; {replicates:,} each\n")
    print(f"{'trainings with any false alarm':50} {'check':>8} {'test at 1 %':>12}")
    for scenario in HEALTHY:
        begin = time.monotonic()
        slow = scenario.stays_hours is not None or scenario.looks > 1
        few = max(1, replicates // 10) if slow else replicates
        check, test = (number / few for number in false_alarms(scenario, few))
        print(f"{scenario.name:50} {check:8.2%} {test:12.1%}   ({few:,}, "
              f"{time.monotonic() - begin:.0f} s)", flush=True)  # fmt: skip
    print(
        f"\n{'hours until a calibration of 1.1 is found':50} {'median':>8} {'90 %':>8} {'found':>8}"
    )
    for scenario in ILL:
        hours = hours_until_found(scenario, max(1, replicates // 4))
        median, most = np.quantile(hours, [0.5, 0.9], method="higher")
        share = np.isfinite(hours).mean()
        print(f"{scenario.name:50} {median:8.0f} {most:8.0f} {share:8.1%}", flush=True)
    print("\nrecord by record, through insight.check")
    for scenario, every in ((HEALTHY[2], 6), (HEALTHY[14], 6)):
        hours_found = [end_to_end(scenario, 120, every, seed) for seed in range(3)]
        print(f"{scenario.name:50} first false alarm in 120 hours: {hours_found}", flush=True)
    ill = ILL[1]._replace(calibration=1.1, bounds=(0.95, 1.05))
    hours_found = [end_to_end(ill, 120, 2, seed) for seed in range(5)]
    print(f"{ill.name:50} a calibration of 1.1 found after hours: {hours_found}")


if __name__ == "__main__":
    main()
