"""What alerts remember besides the states of windows: one small text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from typing import Any

from monolith_keras_metrics.insight.alerts.judging import Row
from monolith_keras_metrics.insight.items import Alert, from_json, to_json
from monolith_keras_metrics.insight.state import Memory

_KEY = "alerts/book"
_VERSION = 1


@dataclasses.dataclass
class Entry:
    """A row of a rule that has fired.

    Attributes:
        fired: When it fired last.
        alert: The alert, if it still fires.
        begin: When it was resolved last: only later records are judged. 0 if it never was.
    """

    fired: int
    alert: Alert | None = None
    begin: int = 0


@dataclasses.dataclass
class Seen:
    """When there were records of a target and group.

    Attributes:
        first: The start of the first window with any.
        last: The end of the last one.
    """

    first: int
    last: int


@dataclasses.dataclass
class Book:
    """What alerts remember.

    Attributes:
        rules: The identities of all rules.
        asked: The largest number of verdicts of these rules that have ever shared the permitted
            false alarms.
        seen: The targets and groups of each question that have records in its longest span.
        fired: The rows of each rule that have fired, by the rule's identity, as JSON.
        looked: When it was first asked whether there are data.
        silence: The alert about no data, if it fires.
    """

    rules: list[str] = dataclasses.field(default_factory=list)
    asked: int = 1
    seen: dict[str, dict[Row, Seen]] = dataclasses.field(default_factory=dict)
    fired: dict[str, dict[Row, Entry]] = dataclasses.field(default_factory=dict)
    looked: int | None = None
    silence: Alert | None = None

    @classmethod
    def read(cls, memory: Memory) -> Book:
        """Return what is remembered; nothing if another version of this package kept it."""
        text = memory.get(_KEY, b"{}")
        assert isinstance(text, bytes)
        kept: dict[str, Any] = json.loads(text)
        if kept.get("version") != _VERSION:
            return cls()
        return cls(
            kept["rules"],
            kept["asked"],
            {name: {_row(key): Seen(*one) for key, one in rows} for name, rows in kept["seen"]},
            {
                name: {_row(key): Entry(at, _alert(text), begin) for key, at, text, begin in rows}
                for name, rows in kept["fired"]
            },
            kept["looked"],
            _alert(kept["silence"]),
        )

    def write(self, memory: Memory) -> None:
        """Remember it."""
        kept = {
            "version": _VERSION,
            "rules": self.rules,
            "asked": self.asked,
            "seen": [
                [name, [[row, [one.first, one.last]] for row, one in rows.items()]]
                for name, rows in self.seen.items()
            ],
            "fired": [
                [name, [[row, one.fired, _text(one.alert), one.begin] for row, one in rows.items()]]
                for name, rows in self.fired.items()
            ],
            "looked": self.looked,
            "silence": _text(self.silence),
        }
        memory[_KEY] = json.dumps(kept).encode()

    def see(self, name: str, rows: Collection[Row], start: int, end: int) -> None:
        """Note that a window has records of targets and groups."""
        seen = self.seen.setdefault(name, {})
        for row in rows:
            seen[row] = Seen(seen[row].first if row in seen else start, end)

    def forget(self, name: str, before: int) -> None:
        """Forget targets and groups that had their last record before a time."""
        seen = self.seen.get(name, {})
        self.seen[name] = {row: one for row, one in seen.items() if one.last > before}


def _row(key: Any) -> Row:
    target, values = key
    return target, tuple(values)


def _text(alert: Alert | None) -> str | None:
    return None if alert is None else to_json(alert)


def _alert(text: str | None) -> Alert | None:
    if text is None:
        return None
    alert = from_json(text)
    assert isinstance(alert, Alert)
    return alert
