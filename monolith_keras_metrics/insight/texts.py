"""Values as texts to be read: what the command prints, and what figures and notebooks show."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from typing import Any

import polars as pl

_ENDS = ("_low", "_high")
_NAMES = {
    **{name: name.upper() for name in ("auc", "gauc", "pr", "ks", "ne", "ecce", "mae", "rmse")},
    "brier": "Brier score",
    "diff": "difference",
}


def text_of(value: Any) -> str:
    """Return a value as text to be read."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if not 1_000 <= abs(value) < 1e15 else f"{value:,.0f}"
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    # Records are untrusted: a terminal acts on control characters.
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in str(value))


def with_interval(value: Any, low: Any, high: Any) -> str:
    """Return a value with its interval as text. The size of the interval tells how many digits.

    Example:
    >>> with_interval(0.7261, 0.7236, 0.72864), with_interval(0.011274, 0.0047, 0.0178)
    ('0.7261 [0.7236, 0.7286]', '0.011 [0.005, 0.018]')
    """
    if value is None or low is None or high is None:
        return text_of(value)
    if not 0 < high - low < math.inf:
        return f"{text_of(value)} [{text_of(low)}, {text_of(high)}]"
    digits = min(12, max(0, 1 - math.floor(math.log10(high - low))))
    return f"{value:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]"


def columns_of(frame: pl.DataFrame) -> Iterator[list[str]]:
    """Yield each column as texts, its name first; intervals beside their values.

    Columns without any value are left out.
    """
    ends = {f"{name}{end}" for name in frame.columns for end in _ENDS} & {*frame.columns}
    for name in frame.columns:
        if name in ends or (frame.height and frame[name].null_count() == frame.height):
            continue
        column = frame[name]
        if isinstance(column.dtype, pl.Datetime):  # Python has no years beyond 9999
            column = column.dt.strftime("%Y-%m-%d %H:%M")
        if f"{name}_low" in ends:
            low, high = (frame[f"{name}{end}"] for end in _ENDS)
            yield [name, *map(with_interval, column, low, high)]
        else:
            yield [name, *map(text_of, column)]


def words_of(measure: str) -> str:
    """Return the name of a measure in words.

    Example:
    >>> words_of("pr_auc"), words_of("log_loss")
    ('PR AUC', 'log loss')
    """
    return " ".join(_NAMES.get(word, word) for word in measure.split("_"))
