"""`watch`: each window closed once, with the measures of `summary`, whatever happens."""

from __future__ import annotations

import os
import pathlib
import shutil
import sqlite3
import tempfile
import threading
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from waiting import wait_until
from watching import HOUR, NOW, START, Kept, records, table, watcher, windows, write

from monolith_keras_metrics import command, insight
from monolith_keras_metrics.insight.asks import Ask
from monolith_keras_metrics.insight.items import Alert, Window
from monolith_keras_metrics.insight.watch import intake
from monolith_keras_metrics.insight.watch.delivery import Delivery
from monolith_keras_metrics.insight.watch.folder import Folder
from monolith_keras_metrics.insight.watch.store import FILE, Store
from monolith_keras_metrics.insight.watch.sums import Sums
from monolith_keras_metrics.insight.watch.watcher import Watcher


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of these tests are new, but nobody waits for further workers."""
    monkeypatch.setattr(intake, "GRACE_SECONDS", 0.0)


BY_COUNTRY = HOUR._replace(fields=("country",))
MEASURED = ["examples", "calibration", "log_loss", "delay_p50"]


def six_hours(run: pathlib.Path, workers: int = 2) -> pl.DataFrame:
    """Write files of half an hour each, and return their records."""
    frames = []
    for number in range(12):
        for worker in range(workers):
            frame = records(START + number * 1800, 1800, seed=100 * worker + number)
            write(run, frame, number, worker)
            frames.append(frame)
    return pl.concat(frames)


def expected(all_: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    return (
        insight.summary(all_, by, "1h", measures=["calibration", "log_loss", "delay_p50"])
        .with_columns(pl.col("window").dt.epoch("s").alias("start"))
        .select("start", "target", *by, *MEASURED)
        .sort("start", "target", *by)
        .cast({"examples": pl.Float64})
    )


def test_windows_are_those_of_summary(tmp_path: pathlib.Path) -> None:
    all_ = six_hours(tmp_path)
    kept = Kept()
    counts = insight.watch(tmp_path, kept, by="country", once=True, final=True)
    found = table(windows(kept.items))
    assert kept.starts == [START + 3600 * hour for hour in range(6)]
    assert [item.number for item in kept.items] == [1, 2, 3, 4, 5, 6]
    assert (counts["records"], counts["late"], counts["undelivered"]) == (all_.height, 0, 0)
    total = found.filter(pl.col("field").is_null()).select("start", "target", *MEASURED)
    assert_frame_equal(total, expected(all_, []), abs_tol=1e-12)
    country = pl.col("value").alias("country")
    by = found.filter(field="country").select("start", "target", country, *MEASURED)
    country = pl.col("extra_str").struct.field("country")
    assert_frame_equal(by, expected(all_.with_columns(country=country), ["country"]), abs_tol=1e-12)
    auc = insight.summary(all_, window="1h", measures="auc").sort("window", "target")["auc"]
    measured = found.filter(pl.col("field").is_null())["auc"]
    assert (
        np.abs(measured.to_numpy() - auc.to_numpy()).max() < 0.002
    )  # of 400 examples, in 128 cells a country
    assert_frame_equal(insight.watched(tmp_path).select("target", "examples", "auc"),
                       table_in_order(kept).select("target", "examples", "auc"))  # fmt: skip


def table_in_order(kept: Kept) -> pl.DataFrame:
    rows = [
        {"target": one.target} | one.measures
        for window in windows(kept.items)
        for one in window.series
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def test_without_fields_auc_is_that_of_summary(tmp_path: pathlib.Path) -> None:
    all_ = six_hours(tmp_path, workers=1)
    kept = Kept()
    insight.watch(tmp_path, kept, once=True, final=True, measures="auc")
    auc = insight.summary(all_, window="1h", measures="auc").sort("window", "target")["auc"]
    assert_frame_equal(table(windows(kept.items)).select("auc"), auc.to_frame(), abs_tol=1e-12)


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_a_process_may_end_at_any_moment(data: st.DataObject) -> None:
    """What was not committed is read again, and no window is closed twice, or never."""
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        whole, broken = folder / "whole", folder / "broken"
        files = []
        for number in range(8):
            for worker in range(2):
                shift = data.draw(st.integers(-600, 600))
                frame = records(START + number * 1800 + shift, 2000, 10 * number + worker, rows=60)
                files.append((frame, number, worker))
        for run in (whole, broken):
            run.mkdir()
        for one in files:
            write(whole, *one)
        uninterrupted, store = watcher(whole, BY_COUNTRY)
        reference = windows(_all(uninterrupted))
        store.close()
        found: list[Window] = []
        waiting = [*files]
        while waiting:
            now, waiting = waiting[:2], waiting[2:]
            for one in now:
                write(broken, *one)
            following, store = watcher(broken, BY_COUNTRY)
            before = len(found)
            for _ in range(data.draw(st.integers(0, 3))):
                found += windows(following.step())
            if data.draw(st.booleans()):  # in the middle of a step: nothing of it is committed
                commit = store.commit
                store.commit = _die  # type: ignore[method-assign]
                try:
                    following.step()
                except InterruptedError:
                    pass
                store.commit = commit  # type: ignore[method-assign]
            assert [one.number for one in found[before:]] == [*range(before + 1, len(found) + 1)]
            store.close()
        following, store = watcher(broken, BY_COUNTRY)
        found += windows(_all(following))
        late = following.totals["late"]
        store.close()
        assert len({one.start for one in found}) == len(found)
        assert [one.start for one in found] == sorted(one.start for one in found)
        total = sum(
            one.measures["examples"] or 0 for w in found for one in w.series if not one.field
        )
        assert total + 2 * late == 2 * sum(frame.height for frame, *_ in files)
        if not late:
            assert_frame_equal(table(found), table(reference), abs_tol=1e-9)
        for before, amended in zip(reference, Store.windows_in(broken / ".watch"), strict=True):
            assert before.series[0].measures["examples"] == amended.series[0].measures["examples"]
    finally:
        shutil.rmtree(folder)


def _die(*_: object) -> None:
    raise InterruptedError


def _all(following: Any) -> list[Any]:
    """Return the items of everything that there is, all windows closed."""
    found = []
    for _ in range(100):
        items = following.step(final=True)
        found += items
        if not items and not following.is_behind() and not following.open_windows():
            return found
    raise AssertionError("it does not end")


def test_a_window_waits_for_the_worker_that_is_behind(tmp_path: pathlib.Path) -> None:
    write(tmp_path, records(START, 7200, 1), 0, worker=0)
    write(tmp_path, records(START, 1800, 2), 0, worker=1)
    following, store = watcher(tmp_path)
    assert windows(following.step()) == []
    write(tmp_path, records(START + 1800, 1900, 3), 1, worker=1)
    (window,) = windows(following.step())
    assert window.start == START
    assert following.totals["late"] == 0
    store.close()


def test_a_silent_worker_does_not_hold_windows_open(tmp_path: pathlib.Path) -> None:
    paths = [write(tmp_path, records(START, 7200, 1), 0, worker=0)]
    paths.append(write(tmp_path, records(START, 1800, 2), 0, worker=1))
    now = [paths[0].stat().st_mtime]
    following, store = watcher(tmp_path, idle=900.0, clock=lambda: now[0])
    assert following.step() == []
    now[0] += 899
    assert following.step() == []
    now[0] += 2  # all are silent: even the last window is complete
    assert [one.start for one in windows(following.step())] == [START, START + 3600]
    store.close()


def test_records_that_are_late_are_counted_and_amend(tmp_path: pathlib.Path) -> None:
    write(tmp_path, records(START, 9000, 1, rows=1000), 0)
    kept = Kept()
    insight.watch(tmp_path, kept, by="country", once=True, lateness="0s")
    assert kept.starts == [START, START + 3600]
    before = insight.watched(tmp_path).filter(pl.col("field").is_null())
    write(tmp_path, records(START, 600, 2, rows=70), 1)
    counts = insight.watch(tmp_path, kept, by="country", once=True, final=True, lateness="0s")
    after = insight.watched(tmp_path).filter(pl.col("field").is_null())
    assert counts["late"] == 70
    assert kept.starts == [START, START + 3600, START + 7200]  # each was published once
    assert windows(kept.items)[-1].late == 70
    both = pl.concat([records(START, 9000, 1, rows=1000), records(START, 600, 2, rows=70)])
    assert before["examples"][0] + 70 == after["examples"][0]
    assert_frame_equal(
        after.select("target", *MEASURED),
        expected(both, []).select("target", *MEASURED),
        abs_tol=1e-12,
    )


def test_of_visits_the_first_is_measured(tmp_path: pathlib.Path) -> None:
    first = records(START, 3600, 1)
    write(tmp_path, first, 0, attempt=1)
    write(tmp_path, records(START, 3600, 2, epoch=pl.lit(1)), 1, attempt=1)
    write(tmp_path, records(START, 3600, 3, mode=pl.lit("test")), 2, attempt=1)
    write(tmp_path, records(START, 3600, 4, model_name=pl.lit("other")), 3, attempt=1)
    write(tmp_path, records(START, 3600, 5, req_time=pl.lit(None, pl.Int64)), 4, attempt=1)
    # A restored training begins at a checkpoint: half of its records are replays.
    again = first.tail(100)
    write(tmp_path, pl.concat([again, records(START + 3600, 60, 6)]), 0, attempt=2)
    kept = Kept()
    counts = insight.watch(tmp_path, kept, once=True, final=True, lateness="0s")
    assert {name: counts[name] for name in ("revisits", "replays", "untimed", "others")} == {
        "revisits": 200,
        "replays": 100,
        "untimed": 200,
        "others": 200,
    }
    hour = windows(kept.items)[0]
    assert hour.model == "m"
    assert hour.series[0].measures["examples"] == 200


def test_of_many_values_the_most_frequent_are_told_apart(
    tmp_path: pathlib.Path, warnings_logged: list[str]
) -> None:
    values = ["a"] * 90 + ["b"] * 60 + [None] * 20 + [f"rare {i}" for i in range(30)]
    frame = records(START, 3600, 1).with_columns(extra_str=pl.struct(pl.Series("country", values)))
    write(tmp_path, frame, 0)
    kept = Kept()
    insight.watch(tmp_path, kept, by="country", most=2, once=True, final=True)
    found = {
        one.value: one.measures["examples"]
        for one in windows(kept.items)[0].series
        if one.target == "ctr" and one.field
    }
    assert found == {None: 20, "a": 90, "b": 60, "other": 30}
    assert any("2 values or more" in line for line in warnings_logged)


def test_a_field_that_only_some_records_have(tmp_path: pathlib.Path) -> None:
    write(tmp_path, records(START, 1800, 1).drop("extra_str"), 0)
    write(tmp_path, records(START + 1800, 1800, 2), 1)
    kept = Kept()
    insight.watch(tmp_path, kept, by=["country", "nowhere"], once=True, final=True)
    series = windows(kept.items)[0].series
    examples = {
        (one.field, one.value): one.measures["examples"] for one in series if one.target == "ctr"
    }
    assert examples[None, None] == 400
    assert examples["country", None] == 200
    assert examples["nowhere", None] == 400


@pytest.mark.parametrize("time", ["req_time", "train_time"])
def test_the_time_that_decides(tmp_path: pathlib.Path, time: str) -> None:
    shuffled = records(START, 100_000, 1).sample(fraction=1, shuffle=True, seed=1)
    shuffled = shuffled.with_columns(train_time=pl.Series(START + np.arange(200)))
    kept = Kept()
    for number, part in enumerate(shuffled.iter_slices(50)):
        write(tmp_path, part, number)
        insight.watch(tmp_path, kept, time=time, once=True)  # type: ignore[arg-type]
    counts = insight.watch(tmp_path, kept, time=time, once=True, final=True)  # type: ignore[arg-type]
    assert len(kept.starts) == len({*kept.starts})
    if time == "train_time":
        assert counts["late"] == 0
        assert [one.series[0].measures["examples"] for one in windows(kept.items)] == [200]
    else:
        assert counts["late"] > 0


def test_predictions_that_lie_close_together_are_told_apart(tmp_path: pathlib.Path) -> None:
    """A feature that is stuck makes them so, and it is then that somebody looks at AUC."""
    random = np.random.default_rng(1)
    p = (0.2 + 0.01 * random.random(5000)).astype(np.float32)
    y = (random.random(5000) < (p - 0.2) * 100).astype(np.float32)
    frame = records(START, 3600, 1, rows=5000).with_columns(
        predict=pl.DataFrame({"ctr": p}).to_struct(), label=pl.DataFrame({"ctr": y}).to_struct()
    )
    write(tmp_path, frame, 0)
    kept = Kept()
    insight.watch(tmp_path, kept, by="country", once=True, final=True)
    auc = {one.value: one.measures["auc"] for one in windows(kept.items)[0].series}
    exact = insight.summary(frame, by="country", measures="auc", exact=True)
    for country, expected_auc in exact.select("country", "auc").rows():
        assert (
            abs((auc[country] or 0) - expected_auc) < 0.01
        )  # float32 has 170 cells of summary's there


def test_a_folder_that_does_not_exist_yet_is_waited_for(tmp_path: pathlib.Path) -> None:
    kept, stop = Kept(), threading.Event()
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
        insight.watch(run, once=True)
    thread = threading.Thread(target=lambda: insight.watch(run, kept, stop=stop))
    thread.start()
    run.mkdir()
    write(run, records(START, 9000, 1), 0)
    wait_until(lambda: len(kept.starts) == 2)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


def test_other_settings_need_another_state(tmp_path: pathlib.Path) -> None:
    write(tmp_path, records(START, 60, 1), 0)
    insight.watch(tmp_path, once=True)
    with pytest.raises(ValueError, match=r"begun with window='1h'. Received: window='2h'"):
        insight.watch(tmp_path, once=True, window="2h")
    insight.watch(tmp_path, once=True, window="2h", state=tmp_path / "other")


def test_a_second_watch_is_refused(tmp_path: pathlib.Path) -> None:
    write(tmp_path, records(START, 60, 1), 0)
    _, store = watcher(tmp_path)
    with pytest.raises(ValueError, match="another `watch` follows this run"):
        insight.watch(tmp_path, once=True)
    store.close()


def test_a_publisher_that_fails_gets_everything_once(tmp_path: pathlib.Path) -> None:
    six_hours(tmp_path)
    failing, other = Kept("failing"), Kept("other")
    failing.failures = 2
    counts = insight.watch(tmp_path, [failing, other], once=True, final=True)
    assert counts["undelivered"] == 0
    assert failing.starts == other.starts == [START + 3600 * hour for hour in range(6)]
    assert failing.doubtful[:2] == [1, 1]
    assert other.doubtful == []


def test_a_publisher_that_stays_away_is_told_and_gets_it_later(tmp_path: pathlib.Path) -> None:
    six_hours(tmp_path)
    store = Store(tmp_path / ".watch")
    away = Kept()
    away.failures = 10**9
    delivery = Delivery(away, store)
    store.commit([Window(1, "m", START, START + 3600, ())])
    delivery.start()
    assert not delivery.drain(None, tries=1)
    assert store.backlog("kept") == 1
    away.failures = 0
    assert delivery.drain(60, tries=10**9)
    delivery.stop(10)
    assert (away.starts, away.closed) == ([START], True)
    store.close()


def test_a_publisher_that_hangs_delays_nobody(tmp_path: pathlib.Path) -> None:
    six_hours(tmp_path)
    hanging, other = Kept("hanging"), Kept("other")
    hanging.gate = threading.Event()
    stop = threading.Event()

    def follow() -> None:
        insight.watch(tmp_path, [hanging, other], final=True, stop=stop)

    thread = threading.Thread(target=follow)
    thread.start()
    wait_until(lambda: len(other.starts) == 6)
    assert hanging.starts == []
    hanging.gate.set()
    wait_until(lambda: len(hanging.starts) == 6)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


def test_a_new_publisher_gets_what_was_published_before(tmp_path: pathlib.Path) -> None:
    six_hours(tmp_path)
    insight.watch(tmp_path, Kept("one"), once=True, final=True)
    again, another = Kept("one"), Kept("two")
    insight.watch(tmp_path, [again, another], once=True, final=True)
    assert (again.starts, again.restored) == ([], [6])
    assert (len(another.starts), another.restored) == (6, [])


@pytest.mark.slow
def test_a_full_disk_loses_nothing(tmp_path: pathlib.Path, small_disk: pathlib.Path) -> None:
    six_hours(tmp_path)
    ballast = small_disk / "ballast"
    state = small_disk / "state"
    store = Store(state)
    following = Watcher(Folder(tmp_path, "req_time"), store, HOUR, idle=1e12, clock=lambda: NOW)
    with pytest.raises(OSError, match="No space left"), open(ballast, "wb", 0) as file:
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(OSError, match="disk"):
        for _ in range(3):
            following.step(final=True)
    ballast.unlink()
    found = windows(_all(following))
    assert [one.number for one in found] == [1, 2, 3, 4, 5, 6]
    store.close()
    assert len([*Store.windows_in(state)]) == 6


def test_a_state_that_cannot_be_read_ends_it_and_a_new_start_goes_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    six_hours(tmp_path)

    def fail(*_: Any) -> Any:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patching:
        patching.setattr(Sums, "take", fail)
        assert command.main(["watch", str(tmp_path), "--final"]) == 2
    assert "a window could not be closed: [Errno 5]" in capsys.readouterr().err
    kept = Kept()
    insight.watch(tmp_path, kept, once=True, final=True)
    assert [one.number for one in windows(kept.items)] == [1, 2, 3, 4, 5, 6]


def test_files_that_cannot_be_read_are_skipped(
    tmp_path: pathlib.Path, warnings_logged: list[str]
) -> None:
    write(tmp_path, records(START, 600, 1), 0)
    write(tmp_path, records(START, 600, 2), 1).write_bytes(b"PAR1 no file")
    deleted = write(tmp_path, records(START, 600, 3), 2)
    following, store = watcher(tmp_path)
    following._source.look()
    deleted.unlink()
    (window,) = windows(_all(following))
    assert window.series[0].measures["examples"] == 200
    assert any("corrupt" in line for line in warnings_logged)
    assert any("deleted before it was read" in line for line in warnings_logged)
    store.close()


def test_json_lines(tmp_path: pathlib.Path) -> None:
    frame = records(START, 3600, 1)
    frame.write_ndjson(tmp_path / "worker-00000.attempt-1790000000000000.part-000000000000.jsonl")
    kept = Kept()
    insight.watch(f"jsonl:{tmp_path}", kept, once=True, final=True)
    assert windows(kept.items)[0].series[0].measures["examples"] == 200


def test_a_state_that_is_damaged(tmp_path: pathlib.Path) -> None:
    write(tmp_path, records(START, 60, 1), 0)
    (tmp_path / ".watch").mkdir()
    (tmp_path / ".watch" / FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(ValueError, match="is damaged"):
        insight.watch(tmp_path, once=True)
    with pytest.raises(ValueError, match="is damaged"):
        insight.watched(tmp_path)


def test_a_state_of_another_version(tmp_path: pathlib.Path) -> None:
    write(tmp_path, records(START, 60, 1), 0)
    Store(tmp_path / ".watch").close()
    with sqlite3.connect(tmp_path / ".watch" / FILE) as connection:
        connection.execute("PRAGMA user_version = 7")
    with pytest.raises(ValueError, match="another version"):
        insight.watch(tmp_path, once=True)


def test_windows_that_everybody_has_are_deleted_in_time(tmp_path: pathlib.Path) -> None:
    store = Store(tmp_path)
    for publisher in ("has it", "lacks it"):
        store.register(publisher)
    store.commit([Window(n, "m", START + n, START + n + 1, ()) for n in range(1, 5)])
    store.delivered("has it", 3)
    store.delivered("lacks it", 1)
    store.forget_items(START + 3, ["has it", "lacks it"])
    assert [one.start for one in Store.windows_in(tmp_path)] == [START + n for n in (2, 3, 4)]
    store.forget_items(START + 3, ["has it"])
    assert [one.start for one in Store.windows_in(tmp_path)] == [START + n for n in (3, 4)]
    assert store.next_number == 5
    store.close()
    assert Store(tmp_path).next_number == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": "1x"}, "`window` must be a length of time"),
        ({"window": "1mo"}, "`window` must be a fixed number of seconds"),
        ({"lateness": "-1h"}, "`lateness` must be"),
        ({"time": "when"}, "`time` must be"),
        ({"most": 0}, "`most` must be at least 1"),
        ({"measures": "magic"}, "`measures` must be among"),
        ({"run": "kafka://127.0.0.1:1/t"}, "`state` must name a folder"),
    ],
)
def test_invalid_arguments(tmp_path: pathlib.Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        insight.watch(**{"run": tmp_path, "once": True, **arguments})


def test_a_run_that_was_never_watched(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be watched"):
        insight.watched(tmp_path)


def test_recent_records_are_of_the_time_that_is_judged(tmp_path: pathlib.Path) -> None:
    """Also while the watcher catches up: newer files were read already."""
    all_ = six_hours(tmp_path, workers=1)
    folder = Folder(tmp_path, "req_time")
    folder.look()
    assert sum(portion.records.height for portion in folder.read()) == all_.height
    since, until = START + 3600, START + 7200
    found = folder.recent(since, until, 10**6)
    assert found is not None
    of_the_hour = pl.col("req_time").is_between(since, until, closed="left")
    assert found.collect().height == all_.filter(of_the_hour).height > 0
    newest = folder.recent(since, until, 10)
    assert newest is not None
    assert newest.collect().height == 10


def test_records_from_the_future_close_no_window(tmp_path: pathlib.Path) -> None:
    """One wrong clock, or times in milliseconds, would make all others late."""
    write(tmp_path, records(START, 3600, 1), 0)
    wrong = records(START, 1800, 2).with_columns(req_time=pl.col("req_time") * 1000)
    write(tmp_path, wrong, 1)
    kept = Kept()
    insight.watch(tmp_path, kept, once=True)
    write(tmp_path, records(START + 3600, 7200, 3), 2)
    counts = insight.watch(tmp_path, kept, once=True, final=True)
    assert (counts["future"], counts["late"], counts["records"]) == (200, 0, 400)
    assert kept.starts == [START, START + 3600, START + 7200]


def test_replays_are_known_when_a_run_is_caught_up_with(tmp_path: pathlib.Path) -> None:
    """The second attempt begins at a checkpoint in the middle of the first one's files."""
    hour = records(START, 3600, 1, rows=400)
    parts = [*hour.iter_slices(100)]
    for number, part in enumerate(parts[:3]):
        write(tmp_path, part, number, attempt=1)
    write(tmp_path, pl.concat([parts[1], parts[2]]), 0, attempt=2)
    write(tmp_path, parts[3], 1, attempt=2)
    counts = insight.watch(tmp_path, once=True, final=True)
    assert (counts["records"], counts["replays"], counts["late"]) == (400, 200, 0)


