"""Runs with labels that are drawn again, so that it is known where their models are right.

The predictions of a run, such as the quickstart's, whose model learned while it was recorded, are
recalibrated: records with nearly the same prediction get the share of positives that they had. Each
replicate draws users with replacement, and their labels from these predictions. Each user has a
lasting taste. So the model is right on average, in every hour and in every slice.
"""

from __future__ import annotations

import statistics

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics import insight

Array = npt.NDArray[np.float64]
Random = np.random.Generator

TASTE = 0.36  # multiplies a rate of 20 % by a factor with a standard deviation of about 0.5


def recalibrated(run: str, target: str | None = None, levels: int = 20) -> pl.DataFrame:
    """Return a run's rows in the order of time, with the recalibrated predictions `p`.

    Args:
        run: The run.
        target: One of its targets. Default: the first.
        levels: The number of different predictions.
    """
    rows = insight.long_form(insight.open_run(run)).collect()
    rows = rows.filter(pl.col("target") == (target or rows["target"][0])).sort("req_time")
    level = pl.col("predict").rank("ordinal") * levels // (pl.len() + 1)
    return rows.with_columns(level=level.cast(pl.Int64)).with_columns(
        p=pl.col("label").mean().over("level")
    )


def drawn(rows: pl.DataFrame, random: Random) -> pl.DataFrame:
    """Return the rows of users drawn with replacement; each draw is a user of its own."""
    known = rows.get_column("uid").unique().sort()
    chosen = pl.DataFrame({"uid": known[random.integers(0, known.len(), known.len())]})
    chosen = chosen.with_row_index("user")
    return rows.join(chosen, on="uid", maintain_order="left").with_columns(
        uid=pl.col("user").cast(pl.Int64)
    )


def labels(p: Array, users: npt.NDArray[np.int64], taste: float, random: Random) -> Array:
    """Return labels that are positive with the probabilities `p`.

    A label is positive if a normal variable is below a limit. The user's taste is a part of it
    (the one-factor model of Vasicek 1987, "Probability of loss on loan portfolio").

    Args:
        p: The probability of each record.
        users: The user of each record, from 0 on.
        taste: The standard deviation of tastes; that of the variable is 1.
        random: Draws them.
    """
    different, at = np.unique(np.clip(p, 1e-9, 1 - 1e-9), return_inverse=True)
    limits = np.array([statistics.NormalDist().inv_cdf(one) for one in different])
    own = random.normal(0, taste, int(users.max()) + 1)
    rest = random.normal(0, np.sqrt(1 - taste**2), users.size)
    return (own[users] + rest < limits[at]).astype(np.float64)
