"""Reading runs: which files they have, and several of them; and their long form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from messages import frame_of, ids, message, of_target, read, write

from monolith_keras_metrics.insight import long_form, open_run


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
