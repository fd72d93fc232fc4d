"""Reading files of the three formats: values and types, and what is broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from messages import FORMATS, frame_of, ids, message, of_target, read, write
from polars.testing import assert_frame_equal

from monolith_keras_metrics.insight import open_run
from monolith_keras_metrics.records.batch import Batch, Layout, Origin
from monolith_keras_metrics.records.frame import to_frame
from monolith_keras_metrics.sinks import parse


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
