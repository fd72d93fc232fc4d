"""The tables of a state: sums of records, by target, group and part of the users.

They have one form whoever made them, so that they can be added, kept and finished.

A measure is computed from the cells of all users. Its standard error is computed from cells of each
part of the users, which are fewer: there are as many of these sums as parts, and nobody needs a
standard error to more than a hundredth of itself. So cells of parts leave out as many bits as are
needed for a group to have at most `COARSE` (see `cells`). The number of bits depends on all of the
group's cells, and not on the order in which states are merged.

Cells of delays stay as they are: the share of delays up to a percentile, of which it is to be told
how it differs between parts, may be decided within one cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.insight.measures import COUNTS, SUMS, Measure
from monolith_keras_metrics.records.ids import hashed_ids

PARTS = 100
COARSE = 256  # cells of a group; more of them change margins by less than a hundredth


class Table(NamedTuple):
    """The columns of a table, besides `group` (and `part`).

    Attributes:
        own: The further columns that identify a row.
        sums: The columns that are added up.
        in_parts: Whether it has a column `part`.
    """

    own: tuple[str, ...]
    sums: tuple[str, ...]
    in_parts: bool = True

    @property
    def keys(self) -> list[str]:
        """Return all columns that identify a row."""
        return ["group", *(["part"] if self.in_parts else []), *self.own]


_CELL_SUMS = ("positives", "negatives", "predictions", "examples")
TABLES = {
    "sums": Table((), (*SUMS, *COUNTS)),
    "cells": Table(("cell",), _CELL_SUMS, in_parts=False),
    "part_cells": Table(("cell",), _CELL_SUMS),
    "delays": Table(("delay",), ("weights",), in_parts=False),
    "part_delays": Table(("delay",), ("weights",)),
    "users": Table(("user",), (), in_parts=False),
    "user_cells": Table(("user", "cell"), ("positives", "negatives")),
}


def needed(measures: Iterable[Measure], parts: int, users: bool = True) -> tuple[str, ...]:
    """Return the names of the tables that measures need, and that tell the number of users."""
    names = {"sums", *(["users"] if users else []), *(measure.needs for measure in measures)}
    in_parts = {f"part_{name}" for name in names} if parts > 1 else set()
    return tuple(name for name in TABLES if name in names | in_parts)


class Form(NamedTuple):
    """What states must have in common to be merged.

    Attributes:
        groups: The names of the groups.
        weighted: Whether a record weighs 1 / `sample_rate`.
        exact: Whether a cell of `cells` and `delays` holds equal numbers only.
        parts: The number of parts of the users.
        tables: The names of the tables, of which the first is `"sums"`.
        coarse: Whether the cells of predictions are larger for parts than for all users.
        most_cells: The largest number of cells of predictions of a group, for states of very many
            groups; 0 for any number. As for parts, bits are left out: only as many as are needed.
    """

    groups: tuple[str, ...]
    weighted: bool
    exact: bool
    parts: int
    tables: tuple[str, ...]
    coarse: bool = True
    most_cells: int = 0


class Tables:
    """Sums of records.

    Attributes:
        form: What it has in common with those that it can be merged with.
        targets: The targets, in the order of the records' fields.
        groups: A row per group that has records: `target` and the keys.
        tables: The tables, by name, as in `TABLES`. `group` is the number of a row of `groups`.
    """

    def __init__(
        self,
        form: Form,
        targets: Sequence[str],
        groups: pl.DataFrame,
        tables: dict[str, pl.DataFrame],
    ) -> None:
        self.form = form
        self.targets = tuple(targets)
        self.groups = groups
        self.tables = tables

    @property
    def keys(self) -> list[str]:
        """Return the columns of `groups` that are not the target."""
        return self.groups.columns[1:]

    @property
    def height(self) -> int:
        """Return the number of rows of all tables."""
        return sum(table.height for table in self.tables.values())


def parts_of(user: pl.Series, parts: int) -> npt.NDArray[np.uint8]:
    """Return the part of each user: a hash of its uid, an integer or text, from 0 to `parts` - 1.

    Uids are sampled by their remainder, so the part must not depend on it: the bits are mixed
    (splitmix64, Steele et al. 2014).
    """
    if parts == 1:
        return np.zeros(user.len(), np.uint8)
    mixed = _integers(user).view(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    found: npt.NDArray[np.uint8] = (mixed % np.uint64(parts)).astype(np.uint8)
    return found


def _integers(user: pl.Series) -> npt.NDArray[np.int64]:
    """Return uids as integers; texts as `hashed_ids`, as records have them."""
    if user.dtype == pl.UInt64:
        user = user.reinterpret(signed=True)
    if user.dtype in (pl.String, pl.Categorical, pl.Enum):
        return hashed_ids(user.cast(pl.String).fill_null("").to_numpy())
    if user.dtype.is_integer() or user.dtype == pl.Null:
        numbers: npt.NDArray[np.int64] = user.cast(pl.Int64).fill_null(0).to_numpy()
        return numbers
    raise ValueError(
        f"`records` must have integers or text in 'uid' for intervals. Received: type {user.dtype}"
    )
