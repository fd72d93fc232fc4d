"""From findings to alerts: which rows fire, and which are resolved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import polars as pl

from monolith_keras_metrics.insight.alerts import wording
from monolith_keras_metrics.insight.alerts.book import Book, Entry
from monolith_keras_metrics.insight.alerts.change import Changes
from monolith_keras_metrics.insight.alerts.culprits import EXPLAINED, culprits_of
from monolith_keras_metrics.insight.alerts.durations import text_of_seconds
from monolith_keras_metrics.insight.alerts.evidence_blocks import Span
from monolith_keras_metrics.insight.alerts.judging import Finding, Row
from monolith_keras_metrics.insight.alerts.parts import Findings, Part, Watched
from monolith_keras_metrics.insight.items import Alert

Recent = Callable[[int], "pl.LazyFrame | None"]


class Fire(NamedTuple):
    """A row that fires.

    Attributes:
        part: The question.
        rule: The rule.
        row: The target and group.
        span: The span with most evidence.
        finding: What it says.
    """

    part: Part
    rule: Watched
    row: Row
    span: Span
    finding: Finding


def resolved(part: Part, rule: Watched, findings: Findings, book: Book, end: int) -> list[Alert]:
    """Note rows that are well again, and return their alerts."""
    alerts = []
    for row, entry in book.fired.get(rule.identity, {}).items():
        alert = entry.alert
        if alert is None:
            continue
        if row not in book.seen.get(part.name, {}):
            if end - alert.at < part.remembered:
                continue  # another rule has changed the question, and the row may still come
            length = text_of_seconds(part.remembered)
            alerts.append(ended(alert, end, f"it has had no records for {length}"))
            entry.alert = None
            continue
        if rule.of.is_exact:
            of_spans = [found[row] for found in findings.of_spans.values()]
            found_at = (rule.spans[0], of_spans[0])
            is_well = all(one.is_well for one in of_spans)
        else:
            found_at = findings.recoveries.get(row, (rule.recovery, Finding(0, None)))
            is_well = found_at[1].is_well
        if is_well:
            alerts.append(_well(rule, alert, *found_at, end))
            entry.alert = None
            if not rule.of.is_exact:
                entry.begin = end
    return alerts


def forget(part: Part, rule: Watched, book: Book, end: int) -> None:
    """Forget what fired once, of targets and groups that are gone."""
    fired, seen = book.fired.get(rule.identity, {}), book.seen.get(part.name, {})
    for row, entry in [*fired.items()]:
        if entry.alert is None and row not in seen and end >= entry.fired + rule.of.cooldown:
            del fired[row]


def fires(part: Part, rule: Watched, findings: Findings, book: Book, end: int) -> list[Fire]:
    """Note rows that fire, and return them."""
    found = []
    for row in rule.rows(book, part.name):
        entry = book.fired.get(rule.identity, {}).get(row)
        # What has just been resolved was judged by records of before.
        if entry is not None and (
            entry.alert is not None or entry.begin == end or end < entry.fired + rule.of.cooldown
        ):
            continue
        broken = [
            (span, of_rows[row])
            for span, of_rows in findings.of_spans.items()
            if row in of_rows and of_rows[row].verdict == "broken"
        ]
        if broken:
            span, finding = max(broken, key=lambda one: one[1].evidence or 0.0)
            found.append(Fire(part, rule, row, span, finding))
    return found


def alert_of(
    fire: Fire, book: Book, end: int, asked: float, changes: Changes, recent: Recent | None
) -> Alert:
    """Note that a row fires, and return its alert.

    Args:
        fire: The row.
        book: What is remembered.
        end: The end of the window that was closed last.
        asked: The evidence from which a rule is broken.
        changes: When values began to break rules.
        recent: Returns the newest records, to search for slices; None to search for none.
    """
    part, rule, row, span, finding = fire
    entries = book.fired.setdefault(rule.identity, {})
    before = entries.get(row)
    begin = 0 if before is None else before.begin
    first = max(begin, book.seen[part.name][row].first)
    assert finding.value is not None  # what is not defined is not broken
    longer = [one for one in rule.spans if one.seconds >= span.seconds]
    change = changes.since(rule.of.rule, row, finding.value, longer, begin)
    since, is_earlier = (None, False) if change is None else change
    covered = text_of_seconds(min(span.seconds, end - first))
    alert = Alert(
        0, rule.of.name, "firing", rule.of.rule.text, row[0],
        dict(zip(rule.of.by, row[1], strict=True)), rule.of.severity, end, since, covered,
        finding.value, finding.low, finding.high, finding.evidence,
        None if rule.of.is_exact else asked, (), "",
    )  # fmt: skip
    culprits = None
    if recent is not None and rule.of.rule.name in EXPLAINED:
        high = rule.of.rule.high
        is_above = high is not None and finding.value >= high
        is_high = is_above == (EXPLAINED[rule.of.rule.name] > 0)
        start = end - span.seconds if since is None else since
        culprits = culprits_of(recent(start), row, rule.of.by, is_high)
    text = wording.fired(
        _what(rule, alert), alert, is_earlier and since is not None and since > first, culprits
    )
    alert = dataclasses.replace(alert, culprits=culprits or (), text=text)
    entries[row] = Entry(end, alert, begin)
    return alert


def ended(alert: Alert, end: int, why: str) -> Alert:
    """Return an alert as one that is over for another reason than that its value is well."""
    what = wording.about(alert.name, alert.target, alert.group) if alert.target else alert.name
    text = wording.ended(what.rstrip(","), alert, why)
    return dataclasses.replace(alert, state="resolved", at=end, text=text)


def _well(rule: Watched, alert: Alert, span: Span, finding: Finding, end: int) -> Alert:
    """Return an alert as resolved, with the value that resolves it."""
    now = dataclasses.replace(
        alert, state="resolved", at=end, span=text_of_seconds(span.seconds), value=finding.value,
        low=finding.low, high=finding.high, evidence=finding.evidence,
    )  # fmt: skip
    return dataclasses.replace(now, text=wording.resolved(_what(rule, alert), now, alert.at))


def _what(rule: Watched, alert: Alert) -> str:
    return wording.about(rule.of.rule.name, alert.target, alert.group)
