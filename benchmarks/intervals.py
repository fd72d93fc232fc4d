"""How often the intervals of `summary`, `compare` and `reliability` hold the true value.

    python benchmarks/intervals.py --replicates 2000 --users 1000
    python benchmarks/intervals.py --replicates 500 --by window
    python benchmarks/intervals.py --users 500 --run runs/a --against runs/b --on uid,req_time,dest

Each replicate is a new sample of users from one population: the numbers of their examples are
Pareto distributed, and each user clicks, or pays, more or less than the model can know, always. The
true value of a measure is that of a sample of very many users. A second model is compared with the
first. With `--by`, intervals are those of each tenth of the users, or of the time.

With `--run`, the population is that of the users of a run, such as the quickstart's, whose model
learned while it was recorded. Users are drawn with replacement, and the true value is the run's.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics import insight
from monolith_keras_metrics.insight.measures import MEASURES

Draw = Callable[[int], pl.DataFrame]  # from a seed
NAMES = [name for name, one in MEASURES.items() if one.scale is not None]
# What depends on the model.
OF_MODELS = [
    name for name in NAMES if MEASURES[name].better is not None and MEASURES[name].needs != "delays"
]
LABELS = {"binary": 1.0, "amounts": 3.0, "heavy amounts": 1.5}  # what logarithms are divided by
BINS = "reliability"
AT_ONCE = 50  # replicates


def sample(users: int, seed: int, labels: str = "binary") -> pl.DataFrame:
    """Return rows of users whose number of examples is Pareto distributed (1 to 1,000).

    Besides the model's predictions, there are those of a second model, `other`. Of examples with
    equal predictions, the share `chance` is positive.
    """
    random = np.random.default_rng(seed)
    sizes = np.minimum(1 + random.pareto(1.5, users) * 5, 1000).astype(np.int64)
    uid = random.integers(-(2**62), 2**62, users).repeat(sizes)
    own = random.normal(0, 0.7, users).repeat(sizes)
    known, luck, noise, delay = random.normal(size=(4, uid.size)) * [[1.2], [0.3], [0.5], [0.5]]
    known -= 2
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    chance = _sigmoid(known[:, None] + 0.7 * nodes) @ weights / weights.sum()
    if labels == "binary":
        y = random.random(uid.size) < _sigmoid(known + own)
        p, other = _sigmoid(known), _sigmoid(known + noise)
    else:
        logarithms = (known + own + luck, known, known + noise)
        y, p, other = (np.exp(one / LABELS[labels]) for one in logarithms)
    now = random.integers(0, 10 * 3600, uid.size)
    values = {"label": y, "predict": p, "other": other, "chance": chance}
    return pl.DataFrame(
        {
            "uid": uid,
            "group": random.integers(0, 10, users).repeat(sizes),
            "example": np.arange(uid.size),
            "req_time": now,
            "train_time": now + np.exp(7 + own + delay).astype(np.int64),
            "target": np.full(uid.size, labels),
            **{name: one.astype(np.float32) for name, one in values.items()},
        }
    )


def _sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def of_runs(run: str, against: str | None, on: str) -> list[pl.DataFrame]:
    """Return the rows of each target of a run, with the predictions of another run as `other`."""
    rows, *others = (
        insight.long_form(insight.open_run(one)).collect() for one in (run, against) if one
    )
    key = ["target", *on.split(",")]
    for other in others:
        once = other.unique(key, keep="none").select(*key, other="predict")
        rows = rows.unique(key, keep="none").join(once, on=key)
    columns = ["uid", "req_time", "train_time", "target", "label", "predict"]
    chosen = rows.select(*columns, *(["other"] if others else [])).with_row_index("example")
    return chosen.partition_by("target", maintain_order=True)


def drawn(population: pl.DataFrame, users: int, seed: int) -> pl.DataFrame:
    """Return the rows of users drawn with replacement; each draw is a user of its own."""
    random = np.random.default_rng(seed)
    known = population.get_column("uid").unique().sort()
    chosen = pl.DataFrame({"uid": known[random.integers(0, known.len(), users)]})
    chosen = chosen.with_columns(draw=pl.Series(random.integers(-(2**62), 2**62, users)))
    return chosen.join(population, on="uid").drop("uid").rename({"draw": "uid"})


def intervals(rows: pl.DataFrame, by: str = "", interval: float | None = 0.95) -> pl.DataFrame:
    """Return `what`, `value`, `low` and `high` of each replicate and group."""
    groups = ["replicate", "group"] if by == "group" else ["replicate"]
    window = "1h" if by == "window" else None
    found = insight.summary(rows, groups, window, measures=NAMES, interval=interval)
    frames = [_of(name, found, name) for name in NAMES]
    if "other" in rows.columns:
        other, on = rows.with_columns(predict="other"), ["uid", "example"]
        found = insight.compare(rows, other, on, groups, window, interval, measures=OF_MODELS)
        frames += [_of(f"{name}_diff", found, f"{name}_diff") for name in OF_MODELS]
    if "chance" in rows.columns and window is None and interval is not None:
        found = insight.reliability(rows.with_columns(predict="chance"), groups, interval=interval)
        frames.append(_of(BINS, found, "mean_prediction", ""))
    return pl.concat(frames, how="diagonal").drop_nulls("value")


def _of(what: str, found: pl.DataFrame, value: str, ends: str | None = None) -> pl.DataFrame:
    prefix = f"{value}_" if ends is None else ends
    known = {end: prefix + end for end in ("low", "high") if prefix + end in found.columns}
    return found.select(pl.lit(what).alias("what"), value=value, **known)


def covered(population: pl.DataFrame, draw: Draw, replicates: int, by: str = "") -> pl.DataFrame:
    """Return how often the intervals of each `what` hold the true value.

    The columns are `held` and its standard `error`, the shares of intervals that are too `high` or
    too `low`, and how many intervals there are (`number`), and are not (`none`).
    """
    truths = intervals(population.with_columns(replicate=0), by, None)
    truth = truths.group_by("what").agg(true=pl.col("value").mean())
    frames = []
    for first in range(0, replicates, AT_ONCE):
        several = pl.concat(
            draw(1_000 + number).with_columns(replicate=number)
            for number in range(first, min(first + AT_ONCE, replicates))
        )
        frames.append(intervals(several, by))
    # A calibrated model's predictions are the true rates of its bins.
    true = pl.when(pl.col("what") == BINS).then("value").otherwise("true")
    low, high = pl.col("low"), pl.col("high").fill_null(np.inf)  # nothing bounds a null end
    known = (
        pl.concat(frames)
        .join(truth, on="what", how="left", maintain_order="left")
        .with_columns(true=true)
    )
    held = (low <= pl.col("true")) & (pl.col("true") <= high)
    return (
        known.group_by("what", maintain_order=True)
        .agg(
            held=held.mean(),
            high=(pl.col("true") < low).mean(),
            low=(pl.col("true") > high).mean(),
            number=low.count(),
            none=low.null_count(),
        )
        .with_columns(error=(pl.col("held") * (1 - pl.col("held")) / replicates).sqrt())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--by", choices=("", "group", "window"), default="")
    parser.add_argument("--labels", choices=LABELS, nargs="*", default=[*LABELS])
    parser.add_argument("--run", help="a run, whose users are the population")
    parser.add_argument("--against", help="a run of another model, for differences")
    parser.add_argument("--on", default="uid,req_time", help="what identifies an example of a run")
    options = parser.parse_args()
    if options.run:
        populations = of_runs(options.run, options.against, options.on)
        draws: list[Draw] = [functools.partial(drawn, one, options.users) for one in populations]
    else:
        populations = [sample(300_000, 1, labels) for labels in options.labels]
        draws = [functools.partial(sample, options.users, labels=one) for one in options.labels]
    for population, draw in zip(populations, draws, strict=True):
        begin = time.monotonic()
        found = covered(population, draw, options.replicates, options.by)
        print(
            f"{population['target'][0]} labels, {options.users:,} users, "
            f"{options.replicates:,} replicates, {time.monotonic() - begin:.0f} s"
        )
        for what, held, high, low, number, none, error in found.rows():
            print(
                f"  {what:25} {100 * held:6.2f} ± {100 * error:4.2f} % of {number:,} "
                f"(too high {100 * high:.1f}, too low {100 * low:.1f}; none {none:,})"
            )


if __name__ == "__main__":
    main()
