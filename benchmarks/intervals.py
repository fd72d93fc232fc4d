"""How often the intervals of `summary` and `compare` hold the true value.

    python benchmarks/intervals.py --replicates 2000 --users 1000
    python benchmarks/intervals.py --replicates 500 --users 2000 --run runs/flights

Each replicate is a new sample of users from one population: the numbers of their examples are
Pareto distributed, and each user clicks more, or less, than the model can know, always. The true
value of a measure is that of a sample of very many users.

With `--run`, the population is that of the users of a run, such as the quickstart's, whose model
learned while it was recorded. Users are drawn with replacement, and the true value is the run's.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

import numpy as np
import polars as pl

from monolith_keras_metrics import insight
from monolith_keras_metrics.insight.measures import MEASURES

Draw = Callable[[int], pl.DataFrame]  # from a seed


def sample(users: int, seed: int, taste: float = 0.7, labels: str = "binary") -> pl.DataFrame:
    """Return records of users whose number of examples is Pareto distributed (1 to 1,000)."""
    random = np.random.default_rng(seed)
    sizes = np.minimum(1 + random.pareto(1.5, users) * 5, 1000).astype(np.int64)
    uid = random.integers(-(2**62), 2**62, users).repeat(sizes)
    own = random.normal(0, taste, users).repeat(sizes)
    known = random.normal(-2, 1.2, uid.size)
    p = 1 / (1 + np.exp(-known))
    if labels == "binary":
        y = (random.random(uid.size) < 1 / (1 + np.exp(-known - own))).astype(np.float64)
    else:
        y = np.exp((known + own + random.normal(0, 0.3, uid.size)) / 3)
        p = np.exp(known / 3)
    return pl.DataFrame(
        {
            "uid": uid,
            "label": pl.DataFrame({"y": y.astype(np.float32)}).to_struct(),
            "predict": pl.DataFrame({"y": p.astype(np.float32)}).to_struct(),
        }
    )


def drawn(population: pl.DataFrame, users: int, seed: int) -> pl.DataFrame:
    """Return the rows of users drawn with replacement; each draw is a user of its own."""
    random = np.random.default_rng(seed)
    known = population.get_column("uid").unique().sort()
    chosen = pl.DataFrame({"uid": known[random.integers(0, known.len(), users)]})
    chosen = chosen.with_columns(draw=pl.Series(random.integers(-(2**62), 2**62, users)))
    return chosen.join(population, on="uid").drop("uid").rename({"draw": "uid"})


def covered(
    population: pl.DataFrame, draw: Draw, names: list[str], replicates: int
) -> dict[str, tuple[float, int]]:
    """Return for each measure the share of intervals that hold the true value, and their number."""
    truth = insight.summary(population, measures=names).row(0, named=True)
    hits = dict.fromkeys(names, 0)
    defined = dict.fromkeys(names, 0)
    for first in range(0, replicates, 50):
        several = pl.concat(
            draw(1_000 + first + number).with_columns(replicate=pl.lit(number))
            for number in range(min(50, replicates - first))
        )
        result = insight.summary(several, by="replicate", measures=names, interval=0.95)
        for name in names:
            low, high = result[f"{name}_low"], result[f"{name}_high"]
            hits[name] += ((low <= truth[name]) & (truth[name] <= high)).sum()
            defined[name] += int(low.is_not_null().sum())
    return {name: (hits[name] / max(1, defined[name]), defined[name]) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--run", help="a run, whose users are the population")
    arguments = parser.parse_args()
    with_interval = [
        name for name, one in MEASURES.items() if one.scale is not None and one.needs != "delays"
    ]
    regression = [name for name in with_interval if MEASURES[name].kind == "regression"]
    binary = [name for name in with_interval if name not in regression]
    cases: list[tuple[str, pl.DataFrame, Draw, list[str]]] = []
    if arguments.run:
        rows = insight.long_form(insight.open_run(arguments.run))
        columns = ["uid", "target", "label", "predict"]
        for frame in rows.select(columns).collect().partition_by("target"):
            draw_users = functools.partial(drawn, frame, arguments.users)
            cases.append((frame["target"][0], frame, draw_users, binary))
    else:
        for labels, names in (("binary", binary), ("positive", regression)):
            draw = functools.partial(sample, arguments.users, labels=labels)
            cases.append((f"{labels} labels", sample(300_000, 1, labels=labels), draw, names))
    for name, population, of_seed, names in cases:
        begin = time.monotonic()
        found = covered(population, of_seed, names, arguments.replicates)
        print(f"{name}, {arguments.users:,} users, {time.monotonic() - begin:.0f} s")
        for measure, (share, number) in found.items():
            print(f"  {measure:22} {100 * share:6.2f} % of {number:,}")


if __name__ == "__main__":
    main()
