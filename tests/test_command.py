"""The subcommands that measure: what they print is what `insight` computes."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_keras_metrics import command, insight
from monolith_keras_metrics.command.tables import render


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
    value, low, high = (expected[f"calibration{end}"] for end in ("", "_low", "_high"))
    assert f"{value:.4g} [{low:.4g}, {high:.4g}]" in rows[0]
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
        assert pl.read_csv(io.StringIO(output))["auc"].equals(expected["auc"])
    else:
        assert [row["log_loss"] for row in json.loads(output)] == expected["log_loss"].to_list()


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
    ],
)
def test_what_cannot_be_measured(
    arguments: list[str], error: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([word.format(run=run) for word in arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""

    assert re.search(error, output.err)


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
