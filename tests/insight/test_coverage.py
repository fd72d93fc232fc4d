"""How old and how complete a run is: what `coverage` reads, also of runs that it cannot trust."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_files import ORIGIN, SINKS, every_format, records

from monolith_keras_metrics.insight import coverage
from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.coverage import COUNTS, Coverage, decode, encode

STEM = run_folder.stem_of(ORIGIN.worker, ORIGIN.attempt)
COUNTED = Coverage("run", 20, 5, 10, 2, 1, 2, 1_790_000_000.25, False)
MOMENT = datetime.datetime(2026, 9, 21, 14, 13, 20, 250_000, datetime.timezone.utc)


def keep(folder: Path, contents: bytes = encode(COUNTED), stem: str = STEM) -> Path:
    path = run_folder.ledger_path(folder, stem)
    path.write_bytes(contents)
    return path


def row_of(place: Any) -> dict[str, Any]:
    (row,) = coverage(place).rows(named=True)
    return row


@every_format
def test_counts_beside_records(scheme: str, tmp_path: Path) -> None:
    """Records are counted where that is cheap."""
    SINKS[scheme](tmp_path, ORIGIN).write(records(0, 7))
    SINKS[scheme](tmp_path, ORIGIN).write(records(7, 10))
    keep(tmp_path)
    expected = {
        "place": str(tmp_path),
        "run": "run",
        "worker": 3,
        "attempt": ORIGIN.attempt,
        "accepted": 20,
        "unsampled": 5,
        "written": 10,
        "dropped": 2,
        "failed": 1,
        "waiting": 2,
        "records": 10 if scheme == "parquet" else None,
        "as_of": MOMENT,
        "ended": False,
    }
    for place in (tmp_path, f"{scheme}:{tmp_path}", [tmp_path, str(tmp_path)]):
        assert row_of(place) == {**expected, "place": str(tmp_path)}


def test_a_run_of_an_earlier_version_has_no_zeros(
    tmp_path: Path, warnings_logged: list[str]
) -> None:
    SINKS["parquet"](tmp_path, ORIGIN).write(records(0, 7))
    row = row_of(tmp_path)
    assert (row["worker"], row["attempt"], row["records"]) == (3, ORIGIN.attempt, 7)
    unknown = ("run", *COUNTS, "as_of", "ended")
    assert [row[name] for name in unknown] == [None] * len(unknown)
    assert warnings_logged == []


def test_files_of_others(tmp_path: Path) -> None:
    """Their names do not say who wrote them, or hold numbers that no column holds."""
    for name in ("dump.parquet", "worker-9999999999999999999.attempt-1790000000000000.x.parquet"):
        records(0, 7).write_parquet(tmp_path / name)
    row = row_of(tmp_path)
    assert (row["worker"], row["attempt"], row["records"]) == (None, None, 14)


def test_one_file_has_the_counts_of_its_process(tmp_path: Path) -> None:
    for start in (0, 7):
        SINKS["parquet"](tmp_path, ORIGIN).write(records(start, start + 5))
    keep(tmp_path)
    keep(tmp_path, stem=run_folder.stem_of(4, ORIGIN.attempt))
    row = row_of(tmp_path / f"{STEM}.part-000000000007.parquet")
    assert (row["worker"], row["accepted"], row["records"]) == (3, 20, 5)


def test_several_places(tmp_path: Path) -> None:
    for number in (2, 1):
        (tmp_path / str(number)).mkdir()
        keep(tmp_path / str(number), stem=run_folder.stem_of(number, ORIGIN.attempt))
    found = coverage([tmp_path / "2", tmp_path / "1", tmp_path / "1" / ".." / "2"])
    assert found["place"].to_list() == [str(tmp_path / "1"), str(tmp_path / "2")]
    assert found["worker"].to_list() == [1, 2]
    assert found["records"].to_list() == [0, 0]


def test_a_topic_holds_no_counts(tmp_path: Path) -> None:
    keep(tmp_path)
    with pytest.raises(ValueError, match=r"`place` must be a folder or a file.*stats\(\)") as told:
        coverage([tmp_path, "kafka://user:secret@broker:9092/topic?sasl.password=secret"])
    assert "secret" not in str(told.value)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither records nor counts yet"):
        coverage(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        coverage(tmp_path / "none")


HOSTILE = {
    "empty": b"",
    "torn": encode(COUNTED)[:-20],
    "binary": b"\xff\xfe\x00",
    "a list": b"[1, 2]",
    "deep": b"[" * 60_000,
    "a large number": b"9" * 60_000,
    "too large": encode(COUNTED) + b" " * 70_000,
    "without a name": json.dumps({"run": "r", "accepted": 1}).encode(),
    **{
        f"{name}={value!r}": json.dumps({**COUNTED._asdict(), name: value}).encode()
        for name, value in [
            ("accepted", 21),
            ("accepted", -20),
            ("written", True),
            ("written", 10.0),
            ("written", "10"),
            ("run", None),
            ("run", "\ud800"),
            ("as_of", float("nan")),
            ("as_of", float("inf")),
            ("as_of", 10**400),
            ("as_of", 1e15),
            ("as_of", "2026"),
            ("ended", 1),
        ]
    },
    "more than a column holds": encode(COUNTED._replace(accepted=2**63, unsampled=2**63 - 15)),
}


@pytest.mark.parametrize("contents", HOSTILE.values(), ids=HOSTILE.keys())
def test_counts_that_cannot_be_trusted(
    contents: bytes, tmp_path: Path, warnings_logged: list[str]
) -> None:
    """They are named and skipped, and cost nobody else's."""
    keep(tmp_path, contents)
    keep(tmp_path, stem=run_folder.stem_of(4, ORIGIN.attempt))
    assert coverage(tmp_path)["accepted"].to_list() == [None, 20]
    (line,) = warnings_logged
    assert STEM in line
    assert len(line) < 1000


