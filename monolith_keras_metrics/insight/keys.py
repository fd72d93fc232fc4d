"""The order of rows by what identifies them, and the distinct among them.

NumPy sorts numbers of 16 bits by counting, which is several times faster than by comparing. So the
columns that identify a row are packed into whole numbers, and rows are sorted by 16 bits of these
at a time. Rows that consist of a few sorted runs, as those of states that are merged, are merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Column = npt.NDArray[Any]

_POSITIONS = 1 << 20  # of an array that finds distinct numbers; above it, they are sorted


def bits_of(values: npt.NDArray[np.float64]) -> Column:
    """Return whole numbers that are in the order of some numbers, and equal where these are.

    They have 32 bits if float32 can hold the numbers, as it can most predictions, else 64.

    Args:
        values: Numbers, shape `(n,)`, that are not NaN.

    Example:
    >>> bits = bits_of(np.array([0.5, -1.0, 0.25, -0.0, 0.0]))
    >>> np.argsort(bits, kind="stable"), bits[3] == bits[4]
    (array([1, 3, 4, 2, 0]), np.True_)
    """
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    floats: Column = single if (single == values).all() else values
    bits = (floats + floats.dtype.type(0)).view(f"u{floats.itemsize}")  # -0.0 + 0 is 0.0
    sign = bits.dtype.type(1 << 8 * floats.itemsize - 1)
    result: Column = np.where(bits >= sign, ~bits, bits | sign)
    return result


def in_order(columns: Sequence[Column], in_runs: bool = False) -> tuple[Numbers | slice, Numbers]:
    """Return the order of rows by columns, and where in it rows differ from those before.

    Args:
        columns: Whole numbers, shape `(n,)`. The first column matters most. Rows that are equal
            stay in their order.
        in_runs: True if the rows are probably a few runs that are sorted.

    Returns:
        What `column[order]` takes, a slice if rows are in order already; and positions in that
        order, of which the first is 0.

    Example:
    >>> in_order([np.array([2, 1, 2]), np.array([5, 6, 5])])
    (array([1, 0, 2]), array([0, 1]))
    """
    packed = _packed(columns)
    order: Numbers | slice
    if len(packed) == 1 and (packed[0][1:] >= packed[0][:-1]).all():
        order = slice(None)
    elif in_runs:
        order = np.argsort(packed[0], kind="stable") if len(packed) == 1 else np.lexsort(packed)
    else:
        order = np.lexsort([digit for column in packed for digit in _digits(column)])
    is_new = np.zeros(packed[0].size, np.bool_)
    is_new[:1] = True
    for column in packed:
        ordered = column[order]
        is_new[1:] |= ordered[1:] != ordered[:-1]
    return order, np.flatnonzero(is_new)


def compact(numbers: Column, size: int) -> tuple[Numbers, Numbers]:
    """Return the distinct numbers from 0 to `size` - 1, and for each number its position."""
    if size == 1:
        return np.zeros(1, np.int64), np.zeros(numbers.size, np.int64)
    if size > _POSITIONS:
        order, firsts = in_order([numbers])
        at = np.empty(numbers.size, np.int64)
        at[order] = np.arange(firsts.size).repeat(np.diff(firsts, append=numbers.size))
        return numbers[order][firsts].astype(np.int64), at
    there = np.zeros(size, np.bool_)
    there[numbers] = True
    distinct = np.flatnonzero(there)
    if distinct.size == size:
        return distinct, numbers.astype(np.int64, copy=False)
    positions = np.empty(size, np.int64)
    positions[distinct] = np.arange(distinct.size)
    return distinct, positions[numbers]


def _packed(columns: Sequence[Column]) -> list[Column]:
    """Return as few columns as give the same order; the last one matters most."""
    packed: list[Column] = []
    used = 0  # bits of the last one
    for column in reversed(columns):
        least, largest = (int(column.min()), int(column.max())) if column.size else (0, 0)
        bits = (largest - least).bit_length()
        own = (column - column.dtype.type(least)).astype(np.uint64)
        if not packed or used + bits > 64:
            packed.append(own)
            used = bits
        elif bits:
            packed[-1] |= own << np.uint64(used)
            used += bits
    return packed


def _digits(column: Column) -> Iterator[Column]:
    """Yield 16 bits at a time of whole numbers, the lowest first."""
    for shift in range(0, max(1, int(column.max(initial=0)).bit_length()), 16):
        yield (column >> np.uint64(shift)).astype(np.uint16)
