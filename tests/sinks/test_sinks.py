"""Sinks: real folders, several processes, a full disk."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_files import ORIGIN, SINKS, STEM, every_format, names

from monolith_keras_metrics.records.batch import Batch, Layout
from monolith_keras_metrics.records.frame import json_messages, to_frame
from monolith_keras_metrics.sinks import Sink, parse, part_files
from monolith_keras_metrics.sinks.parquet import ParquetSink


def frame(*uids: int, start: int = 0, text: str = "é", number: float = 0.1) -> pl.DataFrame:
    """Records of these users from a position on; `text` and `number` are in each."""
    rows = len(uids)
    column, numbers = np.full(rows, text.encode(), object), np.full(rows, number, np.float32)
    of = Layout("m", ("ctr",), ("s",), 1.0)
    batch = Batch(of, rows, np.array(uids), np.zeros(rows, int), 0, *[[numbers]] * 3, [column])
    return to_frame([batch], ORIGIN, positions=[start])


def messages(path: pathlib.Path) -> list[str]:
    """What a file of any format holds."""
    if path.suffix == ".parquet":
        return json_messages(pl.read_parquet(path)).to_list()
    if path.suffix == ".jsonl":
        return path.read_bytes().decode().split("\n")[:-1]
    import tensorflow as tf

    return [m.decode() for m in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]


def uids(folder: pathlib.Path) -> list[int]:
    """Of all files in a folder, hidden ones not, in the order of their names."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return [json.loads(message)["uid"] for path in files for message in messages(path)]