@pytest.mark.skipif(os.name != "posix", reason="makes what Windows does not have")
@pytest.mark.parametrize("kind", ["pipe", "link", "broken link", "folder"])
def test_counts_that_are_no_file(kind: str, tmp_path: Path, warnings_logged: list[str]) -> None:
    path = run_folder.ledger_path(tmp_path, STEM)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        target = tmp_path / "elsewhere"
        path.symlink_to(target)
        if kind == "link":
            target.write_bytes(encode(COUNTED))
    assert row_of(tmp_path)["accepted"] is None
    (line,) = warnings_logged
    assert "not a regular file" in line


def test_a_damaged_file_of_records_is_named(tmp_path: Path, warnings_logged: list[str]) -> None:
    SINKS["parquet"](tmp_path, ORIGIN).write(records(0, 7))
    (tmp_path / f"{STEM}.part-000000000007.parquet").write_bytes(b"PAR1")
    assert row_of(tmp_path)["records"] == 7
    assert any("part-000000000007" in line for line in warnings_logged)


NUMBERS = st.integers(0, 2**60)


@given(
    st.lists(NUMBERS, min_size=5, max_size=5),
    st.floats(0, 2e11),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_what_is_kept_is_read_back(parts: list[int], as_of: float, ended: bool, run: str) -> None:
    kept = Coverage(run, sum(parts), *parts, as_of, ended)
    assert decode(encode(kept)) == kept


def test_no_column_is_missing_of_any_run(tmp_path: Path) -> None:
    """A frame of runs with counts and one of runs without can be joined."""
    keep(tmp_path)
    with_counts = coverage(tmp_path)
    run_folder.ledger_path(tmp_path, STEM).unlink()
    SINKS["jsonl"](tmp_path, ORIGIN).write(records(0, 7))
    without = coverage(tmp_path)
    assert with_counts.schema == without.schema
    assert pl.concat([with_counts, without]).height == 2
