"""The event file of a watched run, as TensorBoard's own reader sees it."""

from __future__ import annotations

import multiprocessing
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from told import HOUR, NINE, alert, window

from monolith_keras_metrics.insight.items import Series

pytest.importorskip("tensorboard", reason="tensorboard is not installed")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monolith_keras_metrics.insight.publish.publisher import Publisher
from monolith_keras_metrics.insight.publish.to_tensorboard import FILE, FOLDER, TensorBoard

FIRST = {1: (NINE + HOUR, 0.5 + 1 / 1024), 2: (NINE + 2 * HOUR, 0.5 + 2 / 1024)}


def publish(folder: pathlib.Path, *items: Any, maybe_there: bool = False, run: str = "r") -> None:
    """Publishes items as a watcher does that was just started."""
    publisher: Publisher = TensorBoard(folder, run)
    for item in items:
        publisher.publish(item, maybe_there)
    publisher.close()


def scalars(folder: pathlib.Path, tag: str = "auc/click", run: str = FOLDER) -> Any:
    """What TensorBoard reads: by step, wall time and value. A step that is there twice fails."""
    events = EventAccumulator(str(folder / run)).Reload().Scalars(tag)
    found = {event.step: (event.wall_time, event.value) for event in events}
    assert len(found) == len(events)
    return found


@pytest.mark.slow
def test_windows_and_alerts(tmp_path: pathlib.Path) -> None:
    slices = (
        Series("click", "place", "a/b", {"auc": 0.75}),
        Series("click", "place", "", {"auc": 0.5}),
        Series("click", "place", None, {"auc": 0.25}),
    )
    publish(tmp_path, window(1), alert(2), window(3, *slices, late=7), alert(4, "resolved"))
    seen = EventAccumulator(str(tmp_path / FOLDER)).Reload()
    assert set(seen.Tags()["scalars"]) == {
        "auc/click",
        "auc by country/click/US",
        "calibration by country/click/US",  # that of all records is undefined
        "auc by place/click/a∕b",  # noqa: RUF001
        "auc by place/click/",
        "auc by place/click/(none)",
        "alerts/too sure/click/US",
        "late records",
    }
    assert scalars(tmp_path) == {1: FIRST[1]}
    assert scalars(tmp_path, "auc by place/click/(none)") == {3: (NINE + 3 * HOUR, 0.25)}
    assert scalars(tmp_path, "late records") == {
        1: (NINE + HOUR, 0.0),
        3: (NINE + 3 * HOUR, 7.0),
    }
    assert scalars(tmp_path, "alerts/too sure/click/US") == {
        2: (NINE + 2 * HOUR, 1.0),
        4: (NINE + 4 * HOUR, 0.0),
    }
    first, second = seen.Tensors("alerts/too sure/click/US/text")
    assert first.tensor_proto.string_val[0].decode() == f"firing: {alert(2).text}"
    assert second.tensor_proto.string_val[0].decode() == f"resolved: {alert(4).text}"
    metadata = seen.SummaryMetadata("alerts/too sure/click/US/text")
    assert metadata.plugin_data.plugin_name == "text"


@pytest.mark.slow
def test_a_record_that_was_cut_at_any_byte_is_there_once(tmp_path: pathlib.Path) -> None:
    publish(tmp_path / "one", window(1))
    publish(tmp_path / "two", window(1), window(2))
    one, two = (tmp_path / name / FOLDER / FILE for name in ("one", "two"))
    whole = two.read_bytes()
    for size in range(one.stat().st_size + 1):  # while the file's first bytes were written
        one.write_bytes(whole[:size])
        publish(tmp_path / "one", window(1), window(2), maybe_there=True)
        assert one.read_bytes() == whole, size
    for size in range(one.stat().st_size, len(whole) + 1):
        two.write_bytes(whole[:size])
        publish(tmp_path / "two", window(2), maybe_there=True)
        assert two.read_bytes() == whole, size
    assert scalars(tmp_path / "one") == scalars(tmp_path / "two") == FIRST
    short = alert(2, name="n", text="")
    publish(tmp_path / "alert", window(1), short)
    two.write_bytes(whole[:-1])
    publish(tmp_path / "two", short, maybe_there=True)  # shorter than what was cut
    assert two.read_bytes() == (tmp_path / "alert" / FOLDER / FILE).read_bytes()


