"""What rules would have raised, had a run been watched; and the command that tells it."""

from __future__ import annotations

import functools
import io
import json
import pathlib
import re

import polars as pl
import pytest
import watched
from watched import HOUR, START

from monolith_keras_metrics.command import main
from monolith_keras_metrics.insight import RuleFile, replay_alerts
from monolith_keras_metrics.insight.alerts.rule_file import NoData
from monolith_keras_metrics.insight.items import moment

_RULES = """
[[rule]]
name = "calibration"
rule = "0.9 <= calibration <= 1.1"
last = "6h"
cooldown = "1h"

[[rule]]
rule = "auc >= 0.5"
last = "6h"

[no_data]
after = "2h"
"""


@functools.cache
def faulty() -> pl.DataFrame:
    """The US is wrong from hour 8 to hour 16; hours 30 to 33 are missing, and 35 is the last."""
    return watched.records(
        [*range(30), 34, 35],
        lambda hour, country: 2.0 if country == "US" and 8 <= hour < 16 else 1.0,
    )


@pytest.fixture
def rules(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "rules.toml"
    path.write_text(_RULES, encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    """The same in a file, in an order that no one promises."""
    path = tmp_path / "worker-00000.attempt-1790000000000000.part-000000000000.parquet"
    faulty().sort("uid", maintain_order=True).write_parquet(path)
    return path


@pytest.mark.slow
class TestReplay:
    def test_what_would_have_fired_is_what_a_watch_raises(self, rules: pathlib.Path) -> None:
        found = replay_alerts(faulty(), rules)
        file = RuleFile.read(rules)._replace(no_data=None)
        live = watched.watch(file, faulty(), [*range(30), 34, 35])
        assert [one.state for _, one in live] == ["firing", "resolved"]
        (_, fired), (_, resolved) = live
        row, silence = found.alerts.rows(named=True)
        assert (row["name"], row["target"], row["group"]) == ("calibration", "ctr", None)
        assert (row["fired"], row["resolved"]) == (moment(fired.at), moment(resolved.at))
        assert row["firing_seconds"] == resolved.at - fired.at
        assert row["since"] == moment(START + 8 * HOUR)
        assert (row["value"], row["value_low"], row["value_high"]) == pytest.approx(
            (fired.value, fired.low, fired.high)
        )
        assert (row["culprit"], row["text"]) == ("country=US", fired.text)
        # From the last record of hour 29 until the first of hour 34, 60 seconds later each.
        silent = START + 29 * HOUR + 999 * 3 + 60
        assert silence["name"] == "no data"
        assert silence["since"] == moment(silent)
        assert silence["fired"] == moment(silent + 2 * HOUR)
        assert silence["resolved"] == moment(START + 34 * HOUR + 60)
        assert found.time == "train_time"
        assert (found.start, found.end) == (START, START + 36 * HOUR)
        assert found.rules.select("name", "fired", "firing_now").rows() == [
            ("calibration", 1, 0), ("auc >= 0.5", 0, 0), ("no data", 1, 0),
        ]  # fmt: skip
        of_rule = found.rules.row(0, named=True)
        assert of_rule["firing_seconds"] == row["firing_seconds"]
        assert of_rule["firing_share"] == row["firing_seconds"] / (36 * HOUR)

    def test_a_run_is_read_in_portions(
        self, run: pathlib.Path, rules: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("monolith_keras_metrics.insight.alerts.replay._RECORDS", 2_500)
        assert replay_alerts(run, rules).alerts.equals(replay_alerts(faulty(), rules).alerts)

    def test_the_command(
        self, run: pathlib.Path, rules: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["alerts", "replay", str(run), "--rules", str(rules)]
        assert main(arguments) == 0
        text = capsys.readouterr().out
        assert text.startswith(
            "From 2026-11-23 00:00 to 2026-11-24 12:00 UTC, by req_time; no data by train_time\n"
        )
        assert "country=US (" in text
        assert ": calibration of ctr is " in text
        assert main([*arguments, "--format", "csv"]) == 0
        table = pl.read_csv(io.StringIO(capsys.readouterr().out))
        assert table.get_column("name").to_list() == ["calibration", "no data"]
        assert main([*arguments, "--format", "json", "--since", "12h"]) == 0
        both = json.loads(capsys.readouterr().out)
        assert [one["name"] for one in both["alerts"]] == ["no data"]
        assert [one["fired"] for one in both["rules"]] == [0, 0, 1]
        assert main([*arguments, "--format", "markdown", "--since", "30m"]) == 0
        assert "Nothing would have fired." in capsys.readouterr().out


def test_what_still_fires_at_the_end_is_not_resolved() -> None:
    records = watched.records(range(6), lambda *_: 1.4)
    found = replay_alerts(records, RuleFile.of(["0.9 <= calibration <= 1.1", "auc > 0.5"]))
    (row,) = found.alerts.rows(named=True)
    assert row["resolved"] is None
    fired = int(row["fired"].timestamp())
    assert row["firing_seconds"] == START + 6 * HOUR - fired
    assert found.rules.select("fired", "firing_now").rows() == [(1, 1), (0, 0)]


def test_without_a_time_of_training_gaps_are_those_of_requests() -> None:
    records = watched.records([0, 5], lambda *_: 1.0)
    file = RuleFile((), NoData(HOUR, "page"))
    for frame in (records.drop("train_time"), records.with_columns(train_time=pl.lit(0))):
        found = replay_alerts(frame, file)
        assert found.time == "req_time"
        assert found.alerts.get_column("since").to_list() == [moment(START + 999 * 3)]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--window", "soon"], "`window` must be a length of time.*window='soon'"),
        (["--since", "x"], "`since` must be a length of time.*since='x'"),
        (["--rules", "none.toml"], "No such file"),
    ],
)
def test_arguments_that_are_not_understood(
    run: pathlib.Path, rules: pathlib.Path, arguments: list[str], error: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(["alerts", "replay", str(run), "--rules", str(rules), *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("deep-insight alerts replay: ")
    assert re.search(error, message)


def test_records_without_times() -> None:
    records = watched.records(range(1), lambda *_: 1.0)
    with pytest.raises(ValueError, match="must have a column 'req_time'"):
        replay_alerts(records.drop("req_time"), RuleFile.of("auc > 0.5"))
    with pytest.raises(ValueError, match="must hold records with a 'req_time'"):
        replay_alerts(records[:0], RuleFile.of("auc > 0.5"))
