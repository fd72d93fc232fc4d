"""States that are kept beside a run's files: a second look costs only new files."""

from __future__ import annotations

import errno
import os
import pathlib
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from same_frames import assert_same
from small_runs import entries, write

from monolith_keras_metrics.insight import kept, open_run, state_of, stored, summary

ASKED: list[dict[str, Any]] = [
    {},
    {"by": "country", "window": "1h", "interval": 0.9},
    {"by": ["country"], "exact": True, "measures": ["auc", "gauc"]},
    {"visits": "all", "weighted": False, "time": "train_time", "window": "1d"},
]


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    for number in range(3):
        write(tmp_path, number)
    return tmp_path


def make_unreadable(path: pathlib.Path) -> None:
    """Overwrite a file, with its size and time as they were: it can only be known, not read."""
    stat = path.stat()
    path.write_bytes(b"\0" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("asked", ASKED)
def test_a_second_look_reads_only_new_files(run: pathlib.Path, asked: dict[str, Any]) -> None:
    expected = summary(open_run(run), **asked)
    assert not (run / ".insight").exists()
    assert_same(summary(run, **asked), expected)
    old = [*run.glob("*.parquet")]
    write(run, 3)
    expected = summary(open_run(run), **asked)
    for path in old:
        make_unreadable(path)
    for _ in range(3):
        assert_same(summary(str(run), **asked), expected)
    assert_same(summary(f"parquet:{run}", **asked), expected)
    assert len(entries(run)) == 2


def test_other_questions_have_states_of_their_own(run: pathlib.Path) -> None:
    for asked in ASKED * 2:
        assert_same(summary(run, **asked), summary(open_run(run), **asked))
    assert len(entries(run)) == len(ASKED)


def test_many_files_become_few_states(run: pathlib.Path) -> None:
    most = 0
    for number in range(3, 25):
        write(run, number)
        summary(run, measures="auc")
        most = max(most, len(entries(run)))
    assert most <= 9
    expected = summary(open_run(run), measures="auc")
    for path in run.glob("*.parquet"):
        make_unreadable(path)
    assert_same(summary(run, measures="auc"), expected)


def test_a_file_that_is_gone_or_new_under_its_name_counts_no_more(run: pathlib.Path) -> None:
    summary(run)
    path = write(run, 2, uid=pl.lit(77))
    assert_same(summary(run), summary(open_run(run)))
    path.unlink()
    assert_same(summary(run), summary(open_run(run)))
    assert summary(run)["examples"].item() == 100
    assert len(entries(run)) == 1


def test_a_target_and_a_field_that_came_later(run: pathlib.Path) -> None:
    summary(run, "country")
    value = pl.struct(cvr=pl.lit(0.5, pl.Float32), ctr=pl.lit(0.25, pl.Float32))
    write(run, 3, predict=value, label=value, extra_int=pl.struct(item=pl.lit(7)))
    assert_same(summary(run, "country"), summary(open_run(run), "country"))
    assert_same(summary(run, "country"), summary(open_run(run), "country"))
    assert summary(run, "item")["item"].to_list() == [7, None, 7]
    write(run, 4)
    assert_same(summary(run, "item"), summary(open_run(run), "item"))


@pytest.mark.parametrize(
    "again",
    [
        {"attempt": pl.lit(2), "position": pl.int_range(50) + 100},
        {"epoch": pl.lit(1), "example_id": pl.int_range(50)},
    ],
)
def test_records_that_depend_on_those_of_other_files(run: pathlib.Path, again: Any) -> None:
    """What was kept of each file is not the truth about both."""
    for number in range(3):
        write(run, number, example_id=pl.int_range(50) + number * 50)
    assert summary(run)["revisits"].item() == 0
    repeated = write(run, 2, example_id=pl.int_range(50))
    repeated.rename(run / repeated.name.replace("part-000000000100", "part-000000000900"))
    write(run, 2, **{"example_id": pl.int_range(50), **again})
    for _ in range(2):
        found = summary(run)
        assert_same(found, summary(open_run(run)))
    assert found["revisits"].item() > 0
    assert not entries(run)
    assert_same(summary(run, visits="all"), summary(open_run(run), visits="all"))


def contents(write: Callable[[pathlib.Path], None]) -> bytes:
    """What a function writes to a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "file")
        write(path)
        return path.read_bytes()


def test_a_damaged_state_is_told_and_made_again(
    run: pathlib.Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = summary(run)
    (entry,) = entries(run)
    whole = entry.read_bytes()
    tables, notes = stored.read(entry)
    damages = {
        "damage: parquet: ": [b"", b"no Parquet", whole[:-99]],
        "no state": [contents(pl.DataFrame({"x": [1]}).write_parquet)],
        "KeyError('files')": [contents(lambda path: stored.write(tables, path, {}))],
        "TypeError": [
            contents(lambda path, changed=changed: stored.write(tables, path, notes | changed))
            for changed in ({"files": [1]}, {"attempts": 7})
        ],
    }
    with monkeypatch.context() as patch:
        patch.setattr(stored, "VERSION", 99)
        newer = contents(lambda path: stored.write(tables, path, notes))
    damages["a state of version 99"] = [newer]
    for told, several in damages.items():
        for damage in several:
            (entry,) = entries(run)
            entry.write_bytes(damage)
            caplog.clear()
            assert_same(summary(run), expected)
            (message,) = [one.getMessage() for one in caplog.records]
            assert f"{entry} cannot be used: {told}" in message
            caplog.clear()
            assert_same(summary(run), expected)
            assert not caplog.records


@pytest.mark.parametrize(
    ("number", "level"), [(errno.ENOSPC, "WARNING"), (errno.EROFS, None), (errno.EACCES, None)]
)
def test_what_cannot_be_kept(
    number: int,
    level: str | None,
    run: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a full disk, that is told; of a folder of others, which is read often, it is not."""

    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pathlib.Path, "write_bytes", fail)
    caplog.set_level("WARNING")
    assert_same(summary(run), summary(open_run(run)))
    assert [one.levelname for one in caplog.records] == ([level] if level else [])
    assert (os.strerror(number) in caplog.text) == bool(level)
    assert not [*(run / ".insight").iterdir()]


