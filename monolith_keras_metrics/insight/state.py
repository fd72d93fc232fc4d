"""A `State`: sums of records, from which every measure is computed.

Everything in it is a sum per target, group of records, and part of the users, so the states of
files, workers and machines are merged by adding. It has up to five tables:

- `sums`: the sums and counts of `measures.SUMS` and `measures.COUNTS`;
- `cells`: positives, negatives and predictions of each cell of the predictions (see `cell_of`);
- `delays`: the weight of each cell of the delays between request and training;
- `users`: each user once;
- `user_cells`: the positives and negatives of each user's cells, for measures within users.

*Parts* are 100 groups of users, by a hash of their uid. Intervals come from leaving out one part
after the other. Without intervals, all users are in one part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from monolith_keras_metrics.insight.measures import COUNTS, SUMS

Values = np.ndarray[tuple[int], np.dtype[np.float64]]

PARTS = 100
_ROWS_AT_ONCE = 1_000_000  # of the targets that are added up together; bounds memory
_MASK = np.uint32(0xFFFF8000)  # sign, exponent, and the first 8 bits of the mantissa
_CELL = {
    "positives": (pl.col("w") * pl.col("y")).sum(),
    "negatives": (pl.col("w") * (1 - pl.col("y"))).sum(),
}
TABLES = {
    "sums": ((), [*(sum_.sum().alias(name) for name, sum_ in {**SUMS, **COUNTS}.items())]),
    "cells": (
        ("cell",),
        [
            *(sum_.alias(name) for name, sum_ in _CELL.items()),
            (pl.col("w") * pl.col("p")).sum().alias("predictions"),
            pl.len().cast(pl.Float64).alias("examples"),
        ],
    ),
    "delays": (("delay",), [pl.col("w").sum().alias("weights")]),
    "users": (("user",), [pl.lit(1, pl.Int64).alias("there")]),
    "user_cells": (("user", "cell"), [sum_.alias(name) for name, sum_ in _CELL.items()]),
}


class Form(NamedTuple):
    """What states must have in common to be merged.

    Attributes:
        groups: The names of the groups.
        weighted: Whether a record weighs 1 / `sample_rate`.
        exact: Whether a cell holds equal predictions only.
        parts: The number of parts of the users.
        tables: The names of the tables, of which the first is `"sums"`.
    """

    groups: tuple[str, ...]
    weighted: bool
    exact: bool
    parts: int
    tables: tuple[str, ...]


class State:
    """Sums of records; see the module.

    Attributes:
        form: What it has in common with the states that it can be merged with.
        targets: The targets, in the order of the records' fields.
        tables: The tables, by name.
    """

    def __init__(self, form: Form, targets: Sequence[str], tables: dict[str, pl.DataFrame]) -> None:
        self.form = form
        self.targets = tuple(targets)
        self.tables = tables

    @classmethod
    def of_rows(cls, frames: Iterable[pl.DataFrame], keys: Sequence[str], form: Form) -> State:
        """Add up rows.

        Args:
            frames: Rows of any targets, as `rows_of` gives them.
            keys: The columns of the rows by which they are grouped.
            form: The form of the state.
        """
        parts: list[State] = []
        waiting: list[pl.DataFrame] = []
        rows = 0
        for frame in frames:
            waiting.append(frame)
            rows += frame.height
            if rows >= _ROWS_AT_ONCE:
                parts.append(cls._of_frame(pl.concat(waiting), keys, form))
                waiting, rows = [], 0
        if waiting or not parts:
            parts.append(cls._of_frame(pl.concat(waiting), keys, form))
        return cls.merge(parts)

    @classmethod
    def _of_frame(cls, rows: pl.DataFrame, keys: Sequence[str], form: Form) -> State:
        targets = rows.get_column("target").unique(maintain_order=True).to_list()
        by = ["target", *keys, "part"]
        needed = {column for name in form.tables for column in TABLES[name][0]}
        rows = rows.with_columns(
            part_of(pl.col("user"), form.parts),
            **{
                name: rows.get_column(column) if form.exact else _cells(rows.get_column(column))
                for name, column in (("cell", "p"), ("delay", "delay"))
                if name in needed
            },
        )
        tables = {"sums": rows.group_by(by).agg(TABLES["sums"][1])}
        valid = rows.filter("valid")
        for name in form.tables[1:]:
            own, sums = TABLES[name]
            there = valid.drop_nulls("delay") if name == "delays" else valid
            tables[name] = there.group_by(*by, *own).agg(sums)
        return cls(form, targets, tables)

    @classmethod
    def merge(cls, states: Iterable[State]) -> State:
        """Return the state of all records of several states.

        Raises:
            ValueError: If there is none, or if they differ in their form.
        """
        states = list(states)
        forms = {state.form for state in states}
        if len(forms) != 1:
            raise ValueError(
                "`states` must be at least one state, made with the same arguments. "
                f"Received: {sorted(map(str, forms))}"
            )
        if len(states) == 1:
            return states[0]
        (form,) = forms
        targets = dict.fromkeys(target for state in states for target in state.targets)
        tables = {}
        for name in form.tables:
            _, sums = TABLES[name]
            columns = [one.meta.output_name() for one in sums]
            all_rows = pl.concat([state.tables[name] for state in states])
            keys = [column for column in all_rows.columns if column not in columns]
            together = pl.col(columns).sum() if name != "users" else pl.col(columns).first()
            tables[name] = all_rows.group_by(keys).agg(together)
        return cls(form, [*targets], tables)


def part_of(user: pl.Expr, parts: int) -> pl.Expr:
    """Return the part of each user: a hash of its uid, from 0 to `parts` - 1.

    Uids are sampled by their remainder, so the part must not depend on it: the bits are mixed
    (splitmix64, Steele et al. 2014).
    """
    if parts == 1:
        return pl.lit(0, pl.UInt8).alias("part")
    mixed = user.fill_null(0).cast(pl.Int64).reinterpret(signed=False)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ (mixed // (1 << shift))) * pl.lit(factor, pl.UInt64)
    return (mixed % parts).cast(pl.UInt8).alias("part")


def cell_of(values: Values) -> Values:
    """Return the cell of each value, as a number within it.

    A cell is what the top bits of a float32 tell apart: sign, exponent, and 8 bits of the mantissa.
    So cells are narrow where values are small, by a factor of 1 + 2^-8, as rates of rare events
    are. From 1/2 on it is the distance from 1 that is told apart, for rates near 1.

    Example:
    >>> cell_of(np.array([0.25, 0.2509, 0.251, 0.75, 0.7491, 0.749]))
    array([0.25      , 0.25      , 0.25097656, 0.75      , 0.75      ,
           0.74902344])
    """
    upper = values >= 0.5
    distance = np.where(upper, 1 - values, values).astype(np.float32)
    lowest = (distance.view(np.uint32) & _MASK).view(np.float32).astype(np.float64)
    cells: Values = np.where(upper, 1 - lowest, lowest)
    return cells


def _cells(values: pl.Series) -> pl.Series:
    """Return the cells of a column; null stays null."""
    with np.errstate(invalid="ignore"):
        cells = pl.Series(cell_of(values.to_numpy()))
    return cells.set(values.is_null(), None)
