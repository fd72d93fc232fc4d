"""Pairs of rows: the same example in two trainings."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from monolith_keras_metrics.insight import steps
from monolith_keras_metrics.insight.portions import rows_of
from monolith_keras_metrics.insight.rows import Plan

_VALUES = ("y", "p", "w", "delay")


class Pairs:
    """The examples that two trainings have in common.

    Args:
        a: How the records of one training become rows, each with its example.
        b: The same of the other; their groups are the same as those of `a`.

    Attributes:
        counts: A row per target and group of either: `target`, the keys, and `examples`, `only_a`,
            `only_b` and `ambiguous`.
    """

    def __init__(self, a: Plan, b: Plan) -> None:
        group = ["target", *a.keys]
        example = ["target", *a.on]
        both = []
        for number, plan in enumerate((a, b), 1):
            steps.begin_part(f"run {number} of 2")
            both.append(pl.concat(rows_of(plan)).filter("valid"))
        of_a, of_b = both
        steps.begin_part("")
        names = [*a.on, *a.keys]
        for name, one, other in zip(names, *(of.select(names).dtypes for of in both), strict=True):
            if one != other:
                what = a.names[name]
                raise ValueError(
                    f"`a` and `b` must have the same type of {what!r}. Received: {one} and {other}"
                )
        steps.begin(f"pairing {of_a.height:,} and {of_b.height:,} examples")
        repeated = pl.concat(
            rows.group_by(example).len().filter(pl.col("len") > 1) for rows in (of_a, of_b)
        )
        # An example whose column is null is none that can be found elsewhere.
        one_a, one_b = (rows.join(repeated, on=example, how="anti") for rows in (of_a, of_b))
        self._pairs = one_a.join(
            one_b.select(*example, pl.col(_VALUES).name.suffix("_b")), on=example
        )
        ambiguous = pl.concat(
            rows.join(repeated, on=example, how="semi").select(*example, *a.keys)
            for rows in (of_a, of_b)
        ).unique(example, keep="first", maintain_order=True)
        counted = {
            "examples": self._pairs,
            "only_a": one_a.join(one_b, on=example, how="anti"),
            "only_b": one_b.join(one_a, on=example, how="anti"),
            "ambiguous": ambiguous,
        }
        each = [
            rows.group_by(group).agg(**{name: pl.len().cast(pl.Int64)})
            for name, rows in counted.items()
        ]
        targets = pl.concat([of_a, of_b]).get_column("target").unique(maintain_order=True)
        order = pl.col("target").replace_strict(targets, range(len(targets)), return_dtype=pl.Int64)
        self.counts = (
            pl.concat(each, how="diagonal")
            .group_by(group)
            .agg(pl.col(*counted).sum())
            .sort(order, *a.keys, nulls_last=True)
        )

    def rows(self, side: str) -> pl.DataFrame:
        """Return the rows of the pairs, with the values of training `"a"` or `"b"`."""
        if side == "a":
            return self._pairs
        return self._pairs.with_columns(pl.col(f"{name}_b").alias(name) for name in _VALUES)


def default_on(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """Return the columns that identify an example, for the columns of two trainings."""
    return ["example_id"] if "example_id" in a and "example_id" in b else ["uid", "req_time"]
