"""Cells: narrow ranges of numbers, of predictions and of delays.

A cell is what the top bits of a float32 tell apart: sign, exponent, and 8 bits of the mantissa. So
cells are narrow where values are small, by a factor of 1 + 2^-8, as rates of rare events are. From
1/2 on it is the distance from 1 that is told apart, for rates near 1.

Each cell has a *code*: these 17 bits, and one that is set from 1/2 on.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

CODES = 1 << 18
MOST_BITS = 16  # that may be left out: all but a sign, and the one that is set from 1/2 on
_AT_ONCE = 1 << 15  # whose intermediate results stay in the processor's cache
_DROPPED = np.uint32(15)  # bits of a float32 that are not in a code
_LOWER = (1 << 17) - 1
_UPPER = np.uint32(1 << 17)
_MINUS_ZERO = np.uint32(1 << 16)


def codes_of(values: Values) -> Codes:
    """Return the code of the cell of each value, shape `(n,)`; values must not be NaN."""
    codes = np.empty(values.size, np.int64)
    for start in range(0, values.size, _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        codes[here] = _codes_of(values[here])
    return codes


def _codes_of(values: Values) -> npt.NDArray[np.uint32]:
    upper = values >= 0.5
    distance = np.where(upper, 1 - values, values).astype(np.float32)
    codes = distance.view(np.uint32) >> _DROPPED
    codes[codes == _MINUS_ZERO] = 0  # -0.0 is equal to 0.0
    codes |= upper * _UPPER
    found: npt.NDArray[np.uint32] = codes
    return found


def ranks_of(codes: Codes) -> Codes:
    """Return whole numbers below `CODES` that are in the order of the cells.

    Codes are not: those of negative numbers, and of distances from 1, fall where numbers rise.
    """
    return _ranks()[codes]


def coarser(codes: Codes, bits: Codes) -> Codes:
    """Return the codes of larger cells, each of several cells that are next to each other.

    Args:
        codes: The codes of cells, shape `(n,)`.
        bits: How many of the lowest bits are not told apart, from 0 to `MOST_BITS`, shape `(n,)`.
    """
    larger = codes >> bits << bits
    larger[(larger & _LOWER) == int(_MINUS_ZERO)] ^= int(_MINUS_ZERO)
    return larger


def bits_too_many(groups: Codes, codes: Codes, most: int) -> Codes:
    """Return for each group how many bits are to be left out, to have at most so many cells.

    The fewer cells there are, the fewer bits are left out: never more for some records than for
    these and others.

    Args:
        groups: The group of each cell, from 0, shape `(n,)`.
        codes: The codes of the cells, shape `(n,)`.
        most: The largest number of cells of a group.

    Returns:
        Numbers for `coarser`, shape `(groups,)`.
    """
    sizes = np.bincount(groups)
    number = sizes.size
    if sizes.max(initial=0) <= most:
        return np.zeros(number, np.int64)
    ordered = np.sort(groups * CODES + codes)
    # Neighbours are in one cell as soon as all bits are left out in which they differ.
    _, differing = np.frexp((ordered[1:] ^ ordered[:-1]).astype(np.float64))
    within = ordered[1:] // CODES == ordered[:-1] // CODES
    size = MOST_BITS + 3
    places = ordered[1:][within] // CODES * size + differing[within]
    pairs = np.bincount(places, minlength=number * size).reshape(number, size)
    cells = pairs[:, ::-1].cumsum(axis=1)[:, ::-1]  # neighbours that differ in so many bits or more
    cells += (sizes > 0)[:, None]
    bits: Codes = (cells[:, 1:] > most).sum(axis=1).clip(max=MOST_BITS)
    return bits


def values_of(codes: Codes) -> Values:
    """Return the number within each cell that is its name: the one of the fewest bits."""
    return _names()[codes]


@functools.cache
def _ranks() -> Codes:
    codes = np.arange(CODES)
    lower = codes & _LOWER
    signed = lower ^ np.where(lower & int(_MINUS_ZERO), _LOWER, int(_MINUS_ZERO))
    return np.where(codes & int(_UPPER), signed ^ (_LOWER | int(_UPPER)), signed)


@functools.cache
def _names() -> Values:
    codes = np.arange(CODES)
    lower = (codes & _LOWER).astype(np.uint32) << _DROPPED
    with np.errstate(invalid="ignore"):  # some codes are of no number
        distance = lower.view(np.float32).astype(np.float64)
        names: Values = np.where(codes & int(_UPPER), 1 - distance, distance)
    return names


def cell_of(values: Values) -> Values:
    """Return the cell of each value, as a number within it.

    Example:
    >>> cell_of(np.array([0.25, 0.2509, 0.251, 0.75, 0.7491, 0.749]))
    array([0.25      , 0.25      , 0.25097656, 0.75      , 0.75      ,
           0.74902344])
    """
    return values_of(codes_of(values))
