"""Numbers in words: what a reader wants to know first."""

from __future__ import annotations

import datetime as dt
from typing import Any

from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.texts import text_of, with_interval, words_of


def title_of(name: str) -> str:
    """Return the heading of a column.

    Example:
    >>> title_of("normalised_entropy"), title_of("auc")
    ('Normalised entropy', 'AUC')
    """
    text = words_of(name)
    return text[:1].upper() + text[1:]


def share(value: float) -> str:
    """Return a share in percent.

    Example:
    >>> share(0.0181), share(0.5), share(0.00004)
    ('1.8 %', '50 %', '0.004 %')
    """
    return f"{100 * value:.2g} %" if abs(value) < 0.995 else f"{100 * value:,.0f} %"


def calibration(row: dict[str, Any]) -> str:
    """Return a sentence about calibration."""
    value, low, high = (row.get(f"calibration{end}") for end in ("", "_low", "_high"))
    if value is None:
        return ""
    if low is not None and high is not None and low <= 1 <= high:
        text = with_interval(value, low, high)
        return f"predicts as much as comes true, within chance: calibration {text}"
    word = "more" if value > 1 else "less"
    ends = sorted(abs(end - 1) for end in (low, high) if end is not None)
    between = f" [{share(ends[0])}, {share(ends[1])}]" if len(ends) == 2 else ""
    return f"predicts {share(abs(value - 1))}{between} {word} than comes true"


def wrong(row: dict[str, Any]) -> str:
    """Return a sentence about a slice that is wrong."""
    word = "more" if row["mean_prediction"] > row["mean_label"] else "less"
    return (
        f"{text_of(row['impact'])} {word} predicted than came true, {share(row['share'])} of the "
        f"error ({text_of(row['mean_prediction'])} instead of {text_of(row['mean_label'])}; "
        f"{text_of(row['examples'])} examples)"
    )


def entropy(row: dict[str, Any]) -> str:
    """Return a sentence about normalised entropy."""
    value = row.get("normalised_entropy")
    if value is None:
        return ""
    word = "better" if value < 1 else "worse"
    return (
        f"tells {share(abs(1 - value))} {word} than a constant rate would: normalised entropy "
        + with_interval(
            value, row.get("normalised_entropy_low"), row.get("normalised_entropy_high")
        )
    )


def change(row: dict[str, Any]) -> str:
    """Return a sentence about a change."""
    name = row["measure"]
    verb = "rose" if row["diff"] > 0 else "fell"
    low, high = sorted((abs(row["diff_low"]), abs(row["diff_high"])))
    return (
        f"{title_of(name)} {verb} by {with_interval(abs(row['diff']), low, high)}, "
        f"from {text_of(row['before'])} to {text_of(row['recent'])}"
    )


def is_worse(row: dict[str, Any]) -> bool:
    """Return True if a measure has become worse."""
    better = MEASURES[row["measure"]].better
    if better == "higher":
        return bool(row["diff"] < 0)
    if better == "lower":
        return bool(row["diff"] > 0)
    return bool(abs(row["recent"] - better) > abs(row["before"] - better))


def duration(seconds: float) -> str:
    """Return a length of time, rounded.

    Example:
    >>> duration(95), duration(7_300), duration(400_000)
    ('2 minutes', '2 hours', '5 days')
    """
    for name, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 1.5 * length:
            return f"{round(seconds / length)} {name}s"
    return f"{round(seconds)} seconds"


def moment(text: str) -> dt.datetime:
    """Return the time that a text tells."""
    return dt.datetime.fromisoformat(text)