@every_format
def test_a_uri_names_format_and_folder(
    scheme: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is made, its parents too; `~` is the home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for uri in (f"{scheme}:{tmp_path}/a b/run", f"{scheme}:~/a b/run"):
        sink = parse(uri).open(ORIGIN)
        assert type(sink) is SINKS[scheme]
        assert names(tmp_path / "a b" / "run") == []
        assert repr(sink) == f"{type(sink).__name__}({str(tmp_path / 'a b' / 'run')!r})"
        assert parse(uri).run_name == "run"


def test_a_path_is_a_folder_of_parquet(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a colon in it too: a drive's letter, a folder's time, any `Path`."""
    monkeypatch.chdir(tmp_path)
    places = ["run", pathlib.Path("jsonl:run"), tmp_path / "s3:" / "run", "a/12:30", "C:run"]
    for place in places:
        assert type(parse(place).open(ORIGIN)) is ParquetSink
    made = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert made == ["C:run", "a", "a/12:30", "jsonl:run", "run", "s3:", "s3:/run"]
    assert [parse(place).run_name for place in places] == [
        "run",
        "jsonl:run",
        "run",
        "12:30",
        "C:run",
    ]
    assert parse(tmp_path / "run" / "..").run_name == tmp_path.name


def test_an_object_with_the_methods_is_a_sink() -> None:
    class Nothing:
        def write(self, frame: pl.DataFrame) -> None: ...
        def flush(self) -> None: ...
        def close(self) -> None: ...

    sink = Nothing()
    assert isinstance(sink, Sink)
    assert parse(sink).open(ORIGIN) is sink
    assert parse(sink).run_name is None


@pytest.mark.parametrize("uri", ["", "  ", "parquet:", "jsonl: ", "tfrecord:a\0b", "a\0b"])
def test_a_uri_without_a_folder(uri: str) -> None:
    with pytest.raises(ValueError, match=r"`sink` must name a folder\. Received: sink="):
        parse(uri).open(ORIGIN)


@pytest.mark.parametrize("uri", ["s3://bucket/run", "parquett:run", "jsonl://h/run", "PARQUET:run"])
def test_a_uri_of_no_known_scheme(uri: str) -> None:
    """The error lists what there is, and nothing is made."""
    with pytest.raises(ValueError, match=r"'parquet:PATH', 'jsonl:PATH', 'tfr.*Received: .*" + uri):
        parse(uri)


@pytest.mark.parametrize("sink", [3, None, b"run", object(), {"write": 1}])
def test_what_is_no_sink(sink: Any) -> None:
    with pytest.raises(TypeError, match=r"`sink` must be a folder, .*Received: .* of type "):
        parse(sink).open(ORIGIN)


@pytest.mark.parametrize(
    "uri",
    [
        "redis://me:hunter2@host/x",
        "redis://hunter2@host/x?a=b",
        "redis://host/x?password=hunter2",
        "s3://KEY:hun/ter/hunter2@bucket/run",
        "redis://me:p@hunter2@host/x",
        "kafka:me:hunter2@host:9092/topic",
    ],
)
def test_a_secret_in_an_unknown_uri_is_not_repeated(uri: str) -> None:
    with pytest.raises(ValueError, match="`sink` must be") as error:
        parse(uri)
    assert "hunter2" not in str(error.value)
    assert uri.split(":", maxsplit=1)[0] in str(error.value)


@every_format
def test_files_are_whole_and_carry_worker_attempt_and_number(
    scheme: str, tmp_path: pathlib.Path
) -> None:
    sink = parse(f"{scheme}:{tmp_path}").open(ORIGIN)
    for number in range(3):
        sink.write(frame(number, number + 10, start=2 * number))
        assert names(tmp_path) == [f"{STEM}{2 * n:012d}.{scheme}" for n in range(number + 1)]
    sink.flush()
    sink.close()
    sink.close()
    assert uids(tmp_path) == [0, 10, 1, 11, 2, 12]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(width=32))
def test_records_are_the_same_in_every_format(text: str, number: float) -> None:
    """Quotes, line breaks of all kinds, NUL; NaN and ±inf."""
    import tempfile

    records = frame(1, -2, text=text, number=number)
    with tempfile.TemporaryDirectory() as folder:
        for scheme in SINKS:
            parse(f"{scheme}:{folder}/{scheme}").open(ORIGIN).write(records)
            (path,) = pathlib.Path(folder, scheme).iterdir()
            assert messages(path) == json_messages(records).to_list()


@pytest.mark.slow
@every_format
def test_two_sinks_of_one_origin_overwrite_nothing(scheme: str, tmp_path: pathlib.Path) -> None:
    """Nor what others put there: a file of the next name, what a killed process left aside."""
    (tmp_path / f"{STEM}000000000001.{scheme}").write_bytes(b"someone's")
    (tmp_path / f".{STEM}000000000003.{scheme}.inprogress").write_bytes(b"half")
    sinks = [parse(f"{scheme}:{tmp_path}").open(ORIGIN) for _ in range(2)]
    for number in range(6):
        sinks[number % 2].write(frame(number, start=number))
    assert (tmp_path / f"{STEM}000000000001.{scheme}").read_bytes() == b"someone's"
    assert (tmp_path / f".{STEM}000000000003.{scheme}.inprogress").read_bytes() == b"half"
    (tmp_path / f"{STEM}000000000001.{scheme}").unlink()
    (tmp_path / f".{STEM}000000000003.{scheme}.inprogress").unlink()
    assert sorted(uids(tmp_path)) == list(range(6))


@pytest.mark.parametrize("step", ["naming", "fsync of the folder"])
def test_a_write_that_failed_late_goes_on_with_its_file(
    step: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing can be removed then: another name would be another record after a kill."""

    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError("read-only")

    sink = ParquetSink(tmp_path, ORIGIN)
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "unlink", fail)
        if step == "naming":
            patch.setattr(os, "link", fail)
        else:
            durable = part_files.make_durable
            patch.setattr(
                part_files, "make_durable", lambda p: fail() if p.is_dir() else durable(p)
            )
        for _ in range(2):
            with pytest.raises(PermissionError, match="read-only"):
                sink.write(frame(0, 1))
    sink.write(frame(0, 1))
    sink.write(frame(2, 3, start=2))
    assert names(tmp_path) == [f"{STEM}000000000000.parquet", f"{STEM}000000000002.parquet"]
    assert uids(tmp_path) == [0, 1, 2, 3]


def test_what_a_kill_left_aside_is_removed_after_a_day(tmp_path: pathlib.Path) -> None:
    old, new, other = (
        tmp_path / f".{STEM}000000000000.parquet.inprogress",
        tmp_path / f".{STEM}000000000001.jsonl.inprogress",
        tmp_path / ".notes.inprogress",
    )
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, times=(0, 0))
    ParquetSink(tmp_path, ORIGIN)
    assert names(tmp_path) == sorted([new.name, other.name])
