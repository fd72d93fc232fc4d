"""The groups of a `State` and their sums as arrays, with each part of the users left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import polars as pl

from monolith_keras_metrics.insight import steps
from monolith_keras_metrics.insight.chunks import Chunk, Layout, Rows, Table
from monolith_keras_metrics.insight.curves import Array, Cells
from monolith_keras_metrics.insight.keys import Numbers
from monolith_keras_metrics.insight.measures import Sums
from monolith_keras_metrics.insight.tables import Tables

_VALUES_AT_ONCE = 1 << 20  # of an array, so that it stays in the processor's cache
_GROUPS_AT_ONCE = 1 << 12
_NUMBERS = 20  # about as many arrays as that are made of a group's sums
_SHOWN = ["examples", "unlabelled", "invalid", "revisits"]
_CELLS = {"cells": "cell", "delays": "delay"}
_ODD = ["other_labels", "outside"]
_NUMBER, _TARGET = "\nnumber", "\ntarget"  # no user's column has these names

Merging = Callable[[Cells], Numbers]


class Groups:
    """The groups of a state, in order.

    Args:
        state: The state.
        leave_out: Whether to have the sums without each part, too.
        merging: For the sums without each part: returns the number of the larger cell of each
            cell, given the cells of all users, shape `(groups, cells)`. None leaves cells as they
            are.

    Attributes:
        frame: A row per target and group: `target`, the keys, and the counts; without `users` if
            the state does not have them.
    """

    def __init__(self, state: Tables, leave_out: bool, merging: Merging | None = None) -> None:
        tables = state.tables
        sums = tables["sums"]
        # NumPy, since small states are finished very often, and each call of Polars has its cost.
        group, number = sums.get_column("group").to_numpy(), state.groups.height
        counts = {
            name: np.bincount(group, sums.get_column(name).to_numpy(), number).astype(np.int64)
            for name in (*_SHOWN, *_ODD)
        }
        if "users" in tables:
            users = tables["users"].get_column("group").to_numpy()
            counts["users"] = np.bincount(users, minlength=number)
        odd = [counts.pop(name) for name in _ODD]
        places = {target: at for at, target in enumerate(state.targets)}
        target = np.array([places[one] for one in state.groups.get_column("target")], np.int64)
        frame = state.groups.hstack(
            [
                *(pl.Series(name, own, pl.Int64) for name, own in counts.items()),
                pl.Series(_TARGET, target),
                pl.Series(_NUMBER, np.arange(number)),
            ]
        ).sort(_TARGET, *state.keys, nulls_last=True)
        order = frame.get_column(_NUMBER).to_numpy()
        positions = np.empty(number, np.int64)
        positions[order] = np.arange(number)
        # What a single group of a target may not show.
        of_targets = [np.bincount(target, own, len(places))[target][order] for own in odd]
        self._kinds = [(found == 0)[:, None] for found in of_targets]
        self.frame = frame.drop(_TARGET, _NUMBER)
        self._merging = merging
        self._parts = state.form.parts if leave_out else 0
        if "user_cells" in tables:
            sums = _with_user_aucs(sums, tables["user_cells"])
        self._sums = Table(sums, positions)
        self._exact = state.form.exact
        there = {name: cell for name, cell in _CELLS.items() if name in tables}
        self._whole = {
            name: Table(tables[name], positions, cell, state.form.exact)
            for name, cell in there.items()
        }
        self._without = {
            name: Table(tables[f"part_{name}"], positions, cell, exact=False)
            for name, cell in there.items()
            if leave_out
        }

    def together(self) -> Iterator[Numbers]:
        """Yield the positions of groups that are to be one chunk, until all were there."""
        whole, without = np.zeros((2, self.frame.height), np.int64)
        for name, table in self._whole.items():
            whole += table.sizes
            without += self._without[name].sizes if self._parts else 0
        layers = (1 + self._sums.heights) * (self._parts > 0)
        # Groups of similar sizes go together, since the smaller are padded.
        order = np.argsort(whole + layers * without, kind="stable")
        start = 0
        measuring = steps.begin("measuring", order.size, "groups")
        while start < order.size:
            some = order[start : start + _GROUPS_AT_ONCE]
            most = [np.maximum.accumulate(values[some]) for values in (whole, layers, without)]
            costs = most[0] + _NUMBERS + most[1] * (most[2] + _NUMBERS)
            fitting = costs * np.arange(1, some.size + 1) <= _VALUES_AT_ONCE
            end = start + max(1, int(fitting.sum()))
            yield order[start:end]
            measuring.done = start = end

    def chunk(self, positions: Numbers) -> Chunk:
        """Return the sums of groups at some positions."""
        sums = self._sums.of(positions)
        whole = {name: table.of(positions) for name, table in self._whole.items()}
        of_all = self._of(positions, sums, whole, Rows.total)
        if not self._parts:
            return Chunk(of_all, None, Layout.of(sums, 0))
        layout = Layout.of(sums, self._parts)
        without = {name: table.of(positions) for name, table in self._without.items()}
        larger = None
        if self._merging and "cells" in without:
            cells = [without["cells"].total(name)[:, 0] for name in Cells._fields]
            larger = self._merging(Cells(*cells))

        def added(rows: Rows, name: str) -> Array:
            return rows.without(name, layout, larger if rows is without.get("cells") else None)

        return Chunk(of_all, self._of(positions, sums, without, added), layout)

    def _of(
        self,
        positions: Numbers,
        sums: Rows,
        tables: Mapping[str, Rows],
        added: Callable[[Rows, str], Array],
    ) -> Sums:
        """Return sums of groups.

        Args:
            positions: The positions of the groups.
            sums: Their rows of the table `sums`.
            tables: Their rows of `cells` and `delays`, where these are.
            added: Returns the sums of a column, with an axis for cells.
        """
        empty = np.zeros((positions.size, 1, 0))
        cells, delays, seconds = Cells(empty, empty, empty, empty), empty, empty
        if rows := tables.get("cells"):
            cells = Cells(*(added(rows, name) for name in Cells._fields))
        if rows := tables.get("delays"):
            delays = added(rows, "weights")
            seconds = np.broadcast_to(rows.names("delay"), delays.shape)
        binary, probabilities = (kind[positions] for kind in self._kinds)
        return Sums(
            {name: added(sums, name)[..., 0] for name in sums.columns if name != "part"},
            binary,
            probabilities,
            self._exact,
            cells,
            delays,
            seconds,
        )


def _with_user_aucs(sums: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """Return the sums with `user_aucs` and `user_auc_weights`."""
    by = ["group", "part", "user"]
    # The AUC of one user at a time, by the same formula as that of all: see curves.auc.
    negatives = pl.col("negatives")
    below = negatives.cum_sum() - negatives / 2
    pairs = pl.col("positives").sum() * negatives.sum()
    weight = (pl.col("positives") + negatives).sum()
    area = pl.when(pairs > 0).then((pl.col("positives") * below).sum() / pairs)
    of_users = cells.sort("cell").group_by(by).agg(area=area, weight=weight)
    of_parts = (
        of_users.drop_nulls("area")
        .group_by("group", "part")
        .agg(user_aucs=(pl.col("area") * pl.col("weight")).sum(), user_auc_weights=pl.sum("weight"))
    )
    new = pl.col("user_aucs", "user_auc_weights").fill_null(0.0)
    return sums.join(of_parts, on=["group", "part"], how="left").with_columns(new)
