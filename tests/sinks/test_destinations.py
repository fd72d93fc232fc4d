"""A destination is absolute from the moment it is made, wherever the program goes afterwards."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from places import HELPERS
from training import ROWS, columns, dataset, frozen, labels, model, read
from writing import check_records, read_whole

from monolith_keras_metrics import (
    DeepInsightCallback,
    DeepInsightClient,
    DeepInsightLayer,
    deep_insight_client,
    write_deep_insight,
)
from monolith_keras_metrics.deep_insight_ops import client_of
from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.sinks import Destination, parse


@pytest.fixture
def home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Where the program begins. It may go to `tmp_path / "away"`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "home" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "home" / "link").symlink_to("deep/er")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


class Leaving(keras.callbacks.Callback):
    """Changes the working directory in the middle of training."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 2:
            os.chdir("../away")


@pytest.mark.parametrize(
    ("sink", "expected"),
    [
        ("run", "{home}/run"),
        ("./run/", "{home}/run"),
        ("parquet:run", "{home}/run"),
        ("jsonl:runs/a:b", "{home}/runs/a:b"),
        ("tfrecord:/abs/run", "/abs/run"),
        ("./jsonl:run", "{home}/jsonl:run"),
        ("~/run", "{up}/run"),
        ("jsonl:~/run", "{up}/run"),
        ("./~/run", "{home}/~/run"),
        ("link/../run", "{home}/link/../run"),
        (pathlib.Path("run"), "{home}/run"),
        (pathlib.Path("jsonl:run"), "{home}/jsonl:run"),
    ],
)
def test_a_folder_is_absolute(sink: Any, expected: str, home: pathlib.Path) -> None:
    """From the moment when it is parsed; it is shown, and saved, as it was written."""
    made = parse(sink)
    assert str(made.folder) == expected.format(home=home, up=home.parent)
    assert made.journal_folder == made.folder / ".spool"
    assert str(made) == os.fspath(sink)
    assert made.to_save() == (os.fspath(sink), [])
    assert made == parse(sink)
    assert hash(made) == hash(parse(sink))
    where = made.identity(home)
    assert made.identity(made.journal_folder).endswith(":.")
    os.chdir("../away")
    assert made.identity(home) == where


def test_one_place_in_two_formats_is_two_destinations(home: pathlib.Path) -> None:
    assert parse("run") == parse("parquet:./run/") == parse(home / "run")
    assert parse("run") != parse("jsonl:run")
    assert parse("link") == parse("deep/er")
    assert parse("run") != "run"


