"""A file of rules: what is to be watched, in TOML.

false_alarms = 0.01        # how likely a healthy training may ever raise any alert of this file
cooldown = "6h"            # of rules that do not say

[[rule]]
name = "calibration"       # default: the rule
rule = "0.95 <= calibration <= 1.05"
by = "country"             # a column or extra field, or a list
targets = ["ctr"]          # default: all
last = ["6h", "1d", "3d", "7d"]  # the spans of time whose records are judged
cooldown = "12h"           # fires at most this often
resolve = "3h"             # resolved if this span is well
severity = "page"          # passed on as it is

[no_data]
after = "30m"
severity = "page"
"""

from __future__ import annotations

import importlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from monolith_keras_metrics.insight.alerts.durations import FORM, seconds_of
from monolith_keras_metrics.insight.check import RULED
from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.rules import WITH_ERRORS, Rule, rules_of

# A new fault is found in the shortest of them, and one that is small but lasts in the longest.
LAST = ("6h", "1d", "3d", "7d")
# A count that is low, or high, is so in a span of one length: which is up to whoever counts.
LAST_OF_COUNTS = ("6h",)
_SEVERITY = "page"
_COOLDOWN = "6h"
_OF_FILE = ("false_alarms", "cooldown", "rule", "no_data")
_OF_RULE = ("name", "rule", "by", "targets", "last", "cooldown", "resolve", "severity")
_OF_NO_DATA = ("after", "severity")


class AlertRule(NamedTuple):
    """A rule that raises alerts.

    Attributes:
        name: Its name, which no other rule of the file has.
        rule: What values have to keep.
        by: The columns or extra fields by whose values records are judged apart.
        targets: The targets that are judged; None for all.
        last: The lengths of the spans whose records are judged, in seconds, ascending.
        cooldown: Seconds after it has fired, in which it does not fire again.
        resolve: Length of the span that has to be well to resolve it, in seconds; None for the
            default.
        severity: What is passed on with its alerts.
    """

    name: str
    rule: Rule
    by: tuple[str, ...]
    targets: tuple[str, ...] | None
    last: tuple[int, ...]
    cooldown: int
    resolve: int | None
    severity: str

    @property
    def is_exact(self) -> bool:
        """Return True if it is about a value without error, such as a count."""
        return self.rule.name not in WITH_ERRORS

    @property
    def identity(self) -> list[Any]:
        """Return what makes it another rule when it is changed; JSON."""
        return [self.name, self.rule.text, [*self.by], self.targets and [*self.targets]]


class NoData(NamedTuple):
    """When it is an alert that no records come.

    Attributes:
        after: Seconds without a new record.
        severity: What is passed on with the alert.
    """

    after: int
    severity: str


class RuleFile(NamedTuple):
    """The rules of a file.

    Attributes:
        rules: The rules.
        no_data: When it is an alert that no records come; None if it is none.
        false_alarms: The largest permitted probability that a training which keeps all rules ever
            raises an alert, besides those of counts and of no data.
    """

    rules: tuple[AlertRule, ...]
    no_data: NoData | None = None
    false_alarms: float = 0.01

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RuleFile:
        """Read a file of rules.

        Args:
            path: The file, in TOML.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is no TOML, or says something that is not understood.
            ModuleNotFoundError: If Python is older than 3.11 and tomli is not installed.
        """
        tomllib = _tomllib()
        file = pathlib.Path(path)
        try:
            contents = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{str(path)!r} must be a file of rules, in TOML: {error}") from None
        return _Checked(str(path)).file(contents)

    @classmethod
    def of(
        cls, rules: str | Sequence[str], by: str | Sequence[str] = (), false_alarms: float = 0.01
    ) -> RuleFile:
        """Return rules as a file would have them, with the defaults for all else.

        Args:
            rules: Rules, such as `"auc >= 0.7"`.
            by: The columns or extra fields by whose values records are judged apart.
            false_alarms: The largest permitted probability of a false alarm.

        Raises:
            ValueError: If a text is no rule.

        Example:
        >>> [rule.name for rule in RuleFile.of(["auc >= 0.7", "calibration <= 1.1"]).rules]
        ['auc >= 0.7', 'calibration <= 1.1']
        """
        texts = dict.fromkeys([rules] if isinstance(rules, str) else rules)
        fields = [by] if isinstance(by, str) else [*by]
        of_each = [{"rule": text, **({"by": fields} if fields else {})} for text in texts]
        return _Checked("rules").file({"false_alarms": false_alarms, "rule": of_each})


