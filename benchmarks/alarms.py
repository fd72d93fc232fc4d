"""How often `insight.check` raises a false alarm, and how soon a true one.

    python benchmarks/alarms.py --replicates 1000

Each replicate is a training of 30 days with about 2,000 examples an hour, that is looked at every
hour, or every minute. The numbers of examples of its users are Pareto distributed. *Persistent*
users come back all the time, and each of them always clicks more, or less, than the model can know.

The sums of each hour and part of the users are drawn at once, exactly as if each record were drawn:
given its users, the clicks of a part are Poisson distributed. They are judged by the functions that
`check` uses (`influences`, `Estimates`, `log_evidence`). A few trainings are drawn record by
record, and go through `check` itself. A test at 1 % at every look, with errors by record, is what
one might do without any of this.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics import insight
from monolith_keras_metrics.insight.evidence import Estimates, log_evidence
from monolith_keras_metrics.insight.finish import influences
from monolith_keras_metrics.insight.tables import PARTS
from monolith_keras_metrics.insight.verdicts import EVENTS_NEEDED

Array = npt.NDArray[np.float64]
Random = np.random.Generator

HOURS = 720
PER_HOUR = 2_000
FALSE_ALARMS = 0.01
_SPREAD = 0.8  # half of all predictions are lower than the rate by this share, half are higher


class Scenario(NamedTuple):
    """What a training is like.

    Attributes:
        name: What the table shows.
        users: The number of users.
        taste: The standard deviation of the logarithm of a user's own factor on the rate.
        rate: The share of clicks.
        calibration: The true calibration.
        bounds: The rule's bounds.
        stays_hours: How long a user stays, on average; None for always.
        last: The hours of a sliding window; None to look at all records.
        looks: The number of looks an hour.
    """

    name: str
    users: int = 5_000
    taste: float = 0.5
    rate: float = 0.1
    calibration: float = 1.0
    bounds: tuple[float, float] = (1.0, 1.0)
    stays_hours: float | None = None
    last: int | None = None
    looks: int = 1


HEALTHY = (
    Scenario("records independent, on both bounds", taste=0.0),
    Scenario("records independent, rate 0.3 %, on both bounds", taste=0.0, rate=0.003),
    Scenario("persistent users, on both bounds"),
    Scenario("persistent users, on the upper bound", calibration=1.05, bounds=(0.95, 1.05)),
    Scenario("persistent users, in the middle", bounds=(0.95, 1.05)),
    Scenario("1,000 persistent users, rate 1 %", users=1_000, rate=0.01),
    Scenario("users stay for 3 days, on both bounds", users=20_000, stays_hours=72),
    Scenario("last 6 hours, records independent", taste=0.0, last=6),
    Scenario("last 6 hours, persistent users", last=6),
    Scenario("last 6 hours, persistent users, in the middle", bounds=(0.95, 1.05), last=6),
    Scenario("every minute, records independent", taste=0.0, looks=60),
    Scenario("every minute, last 6 hours, independent", taste=0.0, last=6, looks=60),
)
ILL = (
    Scenario("records independent, rate 10 %", taste=0.0),
    Scenario("records independent, rate 20 %", taste=0.0, rate=0.2),
    Scenario("100,000 persistent users, rate 20 %", users=100_000, taste=0.3, rate=0.2),
    Scenario("20,000 persistent users, rate 20 %", users=20_000, taste=0.3, rate=0.2),
    Scenario("last 24 hours, independent, rate 20 %", taste=0.0, rate=0.2, last=24),
)


class Sums(NamedTuple):
    """Sums by look and part of the users, shape `(looks, parts)`.

    Attributes:
        examples: The number of examples.
        clicks: The number of clicks.
        predictions: The sum of the predictions.
        variances: The sum of p(1 - p).
    """

    examples: Array
    clicks: Array
    predictions: Array
    variances: Array


def users_of(scenario: Scenario, random: Random) -> tuple[Array, npt.NDArray[np.int64], Array]:
    """Return how active each user is, in which part, and the factor on the user's rate."""
    sizes = np.minimum(1 + random.pareto(1.5, scenario.users) * 5, 1_000)
    taste = random.normal(0, scenario.taste, scenario.users)
    parts = random.integers(0, PARTS, scenario.users)
    return sizes / sizes.sum(), parts, np.exp(taste - scenario.taste**2 / 2)


def drawn(scenario: Scenario, random: Random) -> Sums:
    """Draw the sums of a training: of the records that are new at each look."""
    looks, number = HOURS * scenario.looks, PER_HOUR / scenario.looks
    active, parts, factor = users_of(scenario, random)
    if scenario.stays_hours is None:
        one, other = (np.bincount(parts, weights, PARTS) for weights in (active, active * factor))
        shares, liked = (np.broadcast_to(each, (looks, PARTS)) for each in (one, other))
    else:
        stay = random.exponential(scenario.stays_hours, scenario.users)
        begin = random.uniform(-3 * scenario.stays_hours, HOURS, scenario.users)
        hours = np.arange(looks)[:, None] / scenario.looks
        there = np.where((hours >= begin) & (hours < begin + stay), active, 0.0)
        there /= there.sum(axis=1, keepdims=True)
        order = np.argsort(parts, kind="stable")
        starts = np.searchsorted(parts[order], np.arange(PARTS))
        shares = np.add.reduceat(there[:, order], starts, axis=1)
        liked = np.add.reduceat((there * factor)[:, order], starts, axis=1)
    sums = [np.zeros((looks, PARTS)) for _ in Sums._fields]
    for sign in (-1, 1):
        p = scenario.rate * (1 + sign * _SPREAD)
        mean = number / 2 * np.minimum(p / scenario.calibration * liked, shares)
        clicks = random.poisson(mean)
        examples = clicks + random.poisson(number / 2 * shares - mean)
        more = (examples, clicks, p * examples, p * (1 - p) * examples)
        sums = [total + one for total, one in zip(sums, more, strict=True)]
    return Sums(*sums)


