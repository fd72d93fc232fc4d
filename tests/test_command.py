"""The subcommands that measure: what they print is what `insight` computes."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import struct
import sys
import termios
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_series_equal

from monolith_keras_metrics import command, insight
from monolith_keras_metrics.command import progress
from monolith_keras_metrics.command.tables import render
from monolith_keras_metrics.insight import steps
from monolith_keras_metrics.insight.texts import with_interval


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 200 records of two targets, one per minute."""
    rows = range(200)
    pl.DataFrame(
        {
            "uid": [row % 37 for row in rows],
            "req_time": [1_700_000_000 + 60 * row for row in rows],
            "train_time": [1_700_000_000 + 60 * row + 30 for row in rows],
            "label": [{"ctr": float(row % 3 == 0), "stay": row % 7 * 1.5} for row in rows],
            "predict": [{"ctr": 0.2 + row % 5 / 10, "stay": row % 6 * 1.5} for row in rows],
            "extra_str": [{"country": "DE" if row % 2 else None} for row in rows],
        }
    ).write_parquet(tmp_path / "worker-00000.parquet")
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command prints when it succeeds."""
    assert command.main([*map(str, arguments)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def test_summary_as_a_table(run: Path, capsys: pytest.CaptureFixture[str],
                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "300")
    head, *rows = printed(capsys, "summary", run, "--interval", 0.95).splitlines()
    assert head.split()[:5] == ["target", "examples", "unlabelled", "invalid", "revisits"]
    assert [row.split()[0] for row in rows] == ["ctr", "stay"]
    expected = insight.summary(insight.open_run(run), interval=0.95).row(0, named=True)
    assert (
        with_interval(*(expected[f"calibration{end}"] for end in ("", "_low", "_high"))) in rows[0]
    )
    monkeypatch.setenv("COLUMNS", "80")
    narrow = printed(capsys, "summary", run, "--interval", 0.95).splitlines()
    assert max(map(len, narrow)) <= 80
    assert sum(line.startswith("ctr ") for line in narrow) > 1


@pytest.mark.parametrize("form", ["csv", "json"])
def test_summary_for_programs_has_all_digits(
    form: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = printed(capsys, "summary", run, "--by", "country", "--format", form)
    expected = insight.summary(insight.open_run(run), "country")
    if form == "csv":
        found = pl.read_csv(io.StringIO(output))["log_loss"]
    else:
        found = pl.Series([row["log_loss"] for row in json.loads(output)])
    # Portions may be added in another order.
    assert_series_equal(found, expected["log_loss"], check_names=False, rel_tol=1e-14)


def test_windows_targets_and_the_newest_records(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = printed(capsys, "summary", run, "--window", "1h", "--target", "ctr", "--last", "2h",
                     "--measure", "calibration", "--format", "markdown")  # fmt: skip
    head, _, *rows = output.splitlines()
    assert (
        head
        == "| target | window | examples | unlabelled | invalid | revisits | users | calibration |"
    )
    assert sum(int(row.split(" | ")[2]) for row in rows) == 120
    assert rows[-1].startswith("| ctr | 2023-11-15 01:00 |")


def test_reliability_compare_and_explain(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(printed(capsys, "reliability", run, "--bins", 5).splitlines()) == 6
    compared = printed(capsys, "compare", run, run, "--measure", "auc", "--format", "json")
    (row, _) = json.loads(compared)
    assert (row["examples"], row["auc_diff"]) == (200, 0)
    explained = printed(capsys, "explain", run, run, "--by", "country", "--format", "json")
    assert [row["model"] for row in json.loads(explained)] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["summary", "nowhere"], "deep-insight summary: `path` must be the folder"),
        (["summary", "{run}", "--by", "age"], "`by` must be among"),
        (["summary", "{run}", "--measure", "f1"], "`measures` must be among"),
        (["summary", "{run}", "--target", "cvr"], r"--target must be among \['ctr', 'stay'\]"),
        (["explain", "{run}", "{run}"], "`by` must name at least one group"),
        (["summary", "{run}", "--window", "0h"], "`window` must be a length of time"),
        (["summary", "{run}", "--minimum-users", "-1"], "`minimum_users` must be at least 0"),
        (["summary", "{run}/damaged.parquet"], "deep-insight summary: parquet"),
    ],
)
def test_what_cannot_be_measured(
    arguments: list[str], error: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray((run / "worker-00000.parquet").read_bytes())
    (run / "damaged.parquet").write_bytes(data[:4] + bytes(2_000) + data[2_004:])
    arguments = [word.format(run=run) for word in arguments]
    if "damaged" not in arguments[1]:
        (run / "damaged.parquet").unlink()
    assert command.main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert re.search(error, output.err)


def test_rows_that_are_hidden_are_counted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of nothing but names would not say why."""
    asked = ["summary", run, "--minimum-users", 38]
    assert printed(capsys, *asked).endswith("\n2 of 2 rows are hidden: see --minimum-users\n")
    assert "hidden" not in printed(capsys, *asked, "--format", "csv")
    assert "hidden" not in printed(capsys, "summary", run, "--minimum-users", 3)


