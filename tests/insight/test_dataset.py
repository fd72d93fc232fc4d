"""Reading runs: the three formats, parts that differ, files that are broken."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from monolith_keras_metrics.insight import long_form, open_run
from monolith_keras_metrics.records.batch import Batch, Layout, Origin
from monolith_keras_metrics.records.frame import to_frame
from monolith_keras_metrics.sinks import parse

Messages = list[dict[str, Any]]

FORMATS = ("parquet", "jsonl", "tfrecord")
LEAVES: dict[str, Any] = {
    **dict.fromkeys(("model_name", "mode", "run", "extra_str"), pl.String),
    **dict.fromkeys(("label", "predict", "sample_rate", "extra_float"), pl.Float32),
    "sample_ratio": pl.Float64,
}
MESSAGE = r"""{"model_name": "ctr", "uid": 0, "req_time": 1331481600, "train_time": 1331481700,
    "sample_ratio": 0.01, "label": {"ctr": 0.0, "cvr": 1.0}, "predict": {"ctr": 0.4, "cvr": 1e-7},
    "sample_rate": {"ctr": 0.7, "cvr": 1.0}, "extra_float": {"price": 0.333},
    "extra_int": {"hour": 7}, "extra_str": {"carrier": "\u00dc \"quoted\"\nline"}, "mode": "train",
    "run": "r", "attempt": 1790000000000000, "worker": 0, "position": 0}"""


def message(uid: int, **changes: Any) -> dict[str, Any]:
    """A record with every column; `changes` replace some, and None leaves one out."""
    whole = json.loads(MESSAGE) | {"uid": uid, "position": uid} | changes
    return {name: value for name, value in whole.items() if value is not None}


def of_target(target: str) -> dict[str, Any]:
    """What to change for a record of another target only."""
    return {name: {target: 0.5} for name in ("label", "predict", "sample_rate")}


def frame_of(messages: Messages, file_format: str = "parquet") -> pl.DataFrame:
    """The messages as a frame with the record's schema. JSON does not tell float32 from float64."""
    leaves = LEAVES if file_format == "parquet" else {**LEAVES, "extra_float": pl.Float64}
    schema = {
        name: pl.Struct(dict.fromkeys(value, leaves.get(name, pl.Int64)))
        if isinstance(value, dict)
        else leaves.get(name, pl.Int64)
        for name, value in messages[0].items()
    }
    return pl.DataFrame(messages, schema=schema)


def write(folder: Path, file_format: str, number: int, messages: Messages) -> Path:
    """Writes a part, named as sinks do; TFRecord with checksums that nobody looks at."""
    path = folder / f"worker-00000.attempt-1790000000000000.part-{number:06d}.{file_format}"
    texts = [json.dumps(m, ensure_ascii=False).encode() for m in messages]
    if file_format == "parquet":
        frame_of(messages).write_parquet(path)
    elif file_format == "jsonl":
        path.write_bytes(b"".join(text + b"\n" for text in texts))
    else:
        frames = (struct.pack("<QI", len(t), 1) + t + struct.pack("<I", 2) for t in texts)
        path.write_bytes(b"".join(frames))
    return path


def read(path: Path) -> pl.DataFrame:
    """What a run holds, by position."""
    return open_run(path).collect().sort("position")


def ids(path: Path | str, **options: Any) -> list[int]:
    """The uids of a run, sorted."""
    return sorted(open_run(path, **options).select("uid").collect()["uid"])


