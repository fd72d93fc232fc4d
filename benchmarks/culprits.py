"""How often `slices` finds something where nothing is wrong, and the slice that is wrong.

    python benchmarks/culprits.py --replicates 200
    python benchmarks/culprits.py --replicates 200 --taste 0.6 --largest 1000
    python benchmarks/culprits.py --replicates 100 --run runs/flights

Each replicate is a new sample of users whose number of examples is Pareto distributed. Some fields
belong to the user, as a country does, and some to the example, as a position does. Each user clicks
more, or less, than the model can know, always: by a factor of their own that is 1 on average. So
the model is right on average, in every slice, unless an error is planted.

The *oracle* knows which slice may be wrong, and how errors would vary if it was right. It tests the
sum of that slice's errors only, at the level that one of all slices has. A search by the same sums,
which is told less, can hardly find it more often.

With `--run`, each replicate is a stretch of that run, with users and labels drawn again (see
`redrawn`).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import redrawn

from monolith_keras_metrics import insight

FIELDS = {"f0": 5, "f1": 8, "f2": 12, "f3": 20, "f4": 5, "f5": 8, "f6": 12, "f7": 20}
OF_USER = 4  # the first fields belong to the user
_LARGEST = 0.2  # prediction; a taste may multiply it by 1 / this


class Planted(NamedTuple):
    """An error of the model.

    Attributes:
        name: What is shown of it.
        slice: The slice that it is in, as `slices` shows it; None if nothing is wrong.
        factor: What predictions are multiplied by.
    """

    name: str
    slice: str | None
    factor: float = 1.0


CASES = (
    Planted("nothing", None),
    Planted("a value, 40 % too much", "f1=2", 1.4),
    Planted("a value, 30 % too little", "f6=3", 0.7),
    Planted("a pair, 50 % too much", "f0=0, f6=1", 1.5),
    Planted("a pair, 50 % too little", "f1=1, f4=0", 0.5),
    Planted("everything, 20 % too much", "everything", 1.2),
)
CASES_OF_RUN = (
    CASES[0],
    Planted("a carrier, 40 % too much", "carrier=US", 1.4),
    Planted("a carrier, 30 % too little", "carrier=US", 0.7),
    Planted("an hour, 40 % too much", "hour=17", 1.4),
    Planted("an hour, 30 % too little", "hour=17", 0.7),
    Planted("everything, 20 % too much", "everything", 1.2),
)
FIELDS_OF_RUN = ["carrier", "origin", "dest", "hour"]
MINIMUM, RATE = 200, 0.05  # of `slices`


def sample(rows: int, taste: float, largest: int, seed: int) -> pl.DataFrame:
    """Return rows of users with lasting tastes.

    Args:
        rows: The number of rows, at most.
        taste: The standard deviation of the users' tastes.
        largest: The largest number of rows of a user.
        seed: What is drawn.

    Returns:
        `uid`, the fields, `label`, `predict`, and for the oracle `taste`: the standard deviation of
        the user's factor on the prediction.
    """
    random = np.random.default_rng(seed)
    sizes = np.minimum(1 + random.pareto(1.5, rows // 8) * 5, largest).astype(np.int64)
    users = sizes.size
    uid = np.arange(users).repeat(sizes)[:rows]
    columns = {}
    for at, (name, number) in enumerate(FIELDS.items()):
        shares = 1 / np.arange(1.0, number + 1)  # some values are common, others rare
        values = random.choice(number, users if at < OF_USER else rows, p=shares / shares.sum())
        columns[name] = (values[uid] if at < OF_USER else values[: uid.size]).astype(str)
    p = np.minimum(0.1 * np.exp(random.normal(-0.32, 0.8, uid.size)), _LARGEST)
    # The variance of a beta distribution of this mean that makes that of `own` taste².
    total = (1 - _LARGEST) / _LARGEST / taste**2 - 1
    own = random.beta(_LARGEST * total, (1 - _LARGEST) * total, users) / _LARGEST
    y = random.random(uid.size) < p * own[uid]
    return pl.DataFrame({"uid": uid, **columns, "label": y, "predict": p, "taste": taste})


def sample_of_run(run: pl.DataFrame, rows: int, taste: float, seed: int) -> pl.DataFrame:
    """Return a stretch of a run with users and labels drawn again, as for `sample`.

    The oracle takes what tastes do to labels as linear.
    """
    random = np.random.default_rng(seed)
    stretch = run.slice(int(random.integers(0, run.height - rows + 1)), rows)
    drawn = redrawn.drawn(stretch, random)
    p, users = drawn.get_column("p").to_numpy(), drawn.get_column("uid").to_numpy()
    y = redrawn.labels(p, users, taste, random)
    normal = statistics.NormalDist()
    slope = np.array([normal.pdf(normal.inv_cdf(one)) for one in p]) * taste
    fields = drawn.select("uid", pl.col(FIELDS_OF_RUN).cast(pl.String))
    return fields.with_columns(
        pl.Series("label", y),
        pl.Series("predict", p),
        pl.Series("taste", slope / p),
    )


def records_of(rows: pl.DataFrame, planted: Planted) -> pl.DataFrame:
    """Return records in which an error is planted."""
    off = pl.lit(planted.slice == "everything")
    if planted.slice and planted.slice != "everything":
        parts = [part.split("=") for part in planted.slice.split(", ")]
        off = pl.all_horizontal(pl.col(name) == value for name, value in parts)
    p = pl.col("predict") * pl.when(off).then(planted.factor).otherwise(1.0)
    return rows.with_columns(
        label=pl.struct(ctr=pl.col("label").cast(pl.Float32)),
        predict=pl.struct(ctr=p),
        planted=off,
        error=p - pl.col("label").cast(pl.Float64),
        shared=p * pl.col("taste"),
        noise=p * (1 - p) - (p * pl.col("taste")) ** 2,
    )


def level(records: pl.DataFrame, fields: Sequence[str], planted: Planted) -> float:
    """Return the number of standard errors at the level that one of all slices has."""
    number = len((planted.slice or "").split(", "))
    slices = [
        records.group_by(names).len().filter(pl.col("len") >= MINIMUM).height
        for names in itertools.combinations(fields, number)
    ]
    share = RATE / 2 / (sum(slices) + (number == 1))
    return statistics.NormalDist().inv_cdf(1 - share / 2)


def oracle(wrong: pl.DataFrame) -> float:
    """Return how many standard errors the planted slice is off; they are those of a right one."""
    of_users = wrong.group_by("uid").agg(pl.col("error", "noise", "shared").sum())
    error, noise, shared = (of_users[name].to_numpy() for name in ("error", "noise", "shared"))
    return abs(float(error.sum())) / math.sqrt(noise.sum() + (shared**2).sum())


def tried(
    planted: Planted, draw: Callable[[int], pl.DataFrame], fields: Sequence[str], number: int
) -> dict[str, float]:
    """Return how often something, the planted slice first, and it alone was found.

    Args:
        planted: The error.
        draw: Returns rows, as `sample` does, by a seed.
        fields: The fields to slice by.
        number: The number of replicates.
    """
    result = dict.fromkeys(("labels", "anything", "first", "alone", "oracle", "seconds"), 0.0)
    for seed in range(number):
        records = records_of(draw(seed), planted)
        wrong = records.filter("planted")
        result["labels"] += float(wrong.get_column("label").struct.field("ctr").sum())
        begin = time.monotonic()
        found = insight.slices(records, fields).get_column("slice").to_list()
        result["seconds"] += time.monotonic() - begin
        result["anything"] += bool(found)
        result["first"] += bool(found) and found[0] == planted.slice
        result["alone"] += found == [planted.slice]
        result["oracle"] += wrong.height > 0 and oracle(wrong) > level(records, fields, planted)
    return {name: value / number for name, value in result.items()}


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replicates", type=int, default=100)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--taste", type=float, help="standard deviation of the users' tastes")
    parser.add_argument("--largest", type=int, default=300, help="most rows of a user")
    parser.add_argument("--run", help="a run of flights, as of the quickstart")
    arguments = parser.parse_args()
    rows, taste = arguments.rows, arguments.taste
    if arguments.run:
        cases, fields = CASES_OF_RUN, FIELDS_OF_RUN
        run = redrawn.recalibrated(arguments.run)
        draw = functools.partial(sample_of_run, run, rows, taste or redrawn.TASTE)
    else:
        cases, fields = CASES, [*FIELDS]
        draw = functools.partial(sample, rows, taste or 0.5, arguments.largest)
    shown: list[tuple[str, int, Callable[[float], str]]] = [
        ("labels", 8, lambda value: f"{value:.0f}"),
        ("anything", 9, _percent),
        ("first", 8, _percent),
        ("alone", 8, _percent),
        ("oracle", 8, _percent),
        ("seconds", 8, lambda value: f"{value:.2f}"),
    ]
    print(f"{'planted':26}" + "".join(f"{name:>{width}}" for name, width, _ in shown))
    for planted in cases:
        result = tried(planted, draw, fields, arguments.replicates)
        texts = (f"{text(result[name]):>{width}}" for name, width, text in shown)
        print(f"{planted.name:26}{''.join(texts)}", flush=True)


if __name__ == "__main__":
    main()