def test_times_beyond_those_of_python(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Milliseconds where seconds should be: the table shows it."""
    path = run / "worker-00000.parquet"
    pl.read_parquet(path).with_columns(pl.col("req_time") * 1000).write_parquet(path)
    assert "+55840-" in printed(capsys, "summary", run, "--window", "1d", "--measure", "auc")


def test_numbers_are_to_the_right_and_texts_to_the_left() -> None:
    frame = pl.DataFrame({"rule": ["0.9 <= auc", "1 < n"], "x": [1e-9, -2], "carrier": ["9E", "A"]})
    assert render(frame, ["rule"], "table", 80).splitlines()[1:] == [
        "0.9 <= auc  1e-09  9E",
        "1 < n          -2  A",
    ]


def test_a_time_that_is_none(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["summary", str(run), "--last", "soon"])
    assert ended.value.code == 2
    assert "must be such as 30m, 6h or 7d. Received: 'soon'" in capsys.readouterr().err


@given(
    st.lists(st.tuples(st.text(max_size=5), st.integers() | st.none(), st.floats()), max_size=5),
    st.integers(1, 200),
)
def test_a_table_shows_every_row(rows: list[tuple[Any, ...]], width: int) -> None:
    """Whatever is in it, and however narrow the terminal."""
    schema = {"target": pl.String, "n": pl.Int128, "x": pl.Float64}
    frame = pl.DataFrame(rows, schema, orient="row")
    text = render(frame, ["target"], "table", width)
    parts = text.split("\n\n")
    for part in parts:
        assert len(part.splitlines()) in (0, 1 + frame.height)


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    """A run of 4,000 records of 400 users, whose predictions are three times the clicks."""
    rows = range(4_000)
    pl.DataFrame(
        {
            "uid": [row % 400 for row in rows],
            "req_time": [1_700_000_000 + 60 * row for row in rows],
            "label": [{"ctr": float(row * 7919 % 10_007 < 2_000)} for row in rows],
            "predict": [{"ctr": 0.6 + row % 5 / 100} for row in rows],
            "extra_str": [{"country": "DE" if row % 3 else None} for row in rows],
        }
    ).write_parquet(tmp_path / "worker-00000.parquet")
    return tmp_path


class TestCheck:
    @pytest.mark.parametrize(
        ("rules", "status"),
        [
            (["calibration > 2"], 0),
            (["calibration > 2", "examples >= 4000"], 0),
            (["calibration > 2", "2.9 < calibration < 3.1"], 3),
            (["2.9 < calibration < 3.1", "calibration < 2"], 1),
            (["examples > 4000"], 1),
        ],
    )
    def test_the_exit_status_is_that_of_the_worst(
        self, clicks: Path, capsys: pytest.CaptureFixture[str], rules: list[str], status: int
    ) -> None:
        options = [option for rule in rules for option in ("--rule", rule)]
        assert command.main(["check", str(clicks), *options]) == status
        output = capsys.readouterr()
        assert output.err == ""
        assert all(rule in output.out for rule in rules)

    def test_a_sentence_says_what_is_broken(
        self, clicks: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        rules = ["--rule", "calibration < 2", "--rule", "examples > 1e4", "--by", "country"]
        assert command.main(["check", str(clicks), *rules]) == 1
        lines = capsys.readouterr().out.splitlines()
        expected = insight.check(insight.open_run(clicks), ["calibration < 2"], "country")
        row = expected.filter(pl.col("country") == "DE").row(0, named=True)
        value, low, high = (row[name] for name in ("value", "low", "high"))
        text = "broken: calibration < 2, of ctr, country DE: "
        (sentence,) = (line for line in lines if line.startswith(text))
        assert sentence.startswith(f"{text}{value:.4g} [{low:.4g}, {high:.4g}]; evidence ")
        assert sentence.endswith(" : 1, asked 200 : 1")
        assert "broken: examples > 1e4, of ctr, country -: 1,334" in lines
        assert lines[-1] == "4 broken"
        assert max(len(line) for line in lines if not line.startswith("broken:")) <= 80

    def test_many_broken_rules_are_not_all_told(
        self, clicks: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rules = [option for i in range(25) for option in ("--rule", f"examples < {i}")]
        assert command.main(["check", str(clicks), *rules]) == 1
        *_, more, counted = capsys.readouterr().out.splitlines()
        assert (more, counted) == ("and 5 more", "25 broken")

    def test_programs_get_the_verdicts_as_they_are(
        self, clicks: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = ["--rule", "calibration < 2", "--last", "48h", "--format", "json"]
        assert command.main(["check", str(clicks), *options]) == 1
        (row,) = json.loads(capsys.readouterr().out)
        expected = insight.check(insight.open_run(clicks), "calibration < 2", last="48h")
        assert row == expected.row(0, named=True)
        assert row["examples"] == 2_880

    def test_a_gate(self, clicks: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pair = ["compare", str(clicks), str(clicks), "--rule"]
        assert command.main([*pair, "calibration_diff <= 0.001"]) == 0
        assert command.main([*pair, "calibration_a <= 2", "--target", "ctr"]) == 1
        assert command.main([*pair, "2.9 < calibration_b < 3.1"]) == 3
        assert "1 undecided" in capsys.readouterr().out
        for option in (["--window", "1h"], ["--measure", "auc"], ["--interval", "0.9"]):
            assert command.main([*pair, "auc_diff > 0", *option]) == 2
            assert "--rule cannot be used with" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (["{run}"], "`rules` must be at least one rule"),
            (["{run}", "--rule", "auc"], "A rule must be such as"),
            (["{run}", "--rule", "auc > 0", "--target", "cvr"], "`targets` must be among"),
            (["nowhere", "--rule", "auc > 0"], "`path` must be the folder"),
        ],
    )
    def test_what_cannot_be_checked(
        self, clicks: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
    ) -> None:
        given = [argument.format(run=clicks) for argument in arguments]
        assert command.main(["check", *given]) == 2
        output = capsys.readouterr()
        assert re.match(f"deep-insight check: {error}", output.err)
        assert output.out == ""

    def test_a_run_without_records(
        self, clicks: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        frame = pl.read_parquet(clicks / "worker-00000.parquet").clear()
        frame.write_parquet(empty / "worker-00000.parquet")
        assert command.main(["check", str(empty), "--rule", "auc > 0"]) == 2
        assert capsys.readouterr().err == "deep-insight check: There are no records to check\n"


def test_slices(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "300")
    number = 2000
    pl.DataFrame(
        {
            "uid": range(number),
            "req_time": [1_700_000_000 + row for row in range(number)],
            "label": [{"ctr": float(row % 2), "cvr": 1.0} for row in range(number)],
            "predict": [{"ctr": 0.8 if row % 4 < 2 else 0.5, "cvr": 1.0} for row in range(number)],
            "extra_str": [{"site": "a" if row % 4 < 2 else "b"} for row in range(number)],
        }
    ).write_parquet(tmp_path / "worker-00000.parquet")
    head, row = printed(capsys, "slices", tmp_path).splitlines()
    assert head.split()[:4] == ["target", "slice", "examples", "users"]
    assert "where" not in head
    assert row.split()[:4] == ["ctr", "site=a", "1,000", "1,000"]
    output = printed(capsys, "slices", tmp_path, "--field", "site", "--last", "20m",
                     "--depth", 1, "--minimum-examples", 100, "--format", "json")  # fmt: skip
    (found,) = json.loads(output)
    assert (found["examples"], found["where"]) == (600, "\"site\" = 'a'")
    nothing = printed(capsys, "slices", tmp_path, "--target", "cvr")
    assert nothing == "No slice is wrong by more than chance.\n"
    assert command.main(["slices", str(tmp_path), "--target", "stay"]) == 2
    assert "--target must be among ['ctr', 'cvr']" in capsys.readouterr().err
    assert command.main(["slices", str(tmp_path), "--depth", "3"]) == 2
    assert "`depth` must be 1" in capsys.readouterr().err


class Seen(steps.Watch):
    """A watch that remembers all steps, each with the part it belongs to."""

    def __init__(self) -> None:
        self.all: list[tuple[str, steps.Step]] = []
        super().__init__()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, steps.Step):
            self.all.append((self.part, value))


READING = ("reading", 200, 200, "records")
MEASURING = ("measuring", 4, 4, "groups")


class TestProgress:
    def test_a_terminal_shows_how_far_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(progress, "SECONDS", 0.0)
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        seen = b""
        with open(slave, "w", encoding="utf-8") as terminal:
            monkeypatch.setattr(sys, "stderr", terminal)
            with progress.shown("summary"):
                watch = steps.WATCHED.get()
                assert watch is not None
                while not re.search(rb"summary: starting, \d+ s", seen):
                    seen += os.read(master, 1000)
                watch.step = steps.Step("reading", 1_000, "records", 500)
                while b"500 of 1,000 records, " not in seen:
                    seen += os.read(master, 1000)
            assert f"reading |{'█' * 15}{' ' * 15}|".encode() in seen
            while not seen.endswith(b"s\r\x1b[K"):  # the line is removed
                seen += os.read(master, 1000)
        os.close(master)
        assert steps.WATCHED.get() is None

    def test_nothing_is_shown_elsewhere(self, capsys: pytest.CaptureFixture[str]) -> None:
        with progress.shown("summary"):
            assert steps.WATCHED.get() is None
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(
        ("part", "step", "width", "line"),
        [
            ("", steps.Step("reading", 8, "records", 2), 50,
             "slices: reading |███         | 2 of 8 records, 3 s"),
            ("run 1 of 2", steps.Step("reading", 8, "records", 2), 45,
             "slices: run 1 of 2: reading, 2 of 8 records, 3 s"[8:]),
            ("run 1 of 2", steps.Step("reading", 8, "records", 2), 20, "reading, 25%, 3 s"),
            ("", steps.Step("reading", 8, "records", 2), 9, "reading, "),
            ("target 1 of 2", steps.Step("pairing"), 40, "slices: target 1 of 2: pairing, 3 s"),
            ("target 1 of 2", steps.Step("pairing"), 20, "pairing, 3 s"),
            ("", None, 40, "slices: starting, 3 s"),
        ],
    )  # fmt: skip
    def test_a_line_fits(self, part: str, step: steps.Step | None, width: int, line: str) -> None:
        """One that is longer than the terminal is wide could not be removed."""
        found = progress.line_of("slices", steps.Watch(part, step), 3, width)
        assert found == line
        assert len(found) <= width

    @pytest.mark.skipif(not hasattr(pl.LazyFrame, "collect_batches"), reason="an older Polars")
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["summary", "{run}"], {("", READING), ("", MEASURING)}),
            (["reliability", "{run}"], {("", READING), ("", MEASURING)}),
            (["check", "{run}", "--rule", "auc > 0"], {("", READING), ("", MEASURING)}),
            (
                ["compare", "{run}", "{run}"],
                {
                    ("run 1 of 2", READING),
                    ("run 2 of 2", READING),
                    ("", ("pairing 400 and 400 examples", 0, 0, "")),
                    ("", ("adding up", 2, 2, "trainings")),
                    ("", MEASURING),
                },
            ),
            (["explain", "{run}", "{run}"], {("run 1 of 2", READING), ("run 2 of 2", READING)}),
            (
                ["slices", "{run}", "--field", "country", "--field", "uid"],
                {
                    ("", READING),
                    ("target 1 of 2", ("trying slices", 4, 4, "combinations of fields")),
                    ("target 2 of 2", ("trying slices", 4, 4, "combinations of fields")),
                    ("target 2 of 2", ("choosing slices", 20, 0, "at most")),
                },
            ),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else "",
    )
    def test_what_each_subcommand_is_doing(
        self,
        arguments: list[str],
        expected: set[Any],
        run: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        watch = Seen()
        token = steps.WATCHED.set(watch)
        by = [] if arguments[0] == "slices" else ["--by", "country"]
        command.main([word.format(run=run) for word in [*arguments, *by]])
        steps.WATCHED.reset(token)
        assert capsys.readouterr().err == ""
        found = {(part, (one.doing, one.total, one.done, one.unit)) for part, one in watch.all}
        assert expected <= found
        assert ("", ("opening", 1, 1, "files")) in found
