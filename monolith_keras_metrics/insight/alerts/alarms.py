"""`Alarms`: what fires, and what is resolved, whenever a window of a run closes.

Each rule is judged over several spans, so that a fault which is new is found soon, and one that is
small but lasts is found, too. All verdicts of all rules, targets, groups and spans share the
permitted false alarms: see `evidence`, and `_lately` of `check`.

- A row (a rule, a target, a group) fires if the evidence in any of its spans is as much as is
  asked. While it fires, it does not fire again.
- It is resolved if the records after it fired, of a short span, are well: their value is within
  the bounds by a standard error, and three away from that which fired. If the span is too short to
  tell, longer ones do. Then its spans begin anew, or the fault would fire again.
- After it was resolved, it fires again if it is broken, but not within its cooldown.

Everything is in `memory`, and nothing else is remembered. So whoever follows the run commits it
together with how far the run was read, and a kill at any moment changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from absl import logging

from monolith_keras_metrics.insight.alerts import wording
from monolith_keras_metrics.insight.alerts.book import Book
from monolith_keras_metrics.insight.alerts.change import Changes
from monolith_keras_metrics.insight.alerts.durations import text_of_seconds
from monolith_keras_metrics.insight.alerts.evidence_blocks import forget_others
from monolith_keras_metrics.insight.alerts.judging import rows_of
from monolith_keras_metrics.insight.alerts.parts import parts_of
from monolith_keras_metrics.insight.alerts.rule_file import RuleFile
from monolith_keras_metrics.insight.alerts.transitions import (
    Fire,
    Recent,
    alert_of,
    ended,
    fires,
    forget,
    resolved,
)
from monolith_keras_metrics.insight.asks import Ask
from monolith_keras_metrics.insight.items import Alert
from monolith_keras_metrics.insight.state import Memory, State

NO_DATA = "no data"
# Alerts of one window whose slices are searched, those with most evidence. A search takes seconds.
_SEARCHES = 8


class Alarms:
    """The alerts of a run.

    One thread calls it, in the order of the windows.

    Args:
        rules: The rules.
        window_seconds: The length of a window, in seconds.
        memory: What is remembered between two calls, and between two starts: names and values. It
            has at most about 80 states for each question, and one small text. Commit it together
            with how far the run was read.

    Attributes:
        rules: The rules.
        asks: The questions: whoever follows the run makes a state for each of them, of each
            window's records.

    Example:
    Half of the 8,000 users of an hour click, and the model promises 0.6.

    >>> import polars as pl
    >>> from monolith_keras_metrics.insight.asks import of_records
    >>> alarms = Alarms(RuleFile.of("0.9 <= calibration <= 1.1"), 3600, {})
    >>> records = pl.DataFrame({
    ...     "uid": range(8_000), "req_time": [60] * 8_000,
    ...     "label": [{"ctr": user % 2.0} for user in range(8_000)],
    ...     "predict": [{"ctr": 0.6}] * 8_000,
    ... })
    >>> states = [of_records(records.lazy(), ask) for ask in alarms.asks]
    >>> [alert.text for alert in alarms.close(0, 3600, states, lambda since: records.lazy())]
    ['calibration of ctr is 1.20 [1.13, 1.27] over the last 1h; the rule is \
0.9 <= calibration <= 1.1. It began about 1970-01-01 00:00 UTC.']
    """

    def __init__(self, rules: RuleFile, window_seconds: int, memory: Memory) -> None:
        self.rules = rules
        self._memory = memory
        self._parts = parts_of(rules.rules, window_seconds, memory)
        self.asks: list[Ask] = [part.ask for part in self._parts]
        self._told: set[str] = set()  # rules of which it was logged that they are about nothing

    @property
    def firing(self) -> list[Alert]:
        """Return the alerts that fire at present, the oldest first."""
        book = Book.read(self._memory)
        rows = [entry.alert for rows in book.fired.values() for entry in rows.values()]
        alerts = [alert for alert in (*rows, book.silence) if alert is not None]
        return sorted(alerts, key=lambda alert: alert.at)

    def close(
        self, start: int, end: int, states: Sequence[State | None], recent: Recent
    ) -> list[Alert]:
        """Judge all rules at the end of a window.

        Args:
            start: When the window begins, Unix seconds.
            end: When it ends. Windows come in order; those without records may be left out.
            states: For each of `asks`, the state of the window's records, and of late ones that
                have come since the window before; None if there are none.
            recent: Returns the newest records, from a time on; None if there are none at hand. They
                are read only if an alert fires.

        Returns:
            The alerts that fire or are resolved, to be numbered by the caller.
        """
        book = Book.read(self._memory)
        for part, state in zip(self._parts, states, strict=True):
            if state is not None:
                part.blocks.add(start, end, state)
                book.see(part.name, rows_of(state.groups, state.keys), start, end)
            book.forget(part.name, end - part.remembered)
        self._log_idle(book)
        alerts = self._without_rule(book, end)
        identities = [rule.identity for part in self._parts for rule in part.rules]
        if book.rules != identities:
            book.rules, book.asked = identities, 1
        book.asked = max(book.asked, sum(part.verdicts(book) for part in self._parts))
        asked = book.asked / self.rules.false_alarms
        new: list[Fire] = []
        for part in self._parts:
            for rule, findings in zip(part.rules, part.judge(book, end, asked), strict=True):
                alerts += resolved(part, rule, findings, book, end)
                new += fires(part, rule, findings, book, end)
                forget(part, rule, book, end)
        new.sort(key=lambda fire: -(fire.finding.evidence or 0.0))
        changes = {
            part.name: Changes(part.blocks, [rule.of.rule for rule in part.rules], end)
            for part in self._parts
        }
        for number, fire in enumerate(new):
            searched = recent if number < _SEARCHES else None
            alerts.append(alert_of(fire, book, end, asked, changes[fire.part.name], searched))
        book.write(self._memory)
        return alerts

    def look(self, now: int, newest: int | None) -> list[Alert]:
        """Decide whether it is an alert that no records come, or whether it is over.

        Call it when everything that is there has been read: after a start, records may be waiting.

        Args:
            now: The present time, Unix seconds.
            newest: When the newest record came; None if none has come yet.

        Returns:
            An alert that fires or is resolved, or none.
        """
        no_data = self.rules.no_data
        if no_data is None:
            return []
        book = Book.read(self._memory)
        first = now if book.looked is None else book.looked
        since = first if newest is None else newest
        alerts: list[Alert] = []
        is_silent = now - since >= no_data.after
        if is_silent and book.silence is None:
            text = wording.silent(now, newest, first)
            after = text_of_seconds(no_data.after)
            book.silence = Alert(0, NO_DATA, "firing", f"no records for {after}", "", {},
                                 no_data.severity, now, since, after,
                                 *(None,) * 5, (), text)  # fmt: skip
            alerts = [book.silence]
        elif not is_silent and book.silence is not None and newest is not None:
            text = wording.heard(book.silence, newest)
            alerts = [dataclasses.replace(book.silence, state="resolved", at=now, text=text)]
            book.silence = None
        if alerts or book.looked is None:
            book.looked = first
            book.write(self._memory)
        return alerts

    def _log_idle(self, book: Book) -> None:
        """Log once which rules are about targets that no record has: a name may be misspelt."""
        for part in self._parts:
            known = sorted({target for target, _ in book.seen[part.name]})
            for rule in part.rules:
                if known and rule.identity not in self._told and not rule.rows(book, part.name):
                    self._told.add(rule.identity)
                    logging.warning("watch: rule %r is about %s, but the targets of the records "
                                    "are %s", rule.of.name, rule.of.targets, known)  # fmt: skip

    def _without_rule(self, book: Book, end: int) -> list[Alert]:
        """Forget rules that are not in the file any more; return their alerts, resolved."""
        alerts = []
        known = {rule.identity for part in self._parts for rule in part.rules}
        for identity in [*book.fired]:
            if identity not in known:
                rows = book.fired.pop(identity)
                alerts += [ended(entry.alert, end, "its rule is not in the file any more")
                           for entry in rows.values() if entry.alert is not None]  # fmt: skip
        if self.rules.no_data is None and book.silence is not None:
            alerts.append(ended(book.silence, end, "its rule is not in the file any more"))
            book.silence = None
        names = [part.name for part in self._parts]
        if {*book.seen} - {*names}:
            forget_others(self._memory, names)
            book.seen = {name: seen for name, seen in book.seen.items() if name in names}
        return alerts