def test_the_format_of_a_run_stays(tmp_path: pathlib.Path) -> None:
    write(tmp_path, records(START, 1800, 1), 0)
    insight.watch(tmp_path, once=True)
    records(START, 60, 2).write_ndjson(tmp_path / "export.jsonl")
    insight.watch(tmp_path, once=True)
    write(tmp_path, records(START + 1800, 1800, 3), 1)
    assert insight.watch(tmp_path, once=True, final=True)["records"] == 400


def test_a_damaged_file_does_not_hold_up_the_others(
    tmp_path: pathlib.Path, warnings_logged: list[str]
) -> None:
    damaged = write(tmp_path, records(START, 600, 1), 0)
    contents = bytearray(damaged.read_bytes())
    contents[20:2000] = bytes(1980)
    damaged.write_bytes(contents)
    write(tmp_path, records(START + 600, 600, 2), 1)
    kept = Kept()
    assert insight.watch(tmp_path, kept, once=True, final=True)["records"] == 200
    assert any("it is skipped" in line for line in warnings_logged)


class Asking:
    """A judge that reads the newest records at each window, and counts what it is given."""

    def __init__(self, *asks: Ask) -> None:
        self.asks = [*asks]
        self.given: list[list[int | None]] = []

    def close(self, start: int, end: int, states: Any, recent: Any) -> list[Alert]:
        recent(start)
        self.given.append([one and int(one.finish("calibration")["examples"][0]) for one in states])
        return []

    def look(self, now: int, newest: int | None) -> list[Alert]:
        return []


