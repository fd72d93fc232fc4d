"""How often `slices` finds something where nothing is wrong, and the slice that is wrong.

    python benchmarks/culprits.py --replicates 200

Each replicate is a new sample of users whose number of examples is Pareto distributed. Some fields
belong to the user, as a country does, and some to the example, as a position does. Each user clicks
more, or less, than the model can know, always: by a factor of their own that is 1 on average. So
the model is right on average, in every slice, unless an error is planted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

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


def sample(rows: int, seed: int, taste: float = 0.5, rate: float = 0.1) -> pl.DataFrame:
    """Return rows of users with lasting tastes: `uid`, the fields, `label` and `predict`."""
    random = np.random.default_rng(seed)
    sizes = np.minimum(1 + random.pareto(1.5, rows // 8) * 5, 300).astype(np.int64)
    users = sizes.size
    uid = np.arange(users).repeat(sizes)[:rows]
    columns = {}
    for at, (name, number) in enumerate(FIELDS.items()):
        shares = 1 / np.arange(1.0, number + 1)  # some values are common, others rare
        values = random.choice(number, users if at < OF_USER else rows, p=shares / shares.sum())
        columns[name] = (values[uid] if at < OF_USER else values[: uid.size]).astype(str)
    p = np.minimum(rate * np.exp(random.normal(-0.32, 0.8, uid.size)), _LARGEST)
    # The variance of a beta distribution of this mean that makes that of `own` taste².
    total = (1 - _LARGEST) / _LARGEST / taste**2 - 1
    own = random.beta(_LARGEST * total, (1 - _LARGEST) * total, users) / _LARGEST
    y = random.random(uid.size) < p * own[uid]
    return pl.DataFrame({"uid": uid, **columns, "label": y, "predict": p})


def records_of(rows: pl.DataFrame, planted: Planted) -> pl.DataFrame:
    """Return records in which an error is planted."""
    off = pl.lit(planted.slice == "everything")
    if planted.slice and planted.slice != "everything":
        parts = [part.split("=") for part in planted.slice.split(", ")]
        off = pl.all_horizontal(pl.col(name) == value for name, value in parts)
    factor = pl.when(off).then(planted.factor).otherwise(1.0)
    return rows.with_columns(
        label=pl.struct(ctr=pl.col("label").cast(pl.Float32)),
        predict=pl.struct(ctr=pl.col("predict") * factor),
        planted=off,
    )


def tried(
    planted: Planted, rows: int, seeds: Sequence[int], taste: float, rate: float = 0.1
) -> dict[str, float]:
    """Return how often something, the planted slice first, and it alone was found."""
    any_found = first = alone = 0
    labels = seconds = 0.0
    for seed in seeds:
        records = records_of(sample(rows, seed, taste, rate), planted)
        wrong = records.filter("planted")
        labels += float(wrong.get_column("label").struct.field("ctr").sum()) / len(seeds)
        begin = time.monotonic()
        found = insight.slices(records.drop("planted")).get_column("slice").to_list()
        seconds += (time.monotonic() - begin) / len(seeds)
        any_found += bool(found)
        first += bool(found) and found[0] == planted.slice
        alone += found == [planted.slice]
    number = len(seeds)
    return {
        "labels": labels,
        "anything": any_found / number,
        "first": first / number,
        "alone": alone / number,
        "seconds": seconds,
    }


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replicates", type=int, default=100)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument(
        "--taste", type=float, default=0.5, help="standard deviation of the users' tastes"
    )
    arguments = parser.parse_args()
    shown: list[tuple[str, int, Callable[[float], str]]] = [
        ("labels", 8, lambda value: f"{value:.0f}"),
        ("anything", 9, _percent),
        ("first", 8, _percent),
        ("alone", 8, _percent),
        ("seconds", 8, lambda value: f"{value:.2f}"),
    ]
    print(f"{'planted':26}" + "".join(f"{name:>{width}}" for name, width, _ in shown))
    for at, planted in enumerate(CASES):
        seeds = range(at * 1_000_000, at * 1_000_000 + arguments.replicates)
        result = tried(planted, arguments.rows, seeds, arguments.taste)
        texts = (f"{text(result[name]):>{width}}" for name, width, text in shown)
        print(f"{planted.name:26}{''.join(texts)}", flush=True)


if __name__ == "__main__":
    main()