def looks_of(scenario: Scenario, new: Sums) -> Sums:
    """Return the sums that each look sees: of all records so far, or of the last hours."""
    sums = []
    for one in new:
        so_far = np.cumsum(one, axis=0)
        if scenario.last is not None:
            last = scenario.last * scenario.looks
            so_far[last:] = so_far[last:] - so_far[:-last]
        sums.append(so_far)
    return Sums(*sums)


def broken_at(scenario: Scenario, looks: Sums) -> npt.NDArray[np.bool_]:
    """Return at which looks `check` says that the rule is broken."""
    examples, clicks = looks.examples.sum(axis=1), looks.clicks.sum(axis=1)
    all_ = (looks.predictions.sum(axis=1, keepdims=True), looks.clicks.sum(axis=1, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        layers = np.hstack(
            [all_[0] / all_[1], (all_[0] - looks.predictions) / (all_[1] - looks.clicks)]
        )
    moved = influences(layers, looks.examples > 0, "log")
    estimates = Estimates(*moved, looks.examples / examples[:, None])
    against = np.full(examples.size, -np.inf)
    for side, bound in zip((-1, 1), scenario.bounds, strict=True):
        distance = side * estimates.distance(math.log(bound))
        if scenario.last is None:
            evidence = log_evidence(distance, examples)
        else:
            hours = (np.arange(examples.size) + 1) / scenario.looks
            moves = np.maximum(0, np.ceil(hours / scenario.last) - 1).astype(int)
            evidence = np.concatenate(
                [log_evidence(distance[moves == one], examples[moves == one], one)
                 for one in range(moves[-1] + 1)]
            )  # fmt: skip
        against = np.fmax(against, evidence)
    broken = against >= math.log(2 / FALSE_ALARMS)
    result: npt.NDArray[np.bool_] = np.logical_and(broken, clicks >= EVENTS_NEEDED)
    return result


def tested_at(scenario: Scenario, looks: Sums) -> npt.NDArray[np.bool_]:
    """Return at which looks a test at 1 %, by record, says that the rule is broken."""
    clicks, predictions, variances = (one.sum(axis=1) for one in looks[1:])
    low, high = scenario.bounds
    error = np.sqrt(variances)
    above = (predictions / high - clicks) / error
    below = (clicks - predictions / low) / error
    broken = np.maximum(above, below) > 2.576  # 0.5 % a side
    result: npt.NDArray[np.bool_] = np.logical_and(broken, clicks >= EVENTS_NEEDED)
    return result


def false_alarms(scenario: Scenario, replicates: int, seed: int = 1) -> tuple[int, int]:
    """Return in how many trainings `check` and the test ever say that the rule is broken."""
    random = np.random.default_rng(seed)
    found = np.zeros(2, np.int64)
    for _ in range(replicates):
        looks = looks_of(scenario, drawn(scenario, random))
        found += [broken_at(scenario, looks).any(), tested_at(scenario, looks).any()]
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


def records(scenario: Scenario, hours: int, seed: int) -> pl.DataFrame:
    """Draw a training record by record."""
    random = np.random.default_rng(seed)
    active, _, factor = users_of(scenario, random)
    number = hours * PER_HOUR
    user = random.choice(scenario.users, number, p=active)
    p = scenario.rate * (1 + _SPREAD * random.choice([-1, 1], number))
    y = random.random(number) < p / scenario.calibration * factor[user]
    uids = random.integers(-(2**62), 2**62, scenario.users)
    return pl.DataFrame(
        {
            "uid": uids[user],
            "req_time": np.arange(number) * 3600 // PER_HOUR,
            "label": pl.DataFrame({"ctr": y.astype(np.float32)}).to_struct(),
            "predict": pl.DataFrame({"ctr": p.astype(np.float32)}).to_struct(),
        }
    )


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


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=1000)
    replicates = parser.parse_args().replicates
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
    for scenario, every in ((HEALTHY[2], 6), (HEALTHY[8], 6)):
        hours_found = [end_to_end(scenario, 120, every, seed) for seed in range(3)]
        print(f"{scenario.name:50} first false alarm in 120 hours: {hours_found}", flush=True)
    ill = ILL[1]._replace(calibration=1.1, bounds=(0.95, 1.05))
    hours_found = [end_to_end(ill, 120, 2, seed) for seed in range(5)]
    print(f"{ill.name:50} a calibration of 1.1 found after hours: {hours_found}")


if __name__ == "__main__":
    main()
