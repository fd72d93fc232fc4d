"""A file of rules: what it says, and what it may not say."""

from __future__ import annotations

import pathlib
import sys

import pytest

from monolith_keras_metrics.insight.alerts import rule_file
from monolith_keras_metrics.insight.alerts.rule_file import NoData, RuleFile

_WHOLE = """
false_alarms = 0.02
cooldown = "2h"

[[rule]]
name = "calibration"
rule = "0.95 <= calibration <= 1.05"
by = ["country", "slot"]
targets = "ctr"
last = ["1d", "90m"]
cooldown = "12h"
resolve = "3h"
severity = "ticket"

[[rule]]
rule = "auc >= 70%"

[[rule]]
rule = "examples >= 1000"
last = "1h30m"

[no_data]
after = "30m"
"""


def read(tmp_path: pathlib.Path, text: str) -> RuleFile:
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    return RuleFile.read(path)


def test_everything_that_a_file_can_say(tmp_path: pathlib.Path) -> None:
    file = read(tmp_path, _WHOLE)
    first, second, third = file.rules
    assert (file.false_alarms, file.no_data) == (0.02, NoData(1800, "page"))
    assert first[:1] + first[2:] == (
        "calibration", ("country", "slot"), ("ctr",), (5_400, 86_400), 43_200, 10_800, "ticket",
    )  # fmt: skip
    assert (first.rule.low, first.rule.high) == (0.95, 1.05)
    assert (second.name, second.by, second.targets) == ("auc >= 70%", (), None)
    assert (second.last, second.cooldown) == ((21_600, 86_400, 259_200, 604_800), 7_200)
    assert (second.resolve, second.severity, second.is_exact) == (None, "page", False)
    assert (third.last, third.is_exact) == ((5_400,), True)


def test_no_data_alone_is_a_file(tmp_path: pathlib.Path) -> None:
    file = read(tmp_path, '[no_data]\nafter = "1h"\nseverity = "mail"')
    assert file == RuleFile((), NoData(3_600, "mail"), 0.01)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", r"rules.toml' must have at least one \[\[rule\]\], or \[no_data\]. Received: none"),
        ("rule = [", r"rules.toml' must be a file of rules, in TOML: .*at end of document"),
        ("rules = 1", r"keys must be among \['false_alarms', .*Received: 'rules'"),
        ("rule = 1", r"`rule` must be tables, each of which begins.*Received: rule=1"),
        ("no_data = 1", r"`no_data` must be a table.*Received: no_data=1"),
        ("[no_data]", r"\[no_data\]: `after` must be a length of time.*Received: nothing"),
        ('[no_data]\nafter = "1h"\nafer = 1', r"\[no_data\]: keys must be among.*'afer'"),
        ("[[rule]]", "rule 1: `rule` must be a text. Received: nothing"),
        ('[[rule]]\nname = "a"\nrule = 7', "rule 'a': `rule` must be a text. Received: rule=7"),
        ('[[rule]]\nrule = "acc > 1"', r"rule 'acc > 1': A rule must be about \['auc', "),
        ('[[rule]]\nrule = "ecce <= 1"', "cannot be about ecce"),
        ('[[rule]]\nrule = "auc > 1"\nlow = 1', r"rule 'auc > 1': keys must be among.*'low'"),
        ('[[rule]]\nrule = "auc > 1"\nlast = 6', "`last` must be a length of time.*last=6"),
        ('[[rule]]\nrule = "auc > 1"\nlast = []', r"`last` must be.*Received: last=\[\]"),
        ('[[rule]]\nrule = "auc > 1"\nlast = ["6h", "x"]', "`last` must be a length of time"),
        ('[[rule]]\nrule = "auc > 1"\nby = [1]', r"`by` must be a name.*Received: by=\[1\]"),
        ('[[rule]]\nrule = "auc > 1"\nby = ["a", "a"]', "`by` must be a name.*distinct names"),
        ('[[rule]]\nrule = "auc > 1"\ncooldown = 3600', "`cooldown` must be a length of time"),
        ('[[rule]]\nrule = "auc > 1"\nresolve = "soon"', "`resolve` must be.*'soon'"),
        ('[[rule]]\nrule = "auc > 1"\nseverity = ""', "`severity` must be a text"),
        ('[[rule]]\nrule = "auc > 1"\n' * 2, "distinct names. Received: 'auc > 1' 2 times"),
        ('false_alarms = 2\n[[rule]]\nrule = "auc > 1"', "`false_alarms` must be above 0.*=2"),
    ],
)  # fmt: skip
def test_what_a_file_may_not_say(tmp_path: pathlib.Path, text: str, error: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){error}"):
        read(tmp_path, text)


def test_a_file_that_is_no_text(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="must be a file of rules, in TOML"):
        RuleFile.read(path)
    with pytest.raises(FileNotFoundError):
        RuleFile.read(tmp_path / "none.toml")


def test_rules_without_a_file() -> None:
    file = RuleFile.of(["auc >= 0.7", "auc >= 0.7"], by="country", false_alarms=0.1)
    assert [(one.name, one.by) for one in file.rules] == [("auc >= 0.7", ("country",))]
    assert (file.false_alarms, file.no_data) == (0.1, None)
    with pytest.raises(ValueError, match="'rules': rule 'auc': A rule must be such as"):
        RuleFile.of("auc")


def test_an_older_python_without_tomli_is_told_what_to_install(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'monolith-keras-metrics\[watch\]'"):
        read(tmp_path, _WHOLE)
    assert rule_file.LAST == ("6h", "1d", "3d", "7d")
