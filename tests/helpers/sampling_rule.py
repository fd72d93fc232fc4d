"""Which uids are sampled, worked out one by one in exact arithmetic."""

from __future__ import annotations

import fractions
from typing import Any


def kept(uid: int, ratio: Any) -> bool:
    """The rule as it is written, in fractions of Python's integers."""
    share = fractions.Fraction(str(ratio))  # what the number says: 0.29 is 29/100
    if (share * 1000).denominator == 1:
        return uid % 1000 < share * 1000
    return uid % 1000 * 1000 + uid // 1000 % 1000 < share * 1_000_000
