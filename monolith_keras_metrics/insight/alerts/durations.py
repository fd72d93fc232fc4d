"""Lengths of time: as text, and as a number of seconds."""

from __future__ import annotations

import re

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_PART = re.compile(r"([1-9]\d{0,8})([wdhms])")
FORM = "a length of time, such as '30m', '6h' or '7d'"


def seconds_of(text: object) -> int | None:
    """Return the seconds of a length of time; None if it is none.

    Example:
    >>> seconds_of("6h"), seconds_of("1h30m"), seconds_of("soon"), seconds_of(6)
    (21600, 5400, None, None)
    """
    if not isinstance(text, str) or not re.fullmatch(f"({_PART.pattern})+", text):
        return None
    sizes = {"w": 7 * _UNITS["d"], **_UNITS}
    return sum(int(number) * sizes[unit] for number, unit in _PART.findall(text))


def text_of_seconds(seconds: int) -> str:
    """Return a length of time as text.

    Example:
    >>> [text_of_seconds(one) for one in (0, 5_400, 86_400, 604_800, 90_000)]
    ['0s', '90m', '1d', '7d', '25h']
    """
    unit = next((unit for unit, size in _UNITS.items() if seconds and seconds % size == 0), "s")
    return f"{seconds // _UNITS[unit]}{unit}"