@pytest.mark.parametrize("file_format", FORMATS)
class TestEachFormat:
    def test_reads_every_value(self, tmp_path: Path, file_format: str) -> None:
        messages = [message(uid) for uid in range(5)]
        write(tmp_path, file_format, 0, messages[:3])
        write(tmp_path, file_format, 1, messages[3:])
        expected = frame_of(messages, file_format)
        assert_frame_equal(read(tmp_path), expected, check_exact=True)

    def test_reads_what_the_sinks_write(self, tmp_path: Path, file_format: str) -> None:
        if file_format == "tfrecord":
            pytest.importorskip("tensorflow")  # writes the checksums
        origin = Origin("r", 1_790_000_000_000_000, 3)
        batch = Batch(
            layout=Layout("m", ("ctr",), ("price", "id", "hour", "carrier"), 1.0, "test"),
            rows=2,
            uid=np.array([b"user-1234567", b""], object),
            req_time=np.array([1, 2]),
            train_time=3,
            labels=[np.array([0, 1])],
            predictions=[np.array([0.1, 0.2])],
            extras=[
                np.array([0.5, -2.25], np.float32),
                np.array([0.1, 2.0**53 - 1]),
                np.array([7, 8]),
                np.array([b"UA", b"\xff"]),
            ],
            epoch=3,
            example_id=np.array([5, -6]),
        )
        frame = to_frame([batch], origin)
        sink = parse(f"{file_format}:{tmp_path}").open(origin)
        sink.write(frame)
        sink.close()
        found = read(tmp_path)
        assert found.columns[-6:] == [
            "epoch", "example_id", "run", "attempt", "worker", "position"
        ]  # fmt: skip
        assert found.select("epoch", "example_id").rows() == [(3, 5), (3, -6)]
        assert found["uid"].to_list() == [-3126600472473850790, -1205034819632174695]
        assert found["extra_float"].to_list()[1] == {"price": -2.25, "id": 2.0**53 - 1}
        price = found["extra_float"].struct.field("price").dtype
        assert price == (pl.Float32 if file_format == "parquet" else pl.Float64)
        if file_format == "parquet":
            assert_frame_equal(found, frame, check_exact=True)

    def test_a_float64_in_one_part_makes_the_field_one(
        self, tmp_path: Path, file_format: str
    ) -> None:
        if file_format == "tfrecord":
            pytest.importorskip("tensorflow")  # writes the checksums
        for number, dtype in enumerate((np.float32, np.float64)):
            origin = Origin("r", 1_790_000_000_000_000, number)
            ones = [np.ones(1)]
            batch = Batch(
                Layout("m", ("ctr",), ("id",), 1.0), 1, np.arange(1), np.arange(1), 0,
                ones, ones, (), [np.array([2**24 + 1], dtype)],
            )  # fmt: skip
            sink = parse(f"{file_format}:{tmp_path}").open(origin)
            sink.write(to_frame([batch], origin))
            sink.close()
        frame = open_run(tmp_path).collect().sort("worker")
        assert frame["extra_float"].struct.field("id").to_list() == [2.0**24, 2.0**24 + 1]

    def test_parts_that_differ(self, tmp_path: Path, file_format: str) -> None:
        """What a part does not have is null; a type that JSON cannot tell is the record's."""
        other = {"extra_int": {"day": 2}, "extra_str": None, "mode": None, "sample_ratio": 1}
        write(tmp_path, file_format, 0, [message(0)])
        write(tmp_path, file_format, 1, [message(1, **of_target("buy"), **other)])
        write(tmp_path, file_format, 2, [message(2, label={"cvr": 0.25, "ctr": 0.75})])
        frame = read(tmp_path)
        assert frame["label"].to_list() == [
            {"ctr": 0.0, "cvr": 1.0, "buy": None},
            {"ctr": None, "cvr": None, "buy": 0.5},
            {"ctr": 0.75, "cvr": 0.25, "buy": None},
        ]
        assert frame["extra_int"].struct.field("day").to_list() == [None, 2, None]
        assert frame["extra_int"].struct.field("hour").to_list() == [7, None, 7]
        assert frame["extra_str"].struct.field("carrier").is_null().to_list() == [0, 1, 0]
        assert frame["mode"].to_list() == ["train", None, "train"]
        assert frame["sample_ratio"].to_list() == [0.01, 1.0, 0.01]
        assert frame.columns == list(message(0))

    def test_one_file(self, tmp_path: Path, file_format: str) -> None:
        path = write(tmp_path, file_format, 0, [message(0)])
        write(tmp_path, file_format, 1, [message(1)])
        assert ids(path) == ids(str(path)) == [0]

    @pytest.mark.parametrize("damage", ["cut", "garbage", "something else"])
    def test_a_corrupt_file_is_left_out_and_named(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, file_format: str, damage: str
    ) -> None:
        write(tmp_path, file_format, 0, [message(0)])
        broken = write(tmp_path, file_format, 1, [message(1)])
        write(tmp_path, file_format, 2, [message(2)])
        if damage == "something else":
            write(tmp_path, file_format, 1, [{"clicks": 1}])
        else:
            data = broken.read_bytes()
            broken.write_bytes(data[: len(data) // 2] if damage == "cut" else b"\7 junk\n" * 99)
        assert ids(tmp_path) == [0, 2]
        assert [entry.levelname for entry in caplog.records] == ["WARNING"]
        assert broken.name in caplog.text
        assert ("no records; its columns are ['clicks']" in caplog.text) == (" " in damage)
        with pytest.raises(ValueError, match=broken.name):
            open_run(tmp_path, on_corrupt="raise")
        with pytest.raises(ValueError, match=f"one readable file.*{broken.name}"):
            open_run(broken)


@pytest.mark.parametrize("file_format", ["jsonl", "tfrecord"])
class TestMessages:
    def test_numbers_have_the_records_types(self, tmp_path: Path, file_format: str) -> None:
        """NaN is null there, and others may write 1 for 1.0."""
        messages = [message(0, sample_ratio=1, predict={"ctr": None}, label={"ctr": 1})]
        write(tmp_path, file_format, 0, messages)
        assert_frame_equal(read(tmp_path), frame_of(messages, file_format))

    def test_a_target_late_in_a_file_is_not_lost(self, tmp_path: Path, file_format: str) -> None:
        late = message(5_000, **of_target("buy"))
        write(tmp_path, file_format, 0, [*map(message, range(5_000)), late])
        label = read(tmp_path)["label"].struct.unnest()
        assert label.null_count().row(0, named=True) == {"ctr": 1, "cvr": 1, "buy": 5_000}

    @pytest.mark.parametrize("lost", [1, 5, 100])
    def test_a_torn_end(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, file_format: str, lost: int
    ) -> None:
        path = write(tmp_path, file_format, 0, [message(0), message(1), message(2)])
        # The last byte of a JSON Lines file is a newline, which may be missing.
        path.write_bytes(path.read_bytes()[: -lost - (file_format == "jsonl")])
        assert ids(tmp_path) == [0, 1]
        assert path.name in caplog.text
        with pytest.raises(ValueError, match="its end is torn"):
            open_run(tmp_path, on_corrupt="raise")

    def test_an_empty_file_is_whole(self, tmp_path: Path, file_format: str) -> None:
        (tmp_path / f"empty.{file_format}").touch()
        with pytest.raises(FileNotFoundError, match="all of its 1 files are empty"):
            open_run(tmp_path)
        write(tmp_path, file_format, 0, [message(0)])
        assert ids(tmp_path, on_corrupt="raise") == [0]


def test_tfrecord_files_of_tensorflow(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    with tf.io.TFRecordWriter(str(tmp_path / "dump.tfrecord")) as writer:
        for uid in range(3):
            writer.write(json.dumps(message(uid)))
    expected = frame_of([message(uid) for uid in range(3)], "tfrecord")
    assert_frame_equal(read(tmp_path), expected)


def test_zeros_at_the_end_of_a_tfrecord_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a disk may leave after a power failure."""
    path = write(tmp_path, "tfrecord", 0, [message(0)])
    path.write_bytes(path.read_bytes() + bytes(4096))
    assert ids(tmp_path) == [0]
    assert "the last 4,096 bytes" in caplog.text


def test_a_last_line_may_lack_its_newline_and_a_broken_line_costs_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl", 0, [message(0), message(1)])
    path.write_bytes((text := path.read_bytes())[:-1])
    write(tmp_path, "jsonl", 1, [message(2)]).write_bytes(text + b"}{\n" + text)
    assert ids(tmp_path) == [0, 1]
    assert ids(path, on_corrupt="raise") == [0, 1]


def test_parquet_is_lazy_and_keeps_columns_that_we_do_not_know(tmp_path: Path) -> None:
    write(tmp_path, "parquet", 0, [message(0, note=7)])
    assert read(tmp_path)["note"].to_list() == [7]
    assert "2/17 COLUMNS" in open_run(tmp_path).select("uid", "label").explain()


class TestWhichFiles:
    def test_unfinished_and_hidden_files_are_ignored(self, tmp_path: Path) -> None:
        for name in (".a.parquet.inprogress", "a.parquet.inprogress", ".b.parquet", "notes.txt"):
            (tmp_path / name).write_bytes(b"half")
        (tmp_path / "deeper.parquet").mkdir()
        with pytest.raises(FileNotFoundError, match="no file is complete yet.*wait"):
            open_run(tmp_path)
        write(tmp_path, "parquet", 0, [message(0)])
        assert ids(tmp_path, on_corrupt="raise") == [0]

    def test_dumps_of_any_name(self, tmp_path: Path) -> None:
        path = write(tmp_path, "tfrecord", 0, [message(4)])
        assert ids(path.rename(tmp_path / "dump")) == [4]
        (tmp_path / "dump").rename(tmp_path / "dump.tfrecord.part-00001")
        assert ids(tmp_path) == [4]

    def test_formats_are_not_mixed(self, tmp_path: Path) -> None:
        """The same records may have gone to two sinks."""
        write(tmp_path, "parquet", 0, [message(0)])
        write(tmp_path, "jsonl", 0, [message(1)])
        with pytest.raises(ValueError, match=r"holds jsonl and parquet.*'jsonl:/"):
            open_run(tmp_path)
        assert ids(f"jsonl:{tmp_path}") == [1]
        assert ids(f"parquet:{tmp_path}") == [0]

    @pytest.mark.parametrize("name", ["run[1]", "day=2", "*", "a b"])
    def test_folders_of_odd_names(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        (tmp_path / name).mkdir()
        write(tmp_path / name, "parquet", 0, [message(0)])
        monkeypatch.setenv("HOME", str(tmp_path))
        assert read(Path("~", name)).columns == list(message(0))

    def test_bad_arguments(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no such file or folder.*Check the name"):
            open_run(tmp_path / "typo")
        with pytest.raises(ValueError, match="`on_corrupt` must be 'warn' or 'raise'"):
            open_run(tmp_path, on_corrupt="ignore")  # type: ignore[arg-type]


class TestLongForm:
    def test_by_hand(self) -> None:
        left_out = ("extra_str", "model_name", "train_time", "run", "attempt", "worker", "position")
        rows = long_form(frame_of([message(7)]).drop(left_out)).collect()
        names = "uid req_time sample_ratio mode price hour target label predict sample_rate"
        assert rows.columns == names.split()
        price, low, rate, tiny = np.array([0.333, 0.4, 0.7, 1e-7], np.float32).tolist()
        assert rows.rows() == [
            (7, 1_331_481_600, 0.01, "train", price, 7, "ctr", 0.0, low, rate),
            (7, 1_331_481_600, 0.01, "train", price, 7, "cvr", 1.0, tiny, 1.0),
        ]

        unrated = long_form(frame_of([message(7)]).drop("sample_rate"))
        assert unrated.collect()["sample_rate"].to_list() == [1.0, 1.0]

    def test_a_target_that_an_example_does_not_have(self, tmp_path: Path) -> None:
        """No row; but a null prediction alone, NaN in training, is one."""
        write(tmp_path, "parquet", 0, [message(0, predict={"ctr": None, "cvr": 0.5})])
        write(tmp_path, "parquet", 1, [message(1, **of_target("cvr"))])
        rows = long_form(open_run(tmp_path)).select("uid", "target", "predict").collect()
        assert sorted(rows.rows()) == [(0, "ctr", None), (0, "cvr", 0.5), (1, "cvr", 0.5)]

    def test_extra_fields_whose_names_are_taken(self) -> None:
        extras = {"extra_float": {"hour": 0.5}, "extra_str": {"uid": "x", "label": "y"}}
        row = long_form(frame_of([message(3, **extras)])).collect().to_dicts()[0]
        assert (row["uid"], row["extra_str.uid"]) == (3, "x")
        assert (row["label"], row["extra_str.label"]) == (0.0, "y")
        assert (row["hour"], row["extra_int.hour"]) == (0.5, 7)


class TestSeveralRuns:
    """Runs, files and formats that overlap."""

    def test_a_record_in_several_of_them_is_read_once(self, tmp_path: Path) -> None:
        """The first run is there as JSON Lines, too; one of its files is named once more."""
        folders = [tmp_path / name for name in ("a", "b", "c")]
        for folder in folders:
            folder.mkdir()
        part = write(folders[0], "parquet", 0, [message(0), message(1)])
        write(folders[1], "jsonl", 0, [message(0), message(1), message(2)])
        write(folders[2], "parquet", 0, [message(0, attempt=1790000000000001)])
        records = open_run([*folders, part]).sort("attempt", "position").collect()
        assert records["uid"].to_list() == [0, 1, 2, 0]
        assert records["predict"].struct.field("ctr").to_list() == [pytest.approx(0.4)] * 4
        assert records["attempt"].n_unique() == 2

    def test_records_without_a_position_are_all_read(self, tmp_path: Path) -> None:
        """Nothing shows that two of them are the same."""
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            unplaced = message(0, run=None, attempt=None, worker=None, position=None)
            write(tmp_path / name, "jsonl", 0, [unplaced])
        write(tmp_path / "b", "jsonl", 1, [message(0)])
        runs = [tmp_path / "a", f"jsonl:{tmp_path / 'b'}"]
        assert open_run(runs).collect().height == 3
        assert open_run(runs[:1]).collect().height == 1

    def test_a_run_that_is_missing_or_none(self, tmp_path: Path) -> None:
        write(tmp_path, "jsonl", 0, [message(0)])
        with pytest.raises(FileNotFoundError, match="nowhere"):
            open_run([tmp_path, tmp_path / "nowhere"])
        with pytest.raises(ValueError, match="`path` must name at least one run"):
            open_run([])
