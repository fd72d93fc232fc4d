"""Alerts in a sentence or two, for whoever is woken by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monolith_keras_metrics.insight.alerts.culprits import EVERYTHING
from monolith_keras_metrics.insight.alerts.durations import text_of_seconds
from monolith_keras_metrics.insight.items import Alert, Culprit, moment
from monolith_keras_metrics.insight.texts import text_of, with_interval


def time_of(seconds: int) -> str:
    """Return a time as text.

    Example:
    >>> time_of(1_795_489_200)
    '2026-11-24 03:00 UTC'
    """
    return f"{moment(seconds):%Y-%m-%d %H:%M} UTC"


def about(name: str, target: str, group: Mapping[str, str | None]) -> str:
    """Return what an alert is about.

    Example:
    >>> about("calibration", "ctr", {"country": "US"})
    'calibration of ctr, country=US,'
    """
    of = "".join(f", {text_of(field)}={_value(value)}" for field, value in group.items())
    return f"{name} of {text_of(target)}{of}{',' if of else ''}"


def fired(what: str, alert: Alert, is_earlier: bool, culprits: Sequence[Culprit] | None) -> str:
    """Return the text of an alert that fires.

    Args:
        what: What it is about.
        alert: The alert, without its text.
        is_earlier: Whether the fault may have begun before `since`.
        culprits: The slices; empty if none explains it; None if none were looked for.
    """
    text = (
        f"{what} is {with_interval(alert.value, alert.low, alert.high)} over the last "
        f"{alert.span}; the rule is {alert.rule}."
    )
    if alert.since is not None:
        text += f" It began about {time_of(alert.since)}{' or before' if is_earlier else ''}."
    return text if culprits is None else f"{text} {_explained(culprits)}"


def resolved(what: str, alert: Alert, fired_at: int) -> str:
    """Return the text of an alert that is resolved by its value, which it has already."""
    return (
        f"Resolved: {what} is {with_interval(alert.value, alert.low, alert.high)} over the last "
        f"{alert.span}; the rule is {alert.rule}. It fired at {time_of(fired_at)}."
    )


def ended(what: str, alert: Alert, why: str) -> str:
    """Return the text of an alert that is resolved for another reason."""
    return f"Resolved: {what} fired at {time_of(alert.at)}; {why}."


def silent(now: int, newest: int | None, first: int) -> str:
    """Return the text of an alert about no data.

    Args:
        now: The present time.
        newest: When the newest record came; None if none ever came.
        first: When it was first looked for.
    """
    if newest is None:
        return f"No record has come since {time_of(first)}, when the run was first looked at."
    waited = text_of_seconds((now - newest) // 60 * 60 or now - newest)
    return f"No records for {waited}: the newest came at {time_of(newest)}."


def heard(alert: Alert, newest: int) -> str:
    """Return the text of an alert about no data that is resolved."""
    since = "" if alert.since is None else f", after none since {time_of(alert.since)}"
    return f"Resolved: records come again, the newest at {time_of(newest)}{since}."


def _explained(culprits: Sequence[Culprit]) -> str:
    if not culprits:
        return "No slice of the records explains it."
    first = culprits[0]
    if first.where != EVERYTHING:
        return f"{text_of(first.where)} carries {first.share:.0%} of it.".replace("%", " %")
    if len(culprits) == 1:
        return "It is so in all records, not in one slice of them."
    second = culprits[1]
    return (
        f"It is so in all records; most in {text_of(second.where)}, "
        f"whose calibration is {text_of(second.calibration)}."
    )


def _value(value: str | None) -> str:
    return "null" if value is None else text_of(value)