class _Checked:
    """What a file says, checked.

    Args:
        source: What errors call the file.
    """

    def __init__(self, source: str) -> None:
        self._source = source

    def file(self, contents: Mapping[str, Any]) -> RuleFile:
        """Return the rules of a file, given its contents."""
        self._known(contents, _OF_FILE, "")
        cooldown = self._seconds(contents, "cooldown", "", _COOLDOWN)
        tables = contents.get("rule", [])
        if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
            raise self._error("", "rule", "tables, each of which begins with [[rule]]", tables)
        rules = [self._rule(number, one, cooldown) for number, one in enumerate(tables, 1)]
        names = [rule.name for rule in rules]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(
                f"{self._source!r}: rules must have distinct names. Received: {twice[0]!r} "
                f"{names.count(twice[0])} times. Give each its `name`"
            )
        no_data = None
        if "no_data" in contents:
            table, where = contents["no_data"], "[no_data]: "
            if not isinstance(table, dict):
                raise self._error("", "no_data", "a table, which begins with [no_data]", table)
            self._known(table, _OF_NO_DATA, where)
            after = self._seconds(table, "after", where, None)
            no_data = NoData(after, self._text(table, "severity", where, _SEVERITY))
        if not rules and no_data is None:
            raise ValueError(
                f"{self._source!r} must have at least one [[rule]], or [no_data]. Received: none"
            )
        share = contents.get("false_alarms", 0.01)
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 0.5:
            raise self._error("", "false_alarms", "above 0 and at most 0.5", share)
        return RuleFile(tuple(rules), no_data, float(share))

    def _rule(self, number: int, table: Mapping[str, Any], cooldown: int) -> AlertRule:
        where = f"rule {table.get('name', table.get('rule', number))!r}: "
        self._known(table, _OF_RULE, where)
        text = self._text(table, "rule", where, None)
        try:
            (rule,) = rules_of(text, RULED)
        except ValueError as error:
            raise ValueError(f"{self._source!r}: {where}{error}") from None
        is_exact = rule.name not in WITH_ERRORS
        last = table.get("last", [*(LAST_OF_COUNTS if is_exact else LAST)])
        spans = [seconds_of(one) for one in (last if isinstance(last, list) else [last])]
        lengths = [one for one in spans if one is not None]
        if not spans or len(lengths) < len(spans):
            raise self._error(where, "last", f"{FORM}, or a list of these", last)
        targets = self._texts(table, "targets", where)
        return AlertRule(
            self._text(table, "name", where, text),
            rule,
            self._texts(table, "by", where) or (),
            targets,
            tuple(sorted({*lengths})),
            self._seconds(table, "cooldown", where, None) if "cooldown" in table else cooldown,
            self._seconds(table, "resolve", where, None) if "resolve" in table else None,
            self._text(table, "severity", where, _SEVERITY),
        )

    def _known(self, table: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
        """Raise unless the table has these keys only."""
        if unknown := [key for key in table if key not in keys]:
            raise ValueError(
                f"{self._source!r}: {where}keys must be among {list(keys)}. "
                f"Received: {unknown[0]!r}"
            )

    def _text(self, table: Mapping[str, Any], key: str, where: str, default: str | None) -> str:
        value = table.get(key, default)
        if not isinstance(value, str) or not value.strip():
            raise self._error(where, key, "a text", value)
        return value

    def _texts(self, table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...] | None:
        """Return a text or several; None if there is none."""
        if key not in table:
            return None
        value = table[key]
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not texts or not all(
            isinstance(one, str) and one for one in texts
        ):  # fmt: skip
            raise self._error(where, key, "a name, or a list of distinct names", value)
        if len({*texts}) < len(texts):
            raise self._error(where, key, "a name, or a list of distinct names", value)
        return tuple(texts)

    def _seconds(self, table: Mapping[str, Any], key: str, where: str, default: str | None) -> int:
        value = table.get(key, default)
        seconds = seconds_of(value)
        if seconds is None:
            raise self._error(where, key, FORM, value)
        return seconds

    def _error(self, where: str, key: str, expected: str, received: object) -> ValueError:
        came = "nothing" if received is None else f"{key}={received!r}"
        return ValueError(
            f"{self._source!r}: {where}`{key}` must be {expected}. Received: {came:.200}"
        )


def _tomllib() -> Any:
    """Return Python's module for TOML, or its model for older Pythons."""
    for name in ("tomllib", "tomli"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(
        "Python 3.10 needs tomli to read a file of rules. "
        "Install it: pip install 'monolith-keras-metrics[watch]'"
    )


def measures_of_rules(rules: Sequence[AlertRule]) -> list[str]:
    """Return the names of the measures that a state must be made for to judge rules."""
    names = ["effective_examples", "positive_rate"]
    return [
        *dict.fromkeys([*names, *(one.rule.name for one in rules if one.rule.name in MEASURES)])
    ]