CALIBRATION = Ask((), None, "req_time", ["calibration"], True, True, "first", False)


def test_an_alert_does_without_records_that_cannot_be_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    six_hours(tmp_path, workers=1)

    def away(*_: object) -> None:
        raise OSError("stale")

    monkeypatch.setattr(Folder, "recent", away)
    judge = Asking(CALIBRATION)
    following, store = watcher(tmp_path, judge=judge)
    assert [one.start for one in windows(_all(following))] == [START + 3600 * at for at in range(6)]
    assert judge.given == [[400]] * 6
    store.close()


def test_a_new_rule_does_not_judge_the_window_that_is_open(tmp_path: pathlib.Path) -> None:
    write(tmp_path, records(START, 5400, 1), 0)
    following, store = watcher(tmp_path)
    following.step()
    following.step()
    store.close()
    write(tmp_path, records(START + 5400, 5400, 2), 1)
    judge = Asking(CALIBRATION)
    following, store = watcher(tmp_path, judge=judge)
    assert len(windows(_all(following))) == 2
    (old,), (new,) = judge.given
    assert old is None
    assert new is not None
    store.close()


def test_sums_of_a_rule_that_is_gone_are_deleted(tmp_path: pathlib.Path) -> None:
    write(tmp_path, records(START, 5400, 1), 0)
    following, store = watcher(tmp_path, judge=Asking(CALIBRATION))
    following.step()
    following.step()
    assert any(name.startswith("open/rules/") for name in store.blobs)
    store.close()
    following, store = watcher(tmp_path)
    assert {name.split("/")[1] for name in store.blobs if name.startswith("open/")} == {"all"}
    assert len(windows(_all(following))) == 1  # the other one was closed before
    store.close()


