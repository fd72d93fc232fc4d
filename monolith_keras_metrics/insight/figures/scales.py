"""Where the ticks of an axis are, and what stands there."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

NO_TIME = 0.5  # seconds: where a delay of 0 is drawn on a log axis
_APART = 0.12  # of the axis, which is short on a phone
_DAY = 86_400
_STEPS = (1, 5, 15, 30, 60, 300, 900, 1800, 3600, 10_800, 21_600, 43_200)  # seconds
_DAYS = (1, 2, 7, 14)
_MONTHS = (1, 2, 3, 6, *(12 * years for years in (1, 2, 5, 10, 20, 50, 100, 1000)))
_SECONDS_OF_MONTH = 30.44 * _DAY
_MONDAY = 4 * _DAY  # the first Monday, in Unix seconds
_UNITS = ((365.25 * _DAY, "y"), (_DAY, "d"), (3600, "h"), (60, "min"), (1, "s"), (0.001, "ms"))
# Delays that people know.
_DURATIONS = (
    *(0.001, 0.01, 0.1, NO_TIME, 1, 10, 60, 600, 3600, 21_600, _DAY, 7 * _DAY, 30 * _DAY),
    *(365.25 * _DAY * 10**power for power in range(4)),
)


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most `most` round numbers from `low` to `high`, and at least 2.

    They are multiples of 1, 2 or 5 times a power of ten.

    Args:
        low: The lower end.
        high: The upper end; if it is not above `low`, there is one tick only.
        most: At least 5.

    Example:
    >>> linear_ticks(0.61, 0.77)
    [0.65, 0.7, 0.75]
    """
    rough = (high - low) / most
    if not (rough > 0 and math.isfinite(rough)):
        return [low]
    power = math.floor(math.log10(rough))
    while True:
        for factor in (1, 2, 5):
            step = factor * 10.0**power
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first < most:
                return [round(number * step, max(0, -power)) for number in range(first, last + 1)]
        power += 1


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers from `low` to `high` for a log axis; `low` must be positive.

    Example:
    >>> log_ticks(0.002, 30)
    [0.01, 0.1, 1.0, 10.0]
    >>> log_ticks(0.02, 0.9)
    [0.02, 0.05, 0.1, 0.2, 0.5]
    """
    decades = math.log10(high / low)
    if decades < 1:
        return linear_ticks(low, high, most)
    powers = range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9) + 1)
    factors = (1, 2, 5) if decades < 2 else (1,)
    found = [factor * 10.0**power for power in powers for factor in factors]
    inside = [one for one in found if low * (1 - 1e-9) <= one <= high * (1 + 1e-9)]
    return inside[:: math.ceil(len(inside) / (most + 1))]


def spread(
    candidates: Iterable[float], place: Callable[[float], float], low: float, high: float
) -> list[float]:
    """Return ticks for an axis of its own kind, ascending.

    Args:
        candidates: Where ticks may be. Of two that are close together, the first is chosen.
        place: The position of a value on the axis.
        low: The position of the lower end.
        high: The position of the upper end.

    Example:
    >>> spread([1, 10, 3, 8], float, 0, 10)
    [1, 3, 8, 10]
    >>> spread([1, 10, 3, 8], float, 0, 75)
    [1, 10]
    """
    chosen: list[float] = []
    for one in candidates:
        at = place(one)
        if low <= at <= high and all(
            abs(at - place(other)) >= _APART * (high - low) for other in chosen
        ):
            chosen.append(one)
    return sorted(chosen)


def number_texts(ticks: Sequence[float]) -> list[str]:
    """Return the texts of ticks, with as many digits as tell them apart.

    Example:
    >>> number_texts([0.5, 1.0]), number_texts([1000.0, 20000.0]), number_texts([0.0, 2e-6])
    (['0.5', '1.0'], ['1,000', '20,000'], ['0', '2e-06'])
    """
    largest = max(map(abs, ticks), default=0.0)
    if largest >= 1e7 or 0 < largest < 1e-3:
        return [f"{one:.6g}" for one in ticks]
    for digits in range(7):
        if all(abs(round(one, digits) - one) <= 1e-9 * largest for one in ticks):
            return [f"{one:,.{digits}f}" for one in ticks]
    return [f"{one:.4g}" for one in ticks]


def log_texts(ticks: Sequence[float]) -> list[str]:
    """Return the texts of ticks of a log axis: each with the digits that it needs."""
    return [f"{one:,.6g}" for one in ticks]


def date_ticks(low: float, high: float, most: int = 6) -> list[tuple[float, str]]:
    """Return times from `low` to `high`, Unix seconds, at which a unit begins, and their texts.

    Example:
    >>> day = 86400.0
    >>> [text for _, text in date_ticks(0, 4 * day)]
    ['Jan 1, 1970', 'Jan 2', 'Jan 3', 'Jan 4', 'Jan 5']
    >>> [text for _, text in date_ticks(0.5 * day, 1.5 * day)]
    ['Jan 1, 12:00', '18:00', 'Jan 2', '06:00', '12:00']
    """
    rough = (high - low) / most
    if rough <= _DAYS[-1] * _DAY:
        steps = (*_STEPS, *(days * _DAY for days in _DAYS))
        step = next(one for one in steps if one >= rough)
        start = _MONDAY if step % (7 * _DAY) == 0 else 0
        numbers = range(math.ceil((low - start) / step), math.floor((high - start) / step) + 1)
        times = [_time(start + number * step) for number in numbers]
        form = "%H:%M:%S" if step < 60 else "%H:%M" if step < _DAY else "%d"
    else:
        wanted = rough / _SECONDS_OF_MONTH
        months = next((one for one in _MONTHS if one >= wanted), _MONTHS[-1])
        times = list(_months(low, high, months))
        form = "%b" if months < 12 else "%Y"
    return [(one.timestamp(), _date_text(one, form, at == 0)) for at, one in enumerate(times)]


def _months(low: float, high: float, step: int) -> Iterator[dt.datetime]:
    """Yield the months from `low` to `high` whose number is a multiple of `step`."""
    start, end = _time(low), _time(high)
    first = -(-(start.year * 12 + start.month - 1) // step) * step
    for number in range(first, end.year * 12 + end.month, step):
        time = dt.datetime(number // 12, number % 12 + 1, 1, tzinfo=dt.timezone.utc)
        if start <= time <= end:
            yield time


def _date_text(time: dt.datetime, form: str, is_first: bool) -> str:
    """Return the text of a tick: what is new since the one before."""
    day = f"{time:%b} {time.day}"
    if form == "%Y":
        return f"{time:%Y}"
    if form == "%b":
        return f"{time:%b %Y}" if is_first or time.month == 1 else f"{time:%b}"
    if form == "%d":
        return f"{day}, {time.year}" if is_first else day
    if is_first and (time.hour or time.minute or time.second):
        return f"{day}, {time:{form}}"
    return day if not (time.hour or time.minute or time.second) else f"{time:{form}}"


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.timezone.utc)


def duration(seconds: float) -> str:
    """Return a length of time as text, in the largest unit of which there is one.

    Example:
    >>> duration(0.25), duration(90.0), duration(0.0), duration(437256193.0)
    ('250 ms', '1.5 min', '0 s', '13.9 y')
    """
    for unit, name in _UNITS:
        if abs(seconds) >= unit:
            return f"{seconds / unit:,.3g} {name}"
    return "0 s" if seconds == 0 else f"{seconds:.3g} s"


def duration_ticks(values: Sequence[float]) -> tuple[list[float], list[str]]:
    """Return ticks for lengths of time on a log axis, and their texts.

    Example:
    >>> duration_ticks([0.5, 1.0, 5000.0])
    ([0.5, 10, 60, 600, 3600], ['≤ 0 s', '10 s', '1 min', '10 min', '1 h'])
    """
    low, high = min(values), max(values)
    ticks: list[float] = [one for one in _DURATIONS if low <= one <= high]
    if NO_TIME in ticks and 1 in ticks:
        ticks.remove(1)  # their texts would touch
    if len(ticks) < 2:
        unit = next((unit for unit, _ in _UNITS if low >= unit), 1)
        ticks = [one * unit for one in log_ticks(low / unit, high / unit) if one > 0]
    return ticks, ["≤ 0 s" if one == NO_TIME else duration(one) for one in ticks]
