"""The groups of a `State` and their sums as arrays, with each part of the users left out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.insight import steps
from monolith_keras_metrics.insight.curves import Array, Cells
from monolith_keras_metrics.insight.measures import Sums
from monolith_keras_metrics.insight.tables import Tables

_VALUES_AT_ONCE = 4_000_000  # of an array; bounds memory
_NUMBERS = 20  # about as many arrays as that are made of a group's sums
_SHOWN = ["examples", "unlabelled", "invalid", "revisits"]
_GROUP, _NUMBER = "\ngroup", "\nnumber"  # no user's column has these names
_CELLS = {"cells": "cell", "delays": "delay"}


class Groups:
    """The groups of a state, in order.

    Args:
        state: The state.
        leave_out: Whether to have the sums without each part, too.

    Attributes:
        frame: A row per target and group: `target`, the keys, and the counts.
    """

    def __init__(self, state: Tables, leave_out: bool) -> None:
        sums = state.tables["sums"]
        keys = state.keys
        targets = state.targets
        order = pl.col("target").replace_strict(targets, range(len(targets)), return_dtype=pl.Int64)
        counts = sums.group_by("group").agg(pl.col(_SHOWN).sum().cast(pl.Int64))
        users = state.tables["users"].group_by("group").agg(users=pl.len().cast(pl.Int64))
        frame = (
            state.groups.with_row_index(_NUMBER)
            .join(counts, left_on=_NUMBER, right_on="group", maintain_order="left")
            .join(users, left_on=_NUMBER, right_on="group", how="left", maintain_order="left")
            .with_columns(pl.col("users").fill_null(0))
            .sort(order, *keys, nulls_last=True)
        )
        positions = np.empty(state.groups.height, np.uint32)
        positions[frame.get_column(_NUMBER).to_numpy()] = np.arange(frame.height)
        tables = {
            name: table.with_columns(
                pl.Series(_GROUP, positions[table.get_column("group").to_numpy()])
            ).drop("group")
            for name, table in state.tables.items()
        }
        self.frame = frame.drop(_NUMBER)
        self._exact = state.form.exact
        self._parts = state.form.parts
        self._leave_out = leave_out
        self._sums = tables["sums"]
        if "user_cells" in tables:
            self._sums = _with_user_aucs(self._sums, tables["user_cells"])
        self._ranked = {
            name: _ranked(tables[name], cell) for name, cell in _CELLS.items() if name in tables
        }
        # What a single group of a target may not show.
        of_groups = sums.group_by("group").agg(pl.col("other_labels", "outside").sum())
        self._flags = frame.join(
            of_groups, left_on=_NUMBER, right_on="group", maintain_order="left"
        ).select(
            binary=(pl.col("other_labels").sum() == 0).over("target"),
            probabilities=(pl.col("outside").sum() == 0).over("target"),
        )

    def sums(self) -> Iterator[tuple[npt.NDArray[np.int64], Sums]]:
        """Yield the positions of some groups and their sums, until all were there.

        The arrays have shape `(groups, layers)`. The first layer is of all users, the others leave
        out one part each.
        """
        sizes = np.ones(self.frame.height, np.int64)
        for table in self._ranked.values():
            longest = table.group_by(_GROUP).agg(pl.col("rank").max() + 1)
            at = longest.get_column(_GROUP).to_numpy()
            sizes[at] = np.maximum(sizes[at], longest.get_column("rank").to_numpy())
        # Groups with similar numbers of cells go together, since the shorter are padded.
        order = np.argsort(sizes, kind="stable")
        layers = 1 + self._parts * self._leave_out
        costs = layers * (sizes[order] + _NUMBERS)
        start = 0
        measuring = steps.begin("measuring", order.size, "groups")
        while start < order.size:
            fitting = costs[start:] * np.arange(1, order.size - start + 1) <= _VALUES_AT_ONCE
            end = start + max(1, int(fitting.sum()))
            yield order[start:end], self._of(order[start:end], int(sizes[order[end - 1]]))
            measuring.done = start = end

    def _of(self, chosen: npt.NDArray[np.int64], size: int) -> Sums:
        """Return the sums of some groups, each with `size` cells."""
        place = pl.DataFrame({_GROUP: chosen.astype(np.uint32), "at": np.arange(chosen.size)})
        sums = self._sums.join(place, on=_GROUP)
        names = [name for name in sums.columns if name not in (_GROUP, "part", "at")]
        empty = np.zeros((chosen.size, 1, 0))
        cells, delays, seconds = Cells(empty, empty, empty, empty), empty, empty
        if "cells" in self._ranked:
            found = self._ranked["cells"].join(place, on=_GROUP)
            cells = Cells(*(self._layers(found, name, chosen.size, size) for name in Cells._fields))
        if "delays" in self._ranked:
            found = self._ranked["delays"].join(place, on=_GROUP)
            delays = self._layers(found, "weights", chosen.size, size)
            at, rank, delay = (found.get_column(n).to_numpy() for n in ("at", "rank", "delay"))
            one = np.zeros((chosen.size, 1, size))
            one[at, 0, rank] = delay
            seconds = np.broadcast_to(one, delays.shape)
        flags = self._flags[chosen]
        return Sums(
            {name: self._layers(sums, name, chosen.size) for name in names},
            flags.get_column("binary").to_numpy()[:, None],
            flags.get_column("probabilities").to_numpy()[:, None],
            self._exact,
            cells,
            delays,
            seconds,
        )

    def _layers(self, table: pl.DataFrame, name: str, groups: int, size: int = 0) -> Array:
        """Return a column as an array: the sums of all parts, then those without each part.

        Args:
            table: Its columns `at`, `part` and, if `size` is not 0, `rank` are the positions.
            name: The column.
            groups: The number of groups.
            size: The number of cells; 0 if a group has one value.
        """
        shape = (groups, self._parts, size) if size else (groups, self._parts)
        axes = ("at", "part", "rank")[: len(shape)]
        values = np.zeros(shape)
        values[tuple(table.get_column(axis).to_numpy() for axis in axes)] = table.get_column(
            name
        ).to_numpy()
        total: Array = values.sum(axis=1, keepdims=True)
        if not self._leave_out:
            return total
        rest = total - values
        rest[np.abs(rest) < 1e-12 * np.abs(total)] = 0.0  # what rounding leaves of nothing
        return np.concatenate([total, rest], axis=1)


def _ranked(table: pl.DataFrame, cell: str) -> pl.DataFrame:
    """Return the table with the rank of each cell within its group, from 0."""
    group, cells = (table.get_column(name).to_numpy() for name in (_GROUP, cell))
    rising = (group[1:] > group[:-1]) | ((group[1:] == group[:-1]) & (cells[1:] >= cells[:-1]))
    if not rising.all():
        order = np.lexsort((cells, group))
        table, group, cells = table[order], group[order], cells[order]
    is_new = np.ones(group.size, np.bool_)  # the first row of a cell
    is_new[1:] = (group[1:] != group[:-1]) | (cells[1:] != cells[:-1])
    cell_number = np.cumsum(is_new) - 1
    starts = np.flatnonzero(np.diff(group.astype(np.int64), prepend=-1))
    firsts = cell_number[starts].repeat(np.diff(starts, append=group.size))
    return table.with_columns(rank=pl.Series(cell_number - firsts, dtype=pl.Int64))


def _with_user_aucs(sums: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """Return the sums with `user_aucs` and `user_auc_weights`."""
    by = [_GROUP, "part", "user"]
    # The AUC of one user at a time, by the same formula as that of all: see curves.auc.
    negatives = pl.col("negatives")
    below = negatives.cum_sum() - negatives / 2
    pairs = pl.col("positives").sum() * negatives.sum()
    weight = (pl.col("positives") + negatives).sum()
    area = pl.when(pairs > 0).then((pl.col("positives") * below).sum() / pairs)
    of_users = cells.sort("cell").group_by(by).agg(area=area, weight=weight)
    of_parts = (
        of_users.drop_nulls("area")
        .group_by(_GROUP, "part")
        .agg(user_aucs=(pl.col("area") * pl.col("weight")).sum(), user_auc_weights=pl.sum("weight"))
    )
    new = pl.col("user_aucs", "user_auc_weights").fill_null(0.0)
    return sums.join(of_parts, on=[_GROUP, "part"], how="left").with_columns(new)