def test_of_a_folder_that_cannot_be_written_to_all_is_read(run: pathlib.Path) -> None:
    (run / ".insight").write_text("in the way")
    for _ in range(2):
        assert_same(summary(run), summary(open_run(run)))
    assert (run / ".insight").read_text() == "in the way"


def test_a_damaged_file_is_told_each_time_and_the_others_are_kept(
    run: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = write(run, 3)
    bad.write_bytes(bad.read_bytes()[:-99])
    expected = summary(open_run(run))
    for _ in range(2):
        caplog.clear()
        assert_same(summary(run), expected)
        assert "part-000000000150" in caplog.text
    for path in run.glob("*.parquet"):
        make_unreadable(path)
    assert_same(summary(run), expected)


def test_a_torn_file_counts_with_what_it_has(tmp_path: pathlib.Path) -> None:
    line = '{{"uid":{},"req_time":60,"label":{{"ctr":1.0}},"predict":{{"ctr":0.75}}}}\n'
    (tmp_path / "worker-00000.jsonl").write_text(line.format(1) + line.format(2))
    (tmp_path / "worker-00001.jsonl").write_text(line.format(3) + line.format(4)[:-9])
    for _ in range(2):
        assert summary(tmp_path, measures="auc")["users"].item() == 3


def test_several_readers_at_once(run: pathlib.Path) -> None:
    expected = summary(open_run(run), "country")
    found: list[pl.DataFrame] = []
    threads = [
        threading.Thread(target=lambda: found.append(summary(run, "country"))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    for one in [*found, summary(run, "country"), summary(run, "country")]:
        assert_same(one, expected)
    assert len(entries(run)) == 1


def test_the_states_have_bounds(run: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary(run, "country")
    (old,) = entries(run)
    os.utime(old, (0, 0))
    left = run / ".insight" / ".half.inprogress"
    left.write_text("")
    os.utime(left, (0, 0))
    monkeypatch.setattr(kept, "_BYTES", old.stat().st_size + 1)
    summary(run)
    assert old not in entries(run)
    assert len(entries(run)) == 1
    assert not left.exists()


def test_training_and_reading_do_not_see_them(run: pathlib.Path) -> None:
    rows = open_run(run).collect().height
    summary(run)
    assert entries(run)
    assert open_run(run).collect().height == rows


def test_what_is_not_a_folder_or_has_expressions_is_not_kept(run: pathlib.Path) -> None:
    path = next(run.glob("*.parquet"))
    assert summary(path)["examples"].item() == 50
    late = (pl.col("req_time") > 1_700_001_000).alias("late")
    assert_same(summary(run, late), summary(open_run(run), late))
    assert not (run / ".insight").exists()
    with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
        state_of(run / "nothing")
