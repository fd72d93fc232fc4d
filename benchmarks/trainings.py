"""Trainings that are made up: scenarios, and their sums or records at every look."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from judged import Array, Sums, at_truth
from redrawn import Random

from monolith_keras_metrics.insight.check import RULED
from monolith_keras_metrics.insight.rules import Rule, rules_of
from monolith_keras_metrics.insight.tables import PARTS

HOURS = 720
PER_HOUR = 2_000
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
        targets: The number of targets. If there are several, each also has rules about its AUC and
            its normalised entropy, with the true values as bounds.
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
    targets: int = 1

    @property
    def predictions(self) -> Array:
        """Return the different predictions, of which all are as frequent."""
        return self.rate * np.array([1 - _SPREAD, 1 + _SPREAD])

    def rules(self) -> list[Rule]:
        """Return the rules of a target."""
        texts = ["{} <= calibration <= {}".format(*self.bounds)]
        if self.targets > 1:
            p = self.predictions[None, None]
            texts += at_truth(Sums(p / self.calibration, 1 - p / self.calibration), p[0, 0])
        return rules_of(texts, RULED)


HEALTHY = (
    Scenario("records independent, on both bounds", taste=0.0),
    Scenario("records independent, rate 0.3 %, on both bounds", taste=0.0, rate=0.003),
    Scenario("persistent users, on both bounds"),
    Scenario("persistent users, on the upper bound", calibration=1.05, bounds=(0.95, 1.05)),
    Scenario("persistent users, in the middle", bounds=(0.95, 1.05)),
    Scenario("1,000 persistent users, rate 1 %", users=1_000, rate=0.01),
    Scenario("persistent users, on close bounds", calibration=1.01, bounds=(0.99, 1.01)),
    Scenario(
        "records independent, on the upper bound", taste=0.0, calibration=1.05, bounds=(0.95, 1.05)
    ),
    Scenario(
        "records independent, on close bounds", taste=0.0, calibration=1.01, bounds=(0.99, 1.01)
    ),
    Scenario("records independent, between close bounds", taste=0.0, bounds=(0.99, 1.01)),
    Scenario("3 targets, 3 rules each, records independent", taste=0.0, targets=3),
    Scenario("3 targets, 3 rules each, persistent users", targets=3),
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
    rates = scenario.predictions / scenario.calibration
    share = shares[..., None]
    mean = number / rates.size * np.minimum(rates * liked[..., None], share)
    positives = random.poisson(mean).astype(np.float64)
    return Sums(positives, random.poisson(number / rates.size * share - mean).astype(np.float64))


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
