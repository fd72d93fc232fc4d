"""Sampling of users by their uids, on arrays.

A user falls into bucket `uid % 1000` and is kept when `bucket < sample_ratio * 1000` (Monolith's
rule), so the same users are kept on every worker, in every step, for every target. Ratios finer
than 0.001 also use the next three digits, which leaves the coarse ratios unchanged.
"""

from __future__ import annotations

import decimal
import math
from typing import Any

import numpy as np
import numpy.typing as npt

_COARSE = 1_000
_FINE = 1_000_000


def check_sample_ratio(sample_ratio: Any) -> float:
    """Return `sample_ratio` as a `float` after checking it.

    Args:
        sample_ratio: The share of users to keep, a real number in [0, 1].

    Returns:
        The ratio; a `numpy.float32` becomes the decimal number that it prints as.

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it is NaN or outside [0, 1].
    """
    is_number = isinstance(sample_ratio, (int, float, np.integer, np.floating))
    if not is_number or isinstance(sample_ratio, bool):
        raise TypeError(
            "`sample_ratio` must be a number from 0 (no user) to 1 (every user). "
            f"Received: sample_ratio={sample_ratio!r} of type {type(sample_ratio).__name__}"
        )
    # str() of a float32 is its shortest decimal: numpy.float32(0.3) means 0.3, not 0.30000001.
    ratio = float(str(sample_ratio))
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(
            "`sample_ratio` must be from 0 (no user) to 1 (every user). "
            f"Received: sample_ratio={sample_ratio}"
        )
    return ratio


def sampled(uids: npt.NDArray[np.integer[Any]], sample_ratio: float) -> npt.NDArray[np.bool_]:
    """Return a mask that is True for the uids in the sample.

    Args:
        uids: Integers, shape `(batch,)`; negative ones use the floor modulus.
        sample_ratio: The share of users to keep, in [0, 1].

    Returns:
        Booleans, shape `(batch,)`.

    Raises:
        TypeError, ValueError: As for `check_sample_ratio`.

    Example:
    >>> sampled(np.array([0, 19, 1005]), 0.01)  # buckets 0, 19 and 5; kept below 10
    array([ True, False,  True])
    """
    # The product is decimal: in binary, 0.29 * 1000 is 289.99…, which would lose a bucket.
    kept = math.ceil(decimal.Decimal(repr(check_sample_ratio(sample_ratio))) * _FINE)
    if uids.dtype != np.uint64:
        uids = uids.astype(np.int64, copy=False)  # 1000 does not fit into small dtypes
    bucket = uids % _COARSE
    if kept % _COARSE == 0:
        return np.asarray(bucket < kept // _COARSE)
    return np.asarray(bucket * _COARSE + uids // _COARSE % _COARSE < kept)
