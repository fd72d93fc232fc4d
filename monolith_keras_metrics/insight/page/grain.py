"""How finely a page divides the time of a run."""

from __future__ import annotations

# Windows that people think in, with their lengths in seconds.
WINDOWS = {
    "1m": 60,
    "5m": 300,
    "15m": 900,
    "1h": 3_600,
    "6h": 21_600,
    "1d": 86_400,
    "1w": 604_800,
    "4w": 2_419_200,
}


def window_of(seconds: float, most: int) -> str:
    """Return the shortest window of which a length of time has at most so many.

    Args:
        seconds: The length of time.
        most: The largest number of windows. A very long time has more than that of the longest.

    Example:
    >>> window_of(7 * 86_400, most=168), window_of(7 * 86_400, most=30)
    ('1h', '6h')
    """
    fitting = [name for name, length in WINDOWS.items() if seconds <= length * most]
    return fitting[0] if fitting else list(WINDOWS)[-1]


def words_of(window: str) -> str:
    """Return the adverb of a window: how often there is one.

    Example:
    >>> words_of("1h"), words_of("5m")
    ('by hour', 'by 5 minutes')
    """
    units = {"m": "minute", "h": "hour", "d": "day", "w": "week"}
    number, unit = int(window[:-1]), units[window[-1]]
    return f"by {unit}" if number == 1 else f"by {number} {unit}s"