def test_a_window_is_not_closed_before_it_is_over(tmp_path: pathlib.Path) -> None:
    """All workers pause, for an evaluation, and go on within the same hour."""
    now = [START + 1800.0]
    path = write(tmp_path, records(START, 1700, 1), 0)
    os.utime(path, (START + 1700, START + 1700))
    following, store = watcher(tmp_path, idle=60.0, clock=lambda: now[0])
    assert following.step() == []
    assert following.step() == []
    now[0] = START + 3601
    assert len(windows(following.step())) == 1
    store.close()


def test_a_run_that_has_just_begun_waits_for_other_workers(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "GRACE_SECONDS", 60.0)
    path = write(tmp_path, records(START, 9000, 1), 0)
    now = [path.stat().st_mtime]
    following, store = watcher(tmp_path, clock=lambda: now[0])
    assert following.step() == []
    write(tmp_path, records(START, 9000, 2), 0, worker=1)
    now[0] += 61
    found = windows([*following.step(), *following.step()])
    assert [one.series[0].measures["examples"] for one in found] != []
    assert following.totals["late"] == 0
    store.close()


def test_a_full_disk_behind_the_standard_output_ends_nothing(
    tmp_path: pathlib.Path, warnings_logged: list[str]
) -> None:
    six_hours(tmp_path, workers=1)
    told = []

    def tell(item: Any) -> None:
        told.append(item)
        raise OSError(28, "No space left on device")

    kept = Kept()
    insight.watch(tmp_path, kept, once=True, final=True, told=tell)
    assert len(told) == len(kept.items) == 6
    assert sum("cannot be printed" in line for line in warnings_logged) == 1


