"""Numbers in words: what a reader wants to know first."""

from __future__ import annotations

import datetime as dt
from typing import Any

from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.texts import text_of, with_interval, words_of

_ENDS = ("_low", "_high")


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
    text = f"Calibration {with_interval(value, low, high)}: "
    if low is not None and high is not None and low <= 1 <= high:
        return text + "predicts as much as comes true, within chance"
    return (
        f"{text}predicts {share(abs(value - 1))} {'more' if value > 1 else 'less'} than comes true"
    )


def ranking(row: dict[str, Any]) -> str:
    """Return a sentence about AUC."""
    if row.get("auc") is None:
        return ""
    value = with_interval(row["auc"], row.get("auc_low"), row.get("auc_high"))
    return f"AUC {value}: puts a positive above a negative in {share(row['auc'])} of pairs"


def entropy(row: dict[str, Any]) -> str:
    """Return a sentence about normalised entropy."""
    value, low, high = (row.get(f"normalised_entropy{end}") for end in ("", "_low", "_high"))
    if value is None:
        return ""
    return (
        f"Normalised entropy {with_interval(value, low, high)}: "
        f"{share(abs(1 - value))} {'better' if value < 1 else 'worse'} than a constant guess"
    )


def errors(row: dict[str, Any]) -> str:
    """Return a sentence about how far predictions of amounts are away."""
    if row.get("mae") is None:
        return ""
    texts = [
        f"{title_of(name)} {with_interval(*(row.get(f'{name}{end}') for end in ('', *_ENDS)))}"
        for name in ("mae", "rmse", "bias")
    ]
    return ", ".join(texts)


def wrong(row: dict[str, Any], is_rate: bool) -> str:
    """Return what is predicted for a slice that is wrong, and what came true.

    Args:
        row: A row of `slices`.
        is_rate: Whether labels are 0 or 1, so that means are shares.

    Example:
    >>> row = {"mean_prediction": 0.1923, "mean_label": 0.1631, "share": 0.277}
    >>> wrong(row, True)
    '19.2 % predicted, 16.3 % came true, 28 % of the error'
    """
    predicted, true = (
        f"{100 * value:.3g} %" if is_rate else text_of(value)
        for value in (row["mean_prediction"], row["mean_label"])
    )
    return f"{predicted} predicted, {true} came true, {share(row['share'])} of the error"


def change(row: dict[str, Any]) -> str:
    """Return what a measure was before, and what it is now."""
    return f"{words_of(row['measure'])} {text_of(row['before'])} → {text_of(row['recent'])}"


def difference(row: dict[str, Any], name: str) -> str:
    """Return by how much two trainings differ; "" if it is not known."""
    value, low, high = (row.get(f"{name}_diff{end}") for end in ("", *_ENDS))
    if value is None:
        return ""
    if low is not None and high is not None:
        if low <= 0 <= high:
            return f"no clear difference of {words_of(name)}"
        low, high = sorted((abs(low), abs(high)))
    word = "higher" if value > 0 else "lower"
    return f"{words_of(name)} {word} by {with_interval(abs(value), low, high)}"


def since(text: str) -> str:
    """Return a time as short as it can be read.

    Example:
    >>> since("2013-11-18T00:00:00+00:00"), since("2013-11-18T06:30:00+00:00")
    ('2013-11-18', '2013-11-18 06:30 UTC')
    """
    time = moment(text)
    return f"{time:%Y-%m-%d}" if time.time() == dt.time() else f"{time:%Y-%m-%d %H:%M} UTC"


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
    >>> duration(95), duration(7_300), duration(400_000), duration(4e8)
    ('2 minutes', '2 hours', '5 days', '13 years')
    """
    for name, length in (("year", 31_557_600), ("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 1.5 * length:
            return f"{round(seconds / length)} {name}s"
    return f"{round(seconds)} seconds"


def moment(text: str) -> dt.datetime:
    """Return the time that a text tells."""
    return dt.datetime.fromisoformat(text)
