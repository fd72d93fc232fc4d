"""How often `insight.check` raises a false alarm about errors of amounts.

    python benchmarks/amounts.py --replicates 1000

Each replicate is a training of 30 days with 2,000 examples an hour, looked at every hour. Labels
are amounts, such as minutes. The numbers of examples of users are Pareto distributed; each user is
always predicted too high, or too low, and always better, or worse, than others. The true values of
`mae`, `rmse` and `bias` are on the bounds of their rules at every look.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import numpy.typing as npt
import polars as pl
from judged import Array
from redrawn import Random
from trainings import HOURS, PER_HOUR, Scenario, users_of

from monolith_keras_metrics.insight import measures
from monolith_keras_metrics.insight.check import RULED
from monolith_keras_metrics.insight.curves import Cells
from monolith_keras_metrics.insight.layers import Layers
from monolith_keras_metrics.insight.questions import about_measure
from monolith_keras_metrics.insight.rules import rules_of
from monolith_keras_metrics.insight.tables import PARTS
from monolith_keras_metrics.insight.verdicts import weighed

FALSE_ALARMS = 0.01
SKILL = 0.5  # standard deviation of the logarithm of how large a user's errors are
LEANING = 0.2  # standard deviation of a user's mean error
TAILS = ("normal", "lognormal")


def errors(tail: str, size: int, random: Random) -> Array:
    """Return errors with a mean of 0 and a variance of 1."""
    if tail == "normal":
        return random.normal(0, 1, size)
    return (np.exp(random.normal(0, 1, size)) - math.exp(0.5)) / math.sqrt(
        math.exp(2) - math.exp(1)
    )


def drawn(tail: str, users: int, random: Random, hours: int = HOURS) -> Layers:
    """Draw a training, and return its measures at every look, as `check` has them of each group."""
    active, parts, _ = users_of(Scenario("", users=users), random)
    number = hours * PER_HOUR
    user = np.searchsorted(np.cumsum(active), random.random(number) * active.sum())
    skill = np.exp(random.normal(0, SKILL, users))
    error = skill[user] * errors(tail, number, random) + random.normal(0, LEANING, users)[user]
    at = np.arange(number) // PER_HOUR * PARTS + parts[user]
    columns = {
        "weights": np.ones(number),
        "errors": error,
        "distances": np.abs(error),
        "squares": error**2,
    }
    of = {}
    for name, values in columns.items():
        sums = np.bincount(at, values, hours * PARTS).reshape(hours, PARTS).cumsum(axis=0)
        total = sums.sum(axis=1, keepdims=True)
        of[name] = np.concatenate([total, total - sums], axis=1)
    no, nothing = np.zeros(of["weights"].shape, np.bool_), np.zeros((1, 1, 1))
    sums_ = measures.Sums(of, no, no, True, Cells(*[nothing] * 4), nothing, nothing)
    total = of["weights"][:, :1]
    return Layers(
        pl.DataFrame({"examples": total[:, 0]}),
        {name: measures.MEASURES[name](sums_) for name in ("mae", "rmse", "bias")},
        of["weights"][:, 1:] < total,
        (total - of["weights"][:, 1:]) / total,
    )


def truths(tail: str) -> dict[str, float]:
    """Return the values that very many users would have."""
    random = np.random.default_rng(0)
    size = 20_000_000
    error = np.exp(random.normal(0, SKILL, size)) * errors(tail, size, random)
    error += random.normal(0, LEANING, size)
    return {"mae": float(np.abs(error).mean()), "rmse": math.sqrt((error**2).mean()), "bias": 0.0}


def alarms(
    tail: str, users: int, replicates: int, factor: float = 1.0, seed: int = 1
) -> dict[str, float]:
    """Return in what share of trainings a rule is ever broken, and any of them.

    Args:
        tail: One of `TAILS`.
        users: The number of users.
        replicates: The number of trainings.
        factor: What the bounds are multiplied by. True values are on them if it is 1.
        seed: Of the trainings.
    """
    random = np.random.default_rng(seed)
    bounds = {name: factor * value for name, value in truths(tail).items()}
    rules = rules_of([f"{one!r} <= {name} <= {one!r}" for name, one in bounds.items()], RULED)
    peaks = np.empty((replicates, len(rules)))
    for number in range(replicates):
        layers = drawn(tail, users, random)
        examples = layers.groups.get_column("examples").to_numpy()
        for at, rule in enumerate(rules):
            evidence = weighed(about_measure(rule, layers).bounds, examples, None)[0]
            peaks[number, at] = np.nanmax(evidence)
    shares: npt.NDArray[np.float64] = (peaks >= -math.log(FALSE_ALARMS)).mean(axis=0)
    together = (peaks.max(axis=1) >= math.log(len(rules) / FALSE_ALARMS)).mean()
    return {rule.name: share for rule, share in zip(rules, shares, strict=True)} | {
        "all together": float(together)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replicates", type=int, default=1000)
    replicates = parser.parse_args().replicates
    for tail in TAILS:
        for users in (5_000, 100_000):
            begin = time.monotonic()
            found = alarms(tail, users, replicates)
            print(
                f"{tail + ' errors':20} {users:8,} users",
                *(f"{name} {share:.2%}" for name, share in found.items()),
                f"({replicates:,}, {time.monotonic() - begin:.0f} s)",
                sep="   ",
                flush=True,
            )


if __name__ == "__main__":
    main()