def test_a_power_failure_may_leave_zeros(tmp_path: pathlib.Path) -> None:
    publish(tmp_path, window(1))
    path = tmp_path / FOLDER / FILE
    size = path.stat().st_size
    publish(tmp_path, window(2))
    whole = path.read_bytes()
    for length_too in (False, True):
        zeros = bytes(len(whole) - size - 12)
        head = whole[size : size + 12] if length_too else bytes(12)
        path.write_bytes(whole[:size] + head + zeros)
        publish(tmp_path, window(2), maybe_there=True)
        assert path.read_bytes() == whole


def test_a_damaged_file_is_not_added_to(tmp_path: pathlib.Path) -> None:
    publish(tmp_path, window(1))
    path = tmp_path / FOLDER / FILE
    path.write_bytes(path.read_bytes() + b"no record, and longer than a part of one")
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(ValueError, match="is damaged at byte .*Move it"):
            publish(tmp_path, window(2))
    assert path.read_bytes() == before
    path.rename(tmp_path / "aside")
    publish(tmp_path, window(2))
    assert scalars(tmp_path) == {2: FIRST[2]}


@pytest.mark.slow
def test_files_of_others_stay_as_they_are(tmp_path: pathlib.Path) -> None:
    import keras
    import numpy as np

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback = keras.callbacks.TensorBoard(tmp_path)
    model.fit(np.ones((4, 1)), np.ones(4), epochs=2, verbose=0, callbacks=[callback])
    (theirs,) = (tmp_path / "train").glob("*tfevents*v2")
    before = theirs.read_bytes()
    publish(tmp_path, window(1), window(2))
    assert theirs.read_bytes() == before
    seen = EventAccumulator(str(tmp_path / "train")).Reload()
    assert [event.step for event in seen.Tensors("epoch_loss")] == [0, 1]
    assert scalars(tmp_path) == FIRST


def test_another_run_is_not_mixed_with_the_first(tmp_path: pathlib.Path) -> None:
    publish(tmp_path, window(1))
    with pytest.raises(ValueError, match="items of another run"):
        publish(tmp_path, window(2), run="s")
    publish(tmp_path, window(2))
    assert scalars(tmp_path) == FIRST


def _hold(folder: pathlib.Path, connection: Any) -> None:
    publisher = TensorBoard(folder, "r")
    publisher.publish(window(1), False)
    connection.send("holds it")
    connection.recv()


@pytest.mark.slow
def test_two_processes_do_not_write_at_once(tmp_path: pathlib.Path) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path, there))
    process.start()
    try:
        assert here.recv() == "holds it"
        with pytest.raises(OSError, match="another process writes"):
            publish(tmp_path, window(2))
    finally:
        process.kill()
        process.join()
    publish(tmp_path, window(2))
    assert scalars(tmp_path) == FIRST


def test_a_full_disk(small_disk: pathlib.Path) -> None:
    publisher = TensorBoard(small_disk, "r")
    publisher.publish(window(1), False)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(1_000))
    slices = [Series("click", "item", str(n), {"auc": 0.5}) for n in range(1_000)]
    big = window(2, Series("click", None, None, {"auc": FIRST[2][1]}), *slices)
    for attempt in range(3):
        with pytest.raises(OSError, match="No space"):
            publisher.publish(big, attempt > 0)
    filler.unlink()
    publisher.publish(big, True)
    publisher.close()
    assert scalars(small_disk) == FIRST
    assert scalars(small_disk, "auc by item/click/999") == {2: (NINE + 2 * HOUR, 0.5)}


def test_a_folder_that_cannot_be_made(tmp_path: pathlib.Path) -> None:
    (tmp_path / "taken").write_text("a file")
    publisher = TensorBoard(tmp_path / "taken", "r")
    with pytest.raises((FileExistsError, NotADirectoryError)):
        publisher.publish(window(1), False)
    (tmp_path / "taken").unlink()
    publisher.publish(window(1), True)
    publisher.close()
    assert scalars(tmp_path / "taken") == {1: FIRST[1]}


@pytest.mark.slow
def test_tensorflow_is_not_imported(tmp_path: pathlib.Path) -> None:
    code = f"""
import sys
from told import window
from monolith_keras_metrics.insight.publish import publisher_of
publisher = publisher_of("tensorboard:{tmp_path}", "r")
publisher.publish(window(1), False)
publisher.close()
assert not {{"tensorflow", "keras"}} & set(sys.modules)
"""
    helpers = pathlib.Path(__file__).parents[1] / "helpers"
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append('{helpers}'){code}"], check=True
    )
    assert scalars(tmp_path) == {1: FIRST[1]}
