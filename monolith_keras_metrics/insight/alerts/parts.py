"""The rules that ask the same of the records: one state per window answers them all."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from monolith_keras_metrics.insight import stored
from monolith_keras_metrics.insight.alerts.book import Book
from monolith_keras_metrics.insight.alerts.evidence_blocks import Blocks, Span
from monolith_keras_metrics.insight.alerts.judging import Finding, Look, Row
from monolith_keras_metrics.insight.alerts.rule_file import AlertRule, measures_of_rules
from monolith_keras_metrics.insight.asks import Ask
from monolith_keras_metrics.insight.check import COUNTED
from monolith_keras_metrics.insight.state import Memory

_LEAST_WINDOWS = 3  # of the span that resolves an alert
_REMEMBERED = 7 * 86_400  # seconds for which a target or group without records has a count of 0


class Watched(NamedTuple):
    """A rule with its spans.

    Attributes:
        of: The rule.
        identity: What tells it from others, also from what it was before a change, as JSON.
        spans: The spans in which it is judged, ascending.
        recovery: The span that has to be well to resolve it.
    """

    of: AlertRule
    identity: str
    spans: tuple[Span, ...]
    recovery: Span

    @classmethod
    def of_rule(cls, rule: AlertRule, window: int) -> Watched:
        """Return a rule with its spans, for windows of this length in seconds."""
        spans = sorted({Span.of(seconds, window) for seconds in rule.last})
        default = max(_LEAST_WINDOWS * window, spans[0].seconds // 2)
        recovery = Span.of(rule.resolve or default, window)
        return cls(rule, json.dumps(rule.identity), tuple(spans), recovery)

    def rows(self, book: Book, part: str) -> list[Row]:
        """Return the targets and groups that it is about."""
        targets = self.of.targets
        return [row for row in book.seen.get(part, {}) if targets is None or row[0] in targets]


class _Query(NamedTuple):
    """What is asked about a rule: its rows in a span.

    Attributes:
        rule: The number of the rule.
        span: The span.
        is_recovery: Whether it is asked if the rows are well again.
    """

    rule: int
    span: Span
    is_recovery: bool = False


class Findings(NamedTuple):
    """What a look at the spans of a rule says.

    Attributes:
        of_spans: For each span, in order, what it says of each row.
        recoveries: The rows that fire and are well again, the shortest span that says so, and what
            it says.
    """

    of_spans: dict[Span, dict[Row, Finding]]
    recoveries: dict[Row, tuple[Span, Finding]]


class Part:
    """The rules of one question.

    Args:
        rules: The rules, which have the same `by`.
        window: The length of a window, in seconds.
        memory: Where blocks are kept.

    Attributes:
        ask: The question.
        rules: The rules.
        name: What tells it from other questions.
        blocks: The states of closed windows.
        remembered: Seconds without records after which a target or group is forgotten.
    """

    def __init__(self, rules: Sequence[AlertRule], window: int, memory: Memory) -> None:
        self.rules = [Watched.of_rule(rule, window) for rule in rules]
        by = rules[0].by
        measures = measures_of_rules(rules)
        intervals = any(not rule.is_exact for rule in rules)
        users = any(rule.rule.name == "users" for rule in rules)
        self.ask = Ask([*by], None, "req_time", measures, intervals, True, "first", False, users)
        question = json.dumps([stored.VERSION, window, self.ask._asdict()], sort_keys=True)
        self.name = hashlib.sha256(question.encode()).hexdigest()[:16]
        spans = [span for rule in self.rules for span in (*rule.spans, rule.recovery)]
        self.blocks = Blocks(self.name, spans, memory)
        counts = any(rule.is_exact for rule in rules)
        self.remembered = max(self.blocks.longest, _REMEMBERED if counts else 0)

    def verdicts(self, book: Book) -> int:
        """Return the number of verdicts that share the permitted false alarms."""
        return sum(
            len(rule.spans) * len(rule.rows(book, self.name))
            for rule in self.rules
            if not rule.of.is_exact
        )

    def judge(self, book: Book, end: int, asked: float) -> list[Findings]:
        """Return what the records say of each rule.

        Args:
            book: What is remembered.
            end: The end of the window that was closed last.
            asked: The evidence from which a rule is broken.
        """
        wanted: dict[int, dict[int, dict[_Query, dict[Row, Any]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(dict))
        )
        for number, rule in enumerate(self.rules):
            fired = book.fired.get(rule.identity, {})
            for row in rule.rows(book, self.name):
                entry = fired.get(row)
                restart = 0 if entry is None else entry.begin
                begin = max(book.seen[self.name][row].first, restart)
                for span in rule.spans:
                    cut = max(end - span.seconds, restart)
                    moves = max(0, math.ceil((end - begin) / span.seconds) - 1)
                    wanted[span.size][cut][_Query(number, span)][row] = moves
                if rule.of.is_exact or entry is None or entry.alert is None:
                    continue
                for span in (rule.recovery, *rule.spans):
                    # Shorter ones tell too little, and none may have records of before.
                    if rule.recovery.seconds <= span.seconds <= end - entry.fired:
                        query = _Query(number, span, True)
                        wanted[span.size][end - span.seconds][query][row] = entry.alert.value
        found: dict[_Query, dict[Row, Finding]] = defaultdict(dict)
        for size, cuts in wanted.items():
            for cut, state in self.blocks.since(size, cuts):
                if state is None:
                    continue
                queries = cuts[cut]
                look = Look(state, [self.rules[query.rule].of.rule for query in queries])
                for query, of_rows in queries.items():
                    told = look.recoveries if query.is_recovery else look.findings
                    found[query] |= told(self.rules[query.rule].of.rule, asked, of_rows)
        return [self._of_rule(number, found, book, end) for number in range(len(self.rules))]

    def _of_rule(
        self, number: int, found: dict[_Query, dict[Row, Finding]], book: Book, end: int
    ) -> Findings:
        rule = self.rules[number]
        of_spans = {span: found[_Query(number, span)] for span in rule.spans}
        if rule.of.is_exact:
            for span, findings in of_spans.items():
                for row in rule.rows(book, self.name):
                    is_full = end - book.seen[self.name][row].first >= span.seconds
                    findings[row] = _counted(rule, findings.get(row), is_full)
        recoveries: dict[Row, tuple[Span, Finding]] = {}
        for span in sorted({rule.recovery, *rule.spans}):
            for row, finding in found.get(_Query(number, span, True), {}).items():
                recoveries.setdefault(row, (span, finding))
        return Findings(of_spans, recoveries)


def parts_of(rules: Sequence[AlertRule], window: int, memory: Memory) -> list[Part]:
    """Return the questions of rules."""
    by: dict[tuple[str, ...], list[AlertRule]] = {}
    for rule in rules:
        by.setdefault(rule.by, []).append(rule)
    return [Part(those, window, memory) for those in by.values()]


def _counted(rule: Watched, finding: Finding | None, is_full: bool) -> Finding:
    """Return what a span says of a value without error.

    Without records, a count is 0. It may be too low while the first span is not over.
    """
    if finding is None:
        is_known = rule.of.rule.name in COUNTED
        verdict = "undecided"
        if is_known:
            verdict = "holds" if rule.of.rule.is_kept_by(0.0) else "broken"
        finding = Finding(0, 0.0 if is_known else None, verdict=verdict, is_well=verdict == "holds")
    low = rule.of.rule.low
    is_low = low is not None and finding.value is not None and finding.value <= low
    if finding.verdict == "broken" and is_low and not is_full:
        return finding._replace(verdict="undecided")
    return finding