def test_a_topic(home: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    made = parse("kafka://b:2,a:1/t?sasl.username=me&sasl.password=hush")
    assert made == parse("kafka://a:1,b:2/t")
    assert made != parse("kafka://a:1,b:2/u")
    assert made.run_name == "t"
    assert made.folder is None
    state = home.parent / ".local" / "state" / "monolith_keras_metrics" / "t"
    assert made.journal_folder == state
    assert made.to_save() == ("kafka://b:2,a:1/t?sasl.username=me", ["sasl.password"])
    for text in (str(made), repr(made), made.identity(state)):
        assert "hush" not in text
        assert "/t" in text
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    assert made.journal_folder == home / "monolith_keras_metrics" / "t"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # to be ignored
    assert made.journal_folder == state


class Elsewhere:
    """A sink object."""

    def write(self, frame: object) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


def test_a_sink_object(home: pathlib.Path) -> None:
    """It is itself; another of its class is another place, and has another name."""
    sink = Elsewhere()
    made = parse(sink)
    assert made.open(Origin("r", 1, 0)) is sink
    assert made == parse(sink) != parse(Elsewhere())
    assert made.identity(home) == parse(sink).identity(home)
    assert made.identity(home) != parse(Elsewhere()).identity(home)
    assert (made.run_name, made.folder, made.journal_folder) == (None, None, None)
    with pytest.raises(TypeError, match="must be a folder or a URI, or a list of these"):
        made.to_save()


def test_a_kind_of_place_that_a_user_made(home: pathlib.Path) -> None:
    """One class is all that a new place takes."""

    class Shelf(Destination):
        opened: Elsewhere | None = None

        @property
        def key(self) -> tuple[object, ...]:
            return ("shelf", 1)

        def open(self, origin: Origin, journal: str | None = None) -> Elsewhere:
            self.opened = Elsewhere()
            return self.opened

        def identity(self, journal: pathlib.Path) -> str:
            return "shelf:1"

        def __str__(self) -> str:
            return "shelf 1"

    shelf = Shelf()
    assert parse(shelf) is shelf
    with pytest.raises(ValueError, match="one destination twice.*: shelf 1 and shelf 1"):
        DeepInsightClient([shelf, Shelf()])
    assert shelf.opened is None
    with DeepInsightClient([shelf, "run"], spool="journal") as client:
        assert client.origin.run == "run"
    assert shelf.opened is not None
    assert (home / "journal").is_dir()


@pytest.mark.parametrize("sink", ["runs/ctr", "parquet:runs/ctr", pathlib.Path("runs/ctr")])
def test_a_callback(sink: Any, home: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Between constructor and `fit`, and in the middle of `fit`; shown as it was written."""
    recorder = DeepInsightCallback(sink, model_name="m", sample_ratio=1.0, spool="journal")
    os.chdir("../away")
    frozen(model()).fit(dataset(columns(), labels()), callbacks=[recorder], verbose=2)
    assert f"examples written to {sink}\n" in capsys.readouterr().out
    os.chdir(home)
    frozen(model()).fit(
        dataset(columns(), labels()), callbacks=[recorder, Leaving()], verbose=0, epochs=2
    )
    assert read(home / "runs" / "ctr").height == 3 * ROWS
    assert list((home.parent / "away").iterdir()) == []
    assert (home / "journal").is_dir()


def test_a_client_whose_files_are_written_after_a_change(home: pathlib.Path) -> None:
    """The journal and the files of three formats."""
    places: list[Any] = ["run", "jsonl:run", "tfrecord:run"]
    with DeepInsightClient(places) as client:
        os.chdir("../away")
        write_deep_insight(client.handle, *example(), "m", sample_ratio=1.0)
        client.flush()
        assert client.spool_folder == home / "run" / ".spool"
        write_deep_insight(client.handle, *example(), "m", sample_ratio=1.0)
    assert len(list((home / "run").glob("worker-*"))) == 6
    assert list((home.parent / "away").iterdir()) == []


def example() -> tuple[Any, ...]:
    ids, ones = tf.constant([1, 2], tf.int64), tf.ones(2)
    return ids, ids, ones, ones, ones


def test_a_dump(home: pathlib.Path) -> None:
    handle = deep_insight_client(is_fake=True, dump_filename="dumps/d.tfrecord")
    write_deep_insight(handle, *example(), "m", sample_ratio=1.0)
    os.chdir("../away")
    write_deep_insight(handle, *example(), "m", sample_ratio=1.0)
    client_of(handle).close()
    dump = home / "dumps" / "d.tfrecord"
    assert len(list(tf.data.TFRecordDataset(str(dump)))) == 4
    assert list((home.parent / "away").iterdir()) == []


def test_a_layer(home: pathlib.Path) -> None:
    """A saved model keeps what the user wrote, and writes there, seen from where it is loaded."""
    layer = DeepInsightLayer(
        "run", model_name="m", sample_ratio=1.0, client_options={"spool": "journal"}
    )
    config = layer.get_config()
    assert (config["sink"], config["client_options"]) == ("run", {"spool": "journal"})
    os.chdir("../away")
    arguments = dict(zip(("uid", "req_time", "labels"), example(), strict=False))
    layer(tf.ones(2), training=True, **arguments)
    layer.close()
    assert read(home / "run").height == 2
    assert (home / "journal").is_dir()
    assert list((home.parent / "away").iterdir()) == []
    again = DeepInsightLayer.from_config(config)
    assert again.get_config() == config
    again(tf.ones(2), training=True, **arguments)
    again.close()
    assert read(home.parent / "away" / "run").height == 2


@pytest.mark.slow
def test_a_kill_and_a_restart_elsewhere(home: pathlib.Path) -> None:
    """One process is given the relative folder and leaves it; its successor the absolute one."""
    code = f"""
import os, sys
sys.path.insert(0, {str(HELPERS)!r})
from writing import batch, ROWS
from monolith_keras_metrics import DeepInsightClient
client = DeepInsightClient(sys.argv[1], file_seconds=0.2)
for step in range(40):
    client.write(batch(client.origin.attempt, step * ROWS))
    if step == 10:
        client.flush()
        os.chdir(sys.argv[2])
    if step == 30:
        client.flush()
client.flush(to="journal")
if sys.argv[3] == "kill":
    os.kill(os.getpid(), 9)
client.close()
print(client.stats().written)
"""

    def run(folder: pathlib.Path | str, cwd: pathlib.Path, end: str) -> str:
        elsewhere = str(home.parent / "away")
        command = [sys.executable, "-c", code, str(folder), elsewhere, end]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False).stdout

    assert run("run", home, "kill") == ""
    assert run(home / "run", pathlib.Path("/"), "close") == f"{40 * 256}\n"
    rows = check_records(read_whole(home / "run"))
    np.testing.assert_array_equal(list(rows.values()), [40 * 256] * 2)
    assert list((home.parent / "away").iterdir()) == []
