"""`report`: whatever a run holds, there is one, and `open_report` gives the tables of `summary`."""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from run_files import names
from small_runs import write

from monolith_keras_metrics import command, insight
from monolith_keras_metrics.insight.page import html
from monolith_keras_metrics.insight.page import report as module

ROWS = 200
RANDOM = np.random.default_rng(1)
COUNTRIES = ["DE", None] * (ROWS // 2)
P = RANDOM.uniform(0.05, 0.9, ROWS).astype(np.float32)


def ctr(values: Sequence[float | None]) -> pl.Series:
    return pl.DataFrame({"ctr": pl.Series(values, dtype=pl.Float32)}).to_struct()


def records(**changed: Any) -> pl.DataFrame:
    """Return records, 10 minutes apart, with other columns; a column that is None is left out."""
    at = np.arange(ROWS)
    columns = {
        "uid": at % 40,
        "req_time": 1_700_000_000 + 600 * at,
        "train_time": 1_700_000_030 + 600 * at,
        "label": ctr((RANDOM.random(ROWS) < P).astype(np.float32)),
        "predict": ctr(P),
        "extra_str": pl.DataFrame(
            {"country": ["DE" if one % 2 else None for one in at]}
        ).to_struct(),
        **changed,
    }
    return pl.DataFrame({name: column for name, column in columns.items() if column is not None})


NONE = [None] * ROWS
HOSTILE = "</script><b>&\"'"
ODD = {
    "no extra field": records(extra_str=None),
    "no time of training": records(train_time=None),
    "one record": records().head(1),
    "no record": records().head(0),
    "one user": records(uid=[7] * ROWS),
    "no user": records(uid=pl.Series(NONE, dtype=pl.Int64)),
    "no label": records(label=ctr(NONE)),
    "logits": records(predict=ctr(RANDOM.normal(0, 3, ROWS))),
    "one class": records(label=ctr([0.0] * ROWS)),
    "unlabelled and invalid": records(
        label=ctr([None if at % 4 == 0 else at % 2 for at in range(ROWS)]),
        predict=ctr([(0.5, np.nan, np.inf)[at % 3] for at in range(ROWS)]),
    ),
    "replays": pl.concat([records(epoch=[epoch] * ROWS) for epoch in (0, 1)]),
    "no time": records(req_time=pl.Series(NONE, dtype=pl.Int64)),
    "times in milliseconds": records(req_time=1_700_000_000_000 + 600_000 * np.arange(ROWS)),
    "times without a date": records(req_time=[10**15 * (at % 3 - 1) for at in range(ROWS)]),
    "names that are markup": records(
        label=pl.DataFrame({HOSTILE: [1.0, 0.0] * (ROWS // 2)}).to_struct(),
        predict=pl.DataFrame({HOSTILE: P}).to_struct(),
    ),
    "fields that are called as columns": records(
        extra_str=pl.DataFrame(dict.fromkeys(("window", "auc", "value"), COUNTRIES)).to_struct()
    ),
}


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "report.html"


def same(tables: dict[str, pl.DataFrame], name: str, expected: pl.DataFrame) -> None:
    assert_frame_equal(tables[name].select(expected.columns), expected, check_row_order=False)


@pytest.mark.slow
@pytest.mark.parametrize("case", list(ODD))
@pytest.mark.filterwarnings("error")
def test_a_report_of_odd_records(case: str, path: pathlib.Path) -> None:
    frame = ODD[case]
    tables = insight.open_report(insight.report(frame, path))
    same(tables, "summary", insight.summary(frame, interval=0.95))
    same(tables, "reliability", insight.reliability(frame, interval=0.95))
    same(tables, "distribution", insight.distribution(frame))
    text = path.read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert not re.search(r">(nan|inf|None)\b", text)
    first = text.partition("</section>")[0]
    sentences = {
        "no record": "There is no record yet.",
        "no label": "No example has a label",
        "unlabelled and invalid": "without a label",
        "replays": "200 seen before",
    }
    assert sentences.get(case, "") in first
    assert ("There is no record yet." in first) is (case == "no record")


def test_the_tables_of_a_run(tmp_path: pathlib.Path, path: pathlib.Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for number in range(4):
        write(run, number)
    tables = insight.open_report(insight.report(run, path))
    frame = insight.open_run(run)
    same(tables, "summary", insight.summary(run, interval=0.95))
    same(tables, "reliability", insight.reliability(run, interval=0.95))
    same(tables, "slices", insight.slices(frame, most=8))
    same(tables, "coverage", insight.coverage(run))
    same(tables, "verdicts", insight.check(frame, insight.RULES))
    by = insight.summary(run, "country", interval=0.95).rename({"country": "value"})
    both = [name for name in by.columns if name in tables["by_value"].columns]
    assert {"calibration", "calibration_low", "auc", "examples"} <= {*both}
    same(tables, "by_value", by.select(both))
    by_time = insight.summary(run, window="1m", interval=0.95)
    both = [name for name in by_time.columns if name in tables["by_time"].columns]
    same(tables, "by_time", by_time.select(both))


def test_a_comparison(path: pathlib.Path) -> None:
    one = records()
    other = one.with_columns(predict=ctr(np.sqrt(P)))
    tables = insight.open_report(insight.report(one, path, against=other))
    same(tables, "comparison", insight.compare(other, one))
    diff = tables["comparison"]["calibration_diff"].item()
    expected = insight.summary(one)["calibration"] - insight.summary(other)["calibration"]
    assert diff == pytest.approx(expected.item())
    by = insight.compare(other, one, by="country").rename({"country": "value"})
    same(tables, "comparison_by_value", by.select("target", "value", "examples", "auc_diff"))


@pytest.mark.parametrize("contents", ["", "<html></html>", "<code>deep-insight</code>"])
def test_another_file_is_no_report(contents: str, path: pathlib.Path) -> None:
    path.write_text(contents, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"Received: {str(path)!r}")):
        insight.open_report(path)


def test_a_part_of_a_report_is_an_error(path: pathlib.Path) -> None:
    data = insight.report(records(), path).read_bytes()
    tables = [found.start() for found in re.finditer(rb"data-table=", data)]
    ends = [len(data) // 4, tables[0] + 300, tables[1], tables[-1] + 300, len(data) - 9]
    for end in ends:
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match="report"):
            insight.open_report(path)
    path.write_bytes(data.replace(data[tables[1] + 200 : tables[1] + 400], b"A" * 200))
    with pytest.raises(ValueError, match="cannot be read"):
        insight.open_report(path)
    with pytest.raises(FileNotFoundError):
        insight.open_report(path.with_name("missing"))


def test_an_old_report_stays_until_the_new_one_is_complete(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text("old", encoding="utf-8")
    insight.report(records(), path)
    new = path.read_bytes()
    assert new != b"old"

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        insight.report(records(), path)
    assert path.read_bytes() == new
    assert names(path.parent) == [path.name]


def test_a_full_disk(small_disk: pathlib.Path) -> None:
    path = small_disk / "report.html"
    path.write_text("old", encoding="utf-8")
    (small_disk / "other").write_bytes(bytes(2_800_000))
    with pytest.raises(OSError, match="No space left"):
        insight.report(records(), path)
    assert path.read_text(encoding="utf-8") == "old"
    assert names(small_disk) == ["other", "report.html"]


def test_what_is_wrong_is_told_before_anything_is_computed(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "contents_of", None)
    for wrong in (path.parent, path.parent / "missing" / "report.html"):
        with pytest.raises(OSError, match=re.escape(f"existing folder. Received: {str(wrong)!r}")):
            insight.report(records(), wrong)


def test_jinja2_is_missing(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "contents_of", None)
    html._environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("monolith-keras-metrics[page]")):
        insight.report(records(), path)
    assert not path.exists()


WRONG = {
    "no such run": ["report", "{run}/missing"],
    "no file yet": ["report", "{run}/empty"],
    "no folder for the report": ["report", "{run}", "-o", "{run}/missing/report.html"],
    "a folder as the report": ["report", "{run}", "-o", "{run}/empty"],
    "no such field": ["report", "{run}", "--field", "none", "-o", "{run}/x"],
    "no such rule": ["report", "{run}", "--rule", "none > 1", "-o", "{run}/x"],
    "no other run": ["report", "{run}", "--against", "{run}/missing", "-o", "{run}/x"],
    "no such run to serve": ["serve", "{run}/missing"],
    "a file to serve": ["serve", "{file}"],
    "no such address": ["serve", "{run}", "--host", "203.0.113.1"],
    "no such port": ["serve", "{run}", "--port", "70000"],
}


@pytest.mark.parametrize("case", list(WRONG))
def test_errors_of_the_command(
    case: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    file = write(tmp_path, 0)
    before = names(tmp_path)
    arguments = [one.format(run=tmp_path, file=file) for one in WRONG[case]]
    assert command.main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"deep-insight {arguments[0]}: ")
    assert "Traceback" not in output.err
    assert [name for name in names(tmp_path) if name != ".insight"] == before


def test_the_command_says_where_the_report_is(
    tmp_path: pathlib.Path, path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 0)
    title = "A <b>title</b>"
    assert command.main(["report", str(tmp_path), "-o", str(path), "--title", title]) == 0
    assert capsys.readouterr().out.startswith(f"{path} (")
    assert "A &lt;b&gt;title" in path.read_text(encoding="utf-8")
