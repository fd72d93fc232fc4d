"""The sums of some groups of a `State` as arrays, of all users and without each part of them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.insight.cells import codes_of, ranks_of
from monolith_keras_metrics.insight.curves import Array, Cells
from monolith_keras_metrics.insight.keys import Numbers, bits_of, in_order
from monolith_keras_metrics.insight.measures import Measure, Sums

_NONE = np.zeros(0, np.int64)
_HALVINGS = 5  # of all parts: each gives two halves


class Layout(NamedTuple):
    """The layers of some groups: the first is of all users, each other leaves out a part.

    A group has a layer per part that has records of it, and some that are not used.

    Attributes:
        at: The group of each part that has records of it, shape `(n,)`, as are the others.
        part: The part.
        layer: The layer that leaves it out.
        of_part: The layer that leaves out a part, shape `(groups, parts)`.
        layers: The number of layers.
    """

    at: Numbers
    part: Numbers
    layer: Numbers
    of_part: Numbers
    layers: int

    @classmethod
    def of(cls, sums: Rows, parts: int) -> Layout:
        """Return the layers that the rows of the table `sums` of some groups need."""
        of_part = np.zeros((sums.groups, parts), np.int64)
        if not parts:
            return cls(_NONE, _NONE, _NONE, of_part, 1)
        part = sums.columns["part"].astype(np.int64)
        layer = 1 + np.arange(sums.at.size) - np.searchsorted(sums.at, sums.at)
        of_part[sums.at, part] = layer
        return cls(sums.at, part, layer, of_part, 1 + int(layer.max(initial=0)))


class Rows(NamedTuple):
    """The rows of a table, of some groups.

    Attributes:
        groups: The number of groups.
        at: The group of each row, from 0.
        rank: The number of its cell, from 0 for each group.
        columns: All other columns.
    """

    groups: int
    at: Numbers
    rank: Numbers
    columns: dict[str, npt.NDArray[Any]]

    @property
    def size(self) -> int:
        """Return the largest number of cells of a group, or 1."""
        return int(self.rank.max(initial=0)) + 1

    def names(self, column: str) -> Array:
        """Return the names of cells, which a column has, shape `(groups, 1, size)`."""
        found = np.zeros((self.groups, 1, self.size))
        found[self.at, 0, self.rank] = self.columns[column]
        return found

    def total(self, name: str) -> Array:
        """Return the sums of a column, shape `(groups, 1, size)`."""
        shape = (self.groups, 1, self.size)
        if self.groups == 1 and self.size == self.at.size:  # there is nothing to be added up
            return self.columns[name].astype(np.float64).reshape(shape)
        return _added(self.at * self.size + self.rank, self.columns[name], shape)

    def without(self, name: str, layout: Layout, larger: Numbers | None = None) -> Array:
        """Return the sums of a column, of all rows and without each part of them.

        Args:
            name: The column.
            layout: The layers.
            larger: The number of the larger cell of each cell, shape `(groups, size)`; None to
                leave cells as they are.

        Returns:
            Shape `(groups, layers, larger cells)`.
        """
        number = self.rank if larger is None else larger[self.at, self.rank]
        size = int(number.max(initial=0)) + 1
        layer = layout.of_part[self.at, self.columns["part"]]
        places = (self.at * layout.layers + layer) * size + number
        sums = _added(places, self.columns[name], (self.groups, layout.layers, size))
        total = sums.sum(axis=1, keepdims=True)
        np.subtract(total, sums, out=sums)
        sums[np.abs(sums) < 1e-12 * np.abs(total)] = 0.0  # what rounding leaves of nothing
        return sums


class Table:
    """A table of a state in the order of groups and cells.

    Args:
        table: The table.
        positions: The position of each group, by its number.
        cell: The column of the cells; None if a group is one cell.
        exact: Whether a cell holds equal numbers only.

    Attributes:
        heights: The number of rows of each group.
        sizes: The number of cells of each group.
    """

    def __init__(
        self, table: pl.DataFrame, positions: Numbers, cell: str | None = None, exact: bool = True
    ) -> None:
        columns = {name: table.get_column(name).to_numpy() for name in table.columns}
        group = positions[columns.pop("group")]
        keys = [group]
        if cell is not None:
            names = columns[cell]
            keys.append(bits_of(names) if exact else ranks_of(codes_of(names)))
        order, firsts = in_order(keys)
        self._columns = {name: column[order] for name, column in columns.items()}
        self._starts = np.searchsorted(group[order], np.arange(positions.size + 1))
        self.heights = np.diff(self._starts)
        # Cells are numbered through all groups, then from 0 for each.
        number = np.arange(firsts.size).repeat(np.diff(firsts, append=group.size))
        first_of_group = np.append(number, firsts.size)[self._starts]
        self._rank = number - first_of_group[:-1].repeat(self.heights)
        self.sizes = np.diff(first_of_group)

    def of(self, positions: Numbers) -> Rows:
        """Return the rows of groups at some positions."""
        starts = self._starts[positions]
        counts = self._starts[positions + 1] - starts
        at = np.arange(positions.size).repeat(counts)
        rows: Numbers | slice = slice(starts[0], starts[0] + at.size)
        if positions.size > 1:
            rows = np.arange(at.size) + (starts - (np.cumsum(counts) - counts)).repeat(counts)
        columns = {name: column[rows] for name, column in self._columns.items()}
        return Rows(positions.size, at, self._rank[rows], columns)


class Chunk(NamedTuple):
    """The sums of some groups.

    Attributes:
        whole: The sums of all users, in one layer.
        without: The sums in all layers; None if no part is left out.
        layout: The layers.
    """

    whole: Sums
    without: Sums | None
    layout: Layout

    def layers(self, measure: Measure) -> Array:
        """Return a measure of all users and without each part, shape `(groups, 1 + parts)`.

        Without a part that has no records of a group, it is that of all users.
        """
        value = measure(self.whole)
        if self.without is None:
            return value
        found = measure(self.without)
        return np.concatenate([value, self._by_part(found[:, 1:], found[:, :1])], axis=1)

    @property
    def there(self) -> npt.NDArray[np.bool_]:
        """Return whether a part has examples of a group, shape `(groups, parts)`."""
        if self.without is None:
            return np.zeros(self.layout.of_part.shape, np.bool_)
        examples = self.without.of["examples"]
        return self._by_part(examples[:, 1:] < examples[:, :1], np.zeros((1, 1), np.bool_))

    @property
    def shares(self) -> Array:
        """Return the share of a part in the group's weights, shape `(groups, parts)`."""
        if self.without is None:
            return np.zeros(self.layout.of_part.shape)
        weights = self.without.of["weights"]
        total = weights[:, :1]
        own = total - weights[:, 1:]
        shares = np.divide(own, total, out=np.zeros(own.shape), where=total > 0)
        return self._by_part(shares, np.zeros((1, 1)))

    def raised(self, measure: Measure) -> Array:
        """Return by how much chance raises a peak of the cells, shape `(groups,)`.

        It raises the peak of half of the users more. If noise moves the place of a peak, its height
        is too large by a number that falls as users to the power of 2/3 (Kim and Pollard 1990,
        "Cube Root Asymptotics").
        """
        if self.without is None:
            return np.zeros(self.layout.of_part.shape[0])
        groups, parts = self.layout.of_part.shape
        cells = self.without.cells
        chosen = np.zeros((groups, 2 * _HALVINGS, cells.examples.shape[1]))
        chosen[self.layout.at, :, self.layout.layer] = _halves(parts)[self.layout.part]
        halves = Cells(*(chosen @ (sums[:, :1] - sums) for sums in cells))
        all_ = Cells(*(sums[:, :1] for sums in cells))
        assert callable(measure.value)
        of_halves, of_all = (
            measure.value(dataclasses.replace(self.without, cells=one)) for one in (halves, all_)
        )
        known = np.isfinite(of_halves)
        more = np.where(known, of_halves - of_all, 0.0).sum(axis=1) / np.maximum(known.sum(1), 1)
        raised: Array = np.maximum(more, 0) / (2 ** (2 / 3) - 1)
        return raised

    def _by_part(self, layers: npt.NDArray[Any], nothing: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return layers in the order of parts; `nothing` without those that have no records."""
        found: npt.NDArray[Any] = np.broadcast_to(nothing, self.layout.of_part.shape).copy()
        found[self.layout.at, self.layout.part] = layers[self.layout.at, self.layout.layer - 1]
        return found


@functools.cache
def _halves(parts: int) -> Array:
    """Return whether each part is in each half, shape `(parts, halves)`: 1 or 0."""
    random = np.random.default_rng(0)
    half = np.arange(parts) < parts // 2
    first = np.stack([random.permutation(half) for _ in range(_HALVINGS)], axis=1)
    return np.concatenate([first, ~first], axis=1).astype(np.float64)


def _added(places: Numbers, values: npt.NDArray[Any], shape: tuple[int, ...]) -> Array:
    """Return an array in which values are added up at their places."""
    sums = np.bincount(places, values, int(np.prod(shape))).astype(np.float64, copy=False)
    return sums.reshape(shape)
