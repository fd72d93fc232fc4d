"""Conversion of times in any unit to Unix seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# The smallest absolute value attributed to each unit, and how many of the unit make a second.
# Seconds reach 10**11 in the year 5138; milliseconds passed it in March 1973.
_UNITS = (
    ("milliseconds", 10**11, 10**3),
    ("microseconds", 10**14, 10**6),
    ("nanoseconds", 10**17, 10**9),
)


def unit_of(times: npt.NDArray[np.int64]) -> str:
    """Return the finest unit that any of the times seems to have; "" if all are seconds.

    Example:
    >>> unit_of(np.array([1_700_000_000, 1_700_000_000_000]))
    'milliseconds'
    """
    most = max(int(times.max()), -int(times.min())) if len(times) else 0
    return next((name for name, least, _ in reversed(_UNITS) if most >= least), "")


def in_seconds(times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return times in seconds. The size of a value of 10**11 or more indicates its unit.

    Args:
        times: int64, shape `(batch,)`.

    Example:
    >>> in_seconds(np.array([1_700_000_000, 1_700_000_000_999, 1_700_000_000_000_000_000])).tolist()
    [1700000000, 1700000000, 1700000000]
    """
    if not unit_of(times):
        return times
    divisors = np.ones(len(times), np.int64)
    for _, least, parts in _UNITS:
        divisors[(times >= least) | (times <= -least)] = parts
    return times // divisors


def of_dates(dates: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the Unix seconds of `datetime64` values; NaT gives the smallest int64.

    Example:
    >>> of_dates(np.array(["2023-11-14T22:13:20.5"], "M8[ms]"))
    array([1700000000])
    """
    return dates.astype("datetime64[s]").astype(np.int64)