def test_a_new_place_is_not_called_for_what_is_over(tmp_path: pathlib.Path) -> None:
    def alert(number: int, name: str, state: Any) -> Alert:
        rest: Any = (START, None, "6h", *(None,) * 5, (), "text")
        return Alert(number, name, state, "auc >= 0.7", "ctr", {}, "page", *rest)

    store = Store(tmp_path)
    store.commit([alert(1, "a", "firing"), alert(2, "b", "firing"), alert(3, "b", "resolved")])
    kept = Kept()
    delivery = Delivery(kept, store)
    delivery.start()
    assert delivery.drain(60, tries=1)
    store.commit([alert(4, "a", "resolved")])
    delivery.wake()
    assert delivery.drain(60, tries=1)
    delivery.stop(10)
    assert [item.number for item in kept.items] == [1, 4]
    # Nothing is left for a place that was added when everything was over.
    later = Delivery(Kept("later"), store)
    later.start()
    assert later.drain(60, tries=1)
    later.stop(10)
    assert store.backlog("later") == 0
    store.close()


@pytest.mark.parametrize("name", ["uid", "req_time", "label", "target", "window", "epoch", ""])
def test_names_that_are_no_fields(tmp_path: pathlib.Path, name: str) -> None:
    write(tmp_path, records(START, 60, 1), 0)
    with pytest.raises(ValueError, match="`by` must be extra fields"):
        insight.watch(tmp_path, by=name, once=True)
    rules = tmp_path / "rules.toml"
    rules.write_text(f'[[rule]]\nname = "r"\nrule = "auc >= 0.5"\nby = "{name}"\n')
    with pytest.raises(ValueError, match="by"):
        insight.watch(tmp_path, rules=rules, once=True)


def test_records_without_the_time_that_decides(tmp_path: pathlib.Path) -> None:
    write(tmp_path, records(START, 60, 1).drop("train_time"), 0)
    counts = insight.watch(tmp_path, by=["country", "country"], time="train_time", once=True)
    assert (counts["records"], counts["untimed"]) == (0, 200)
    assert insight.watched(tmp_path).columns == ["window", "target", "field", "value"]
