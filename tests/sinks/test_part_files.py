"""Files in a run's folder that are not what their names say: compared, and never replaced."""

from __future__ import annotations

import os
import pathlib
import subprocess
import tempfile
import textwrap
import time

import polars as pl
import pytest
import warm
from hypothesis import given, settings
from hypothesis import strategies as st
from kills import Killed
from places import HELPERS
from run_files import ORIGIN, RECOVERER, SINKS, STEM, every_format, names, records
from writing import ROWS, check_records

from monolith_keras_metrics import command, insight
from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.sinks import parse

pytestmark = pytest.mark.slow

_SCRIPT = HELPERS / "writing.py"


def file_with(frame: pl.DataFrame, scheme: str) -> bytes:
    """What a sink makes of records."""
    with tempfile.TemporaryDirectory() as folder:
        parse(f"{scheme}:{folder}").open(ORIGIN).write(frame)
        (path,) = pathlib.Path(folder).iterdir()
        return path.read_bytes()


def path_of(folder: pathlib.Path, number: int, scheme: str) -> pathlib.Path:
    return folder / f"{STEM}{number:012d}.{scheme}"


def positions(folder: pathlib.Path, scheme: str) -> list[int]:
    """Of all records that can be read."""
    return sorted(insight.open_run(f"{scheme}:{folder}").collect()["position"])


def recover(folder: pathlib.Path, scheme: str, *frames: pl.DataFrame) -> None:
    """As another process does, which does it once more after a kill."""
    for _ in range(2):
        sink = parse(f"{scheme}:{folder}").open(RECOVERER)
        for frame in frames:
            sink.write(frame)


@every_format
def test_a_truncated_copy_loses_nothing(
    scheme: str, tmp_path: pathlib.Path, warnings_logged: list[str]
) -> None:
    """Thousands of records wait in a journal; their file is there, but was not copied whole."""
    run = tmp_path / "run"
    process = Killed(
        tmp_path, [str(_SCRIPT), f"{scheme}:{run}", "{progress}", "file_seconds=3600", "pause=0.05"]
    )
    attempt = int(process.first_line())
    time.sleep(2.5)
    process.kill()
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(run), str(copy)], check=True)
    assert command.main(["recover", str(copy)]) == 0
    rows = check_records(insight.open_run(f"{scheme}:{copy}").collect())
    assert rows[attempt] >= 10 * ROWS
    (whole,) = (path for path in copy.iterdir() if path.is_file())
    torn = run / whole.name
    torn.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    before = torn.read_bytes()
    assert command.main(["recover", str(run)]) == 0
    assert torn.read_bytes() == before
    assert sum(str(torn) in line and "is left unchanged" in line for line in warnings_logged) == 1
    assert check_records(insight.open_run(f"{scheme}:{run}").collect()) == rows
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


@every_format
@pytest.mark.parametrize("what", ["garbage", "zeros", "nothing", "another run", "other values"])
def test_a_plant_with_our_name_is_not_believed(
    what: str, scheme: str, tmp_path: pathlib.Path
) -> None:
    content = {
        "garbage": b"\x93\x11 no records",
        "zeros": bytes(4096),
        "nothing": b"",
        "another run": file_with(records(0, 20, run="other"), scheme),
        "other values": file_with(records(0, 20, value=0.75), scheme),
    }[what]
    planted = path_of(tmp_path, 0, scheme)
    planted.write_bytes(content)
    recover(tmp_path, scheme, records(0, 20))
    assert planted.read_bytes() == content
    assert names(tmp_path) == [planted.name, path_of(tmp_path, 1, scheme).name]
    found = insight.open_run(f"{scheme}:{tmp_path}").collect()
    ours = found.filter(
        pl.col("run") == "run", pl.col("predict").struct.field("ctr") == pl.lit(0.25)
    )
    assert sorted(ours["position"]) == list(range(20))


@every_format
def test_the_same_plants_meet_the_process_itself(scheme: str, tmp_path: pathlib.Path) -> None:
    """Not only what is recovered: two attempts of one identity, as with a clock that stands."""
    sinks = [parse(f"{scheme}:{tmp_path}").open(ORIGIN) for _ in range(2)]
    for sink, value in zip(sinks, (0.25, 0.75), strict=True):
        for start in (0, 10):
            sink.write(records(start, start + 10, value))
            sink.write(records(start, start + 10, value))  # handed over again
    found = insight.open_run(f"{scheme}:{tmp_path}").collect()
    values = found["predict"].struct.field("ctr").to_list()
    assert sorted(zip(found["position"], values, strict=True)) == [
        (position, value) for position in range(20) for value in (0.25, 0.75)
    ]


@every_format
@pytest.mark.parametrize("owner", [ORIGIN, RECOVERER])
def test_a_prefix_of_our_records_is_left_out(
    owner: Origin, scheme: str, tmp_path: pathlib.Path
) -> None:
    path_of(tmp_path, 0, scheme).write_bytes(file_with(records(0, 7), scheme))
    for _ in range(2):
        parse(f"{scheme}:{tmp_path}").open(owner).write(records(0, 20))
    assert positions(tmp_path, scheme) == list(range(20))
    assert names(tmp_path) == [path_of(tmp_path, n, scheme).name for n in (0, 7)]


@every_format
def test_a_portion_that_begins_in_the_middle_of_a_file(scheme: str, tmp_path: pathlib.Path) -> None:
    """And one that ends in the middle of another."""
    for start, stop in ((0, 10), (10, 20), (30, 40)):
        path_of(tmp_path, start, scheme).write_bytes(file_with(records(start, stop), scheme))
    recover(tmp_path, scheme, records(15, 35), records(35, 50))
    assert positions(tmp_path, scheme) == list(range(50))
    assert names(tmp_path) == [path_of(tmp_path, n, scheme).name for n in (0, 10, 20, 30, 40)]


def test_a_file_of_more_records_than_are_read_at_once(tmp_path: pathlib.Path) -> None:
    """All of them are compared, and the one that is missing is written."""
    path_of(tmp_path, 0, "tfrecord").write_bytes(file_with(records(0, 5_000), "tfrecord"))
    recover(tmp_path, "tfrecord", records(0, 5_001))
    assert positions(tmp_path, "tfrecord") == list(range(5_001))
    assert names(tmp_path) == [path_of(tmp_path, n, "tfrecord").name for n in (0, 5_000)]


def test_blank_lines_are_no_damage(tmp_path: pathlib.Path, warnings_logged: list[str]) -> None:
    """Neither for a sink that compares the file with its records, nor for `open_run`."""
    path_of(tmp_path, 0, "jsonl").write_bytes(b"\n\n")
    recover(tmp_path, "jsonl", records(0, 20))
    assert positions(tmp_path, "jsonl") == list(range(20))
    assert warnings_logged == []


@every_format
def test_records_of_two_schemas_lie_side_by_side(scheme: str, tmp_path: pathlib.Path) -> None:
    """The nearest file may be of the other schema: the search goes on."""
    both = records(0, 30)
    odd = both.filter(pl.col("position") % 2 == 1).drop("extra_str")
    even = both.filter(pl.col("position") % 2 == 0)
    sink = parse(f"{scheme}:{tmp_path}").open(ORIGIN)
    sink.write(even)
    sink.write(odd)
    recover(tmp_path, scheme, even[8:], odd[3:])
    assert positions(tmp_path, scheme) == list(range(30))
    assert len(names(tmp_path)) == 2


@every_format
def test_a_damaged_line_or_checksum(scheme: str, tmp_path: pathlib.Path) -> None:
    """A flipped byte in the middle: what can be read before it is there once."""
    data = bytearray(file_with(records(0, 40), scheme))
    data[len(data) // 2] ^= 0x80
    path_of(tmp_path, 0, scheme).write_bytes(data)
    recover(tmp_path, scheme, records(0, 40))
    frames = []
    for path in tmp_path.iterdir():
        if scheme == "tfrecord":
            frames += _tfrecords_until_damage(path)
        else:
            try:
                frames += insight.open_run(path, "raise").collect()["position"].to_list()
            except (ValueError, pl.exceptions.PolarsError):
                continue
    assert sorted(frames) == list(range(40))


def _tfrecords_until_damage(path: pathlib.Path) -> list[int]:
    import json

    import tensorflow as tf

    found = []
    try:
        for message in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            found.append(json.loads(message)["position"])
    except tf.errors.DataLossError:
        pass
    return found


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "broken link", "no permission"])
def test_no_file_at_all_with_our_name(
    kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is followed, waited for or replaced."""
    run = tmp_path / "run"
    run.mkdir()
    path, target = path_of(run, 0, "jsonl"), tmp_path / "target"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "no permission":
        path.write_bytes(b"")
        path.chmod(0)
    else:
        path.symlink_to(target)
        if kind == "link":
            target.write_bytes(file_with(records(0, 20), "jsonl"))
    before = path.lstat()
    recover(run, "jsonl", records(0, 20))
    assert path.lstat().st_ino == before.st_ino
    assert names(run) == [path.name, path_of(run, 1, "jsonl").name]
    assert target.exists() == (kind == "link")
    assert positions(path_of(run, 1, "jsonl"), "jsonl") == list(range(20))


@every_format
def test_a_link_at_the_name_aside_is_not_followed(scheme: str, tmp_path: pathlib.Path) -> None:
    """Another user knows what the file will be called, and plants links to a file of ours."""
    mine, run = tmp_path / "mine", tmp_path / "run"
    mine.write_text("precious")
    run.mkdir()
    for number in range(3):
        path = path_of(run, number, scheme)
        path.with_name(f".{path.name}.inprogress").symlink_to(mine)
    sink = parse(f"{scheme}:{run}").open(ORIGIN)
    sink.write(records(0, 1))
    sink.write(records(1, 3))
    recover(run, scheme, records(0, 3))
    assert mine.read_text() == "precious"
    visible = [name for name in names(run) if not name.startswith(".")]
    assert visible == [path_of(run, n, scheme).name for n in (0, 1)]


@every_format
def test_modes_are_as_the_umask_says(scheme: str, tmp_path: pathlib.Path) -> None:
    before = os.umask(0o027)
    try:
        parse(f"{scheme}:{tmp_path}/run").open(ORIGIN).write(records(0, 3))
    finally:
        os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o750
    assert path_of(tmp_path / "run", 0, scheme).stat().st_mode & 0o777 == 0o640


@every_format
def test_a_relative_folder_stays_where_it_was(
    scheme: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sink = parse(f"{scheme}:runs/a").open(ORIGIN)
    sink.write(records(0, 3))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sink.write(records(3, 6))
    assert names(tmp_path / "elsewhere") == []
    assert len(names(tmp_path / "runs" / "a")) == 2
    assert repr(sink) == f"{SINKS[scheme].__name__}({str(tmp_path / 'runs' / 'a')!r})"


@every_format
def test_two_processes_write_the_same_records(scheme: str, tmp_path: pathlib.Path) -> None:
    """As where a file system has no locks, and both recover one journal: each record once."""
    code = f"""
        import pathlib, sys, time
        sys.path.insert(0, {str(HELPERS)!r})
        from run_files import RECOVERER, records
        from monolith_keras_metrics.sinks import parse
        folder = pathlib.Path({str(tmp_path)!r})
        sink = parse(f"{scheme}:{{folder / 'run'}}").open(RECOVERER)
        sink.encode(records(0, 1), open(folder / sys.argv[1], "wb"))
        (folder / f"ready-{{sys.argv[1]}}").touch()
        while len(list(folder.glob("ready-*"))) < 2:
            time.sleep(0.0001)
        for start in range(0, 80, 20):
            while True:
                try:
                    sink.write(records(start, start + 20))
                    break
                except OSError:
                    time.sleep(0.01)  # as a delivery does
    """
    processes = [
        warm.Popen(["-c", textwrap.dedent(code), name], stderr=subprocess.PIPE)
        for name in ("a", "b")
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    assert positions(tmp_path / "run", scheme) == list(range(80))
    assert names(tmp_path / "run") == [path_of(tmp_path, n, scheme).name for n in range(0, 80, 20)]


def splits(count: int, cuts: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Any way to cut `count` records into portions, with at most so many cuts."""
    return st.sets(st.integers(1, max(1, count - 1)), max_size=cuts).map(
        lambda cuts: list(
            zip(
                (ends := [0, *sorted(cut for cut in cuts if cut < count), count]),
                ends[1:],
                strict=False,
            )
        )
    )


@st.composite
def situations(draw: st.DrawFn, cuts: int = 6):
    """Files that are there (each complete, torn or missing), garbage, and records to write."""
    count = draw(st.integers(1, 40))
    there = [
        (start, stop, draw(st.sampled_from([None, 0.0, 0.3, 0.7, 0.99, 1.0, 1.0])))
        for start, stop in draw(splits(count, cuts))
    ]
    garbage = draw(st.sets(st.integers(0, count + 1), max_size=4))
    return count, there, garbage, draw(splits(count, cuts)), draw(splits(count, cuts))


def check_situation(scheme: str, situation) -> None:
    count, there, garbage, once, again = situation
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for number in garbage:
            path_of(folder, number, scheme).write_bytes(b"\x00garbage")
        for start, stop, share in there:
            if share is not None:
                data = file_with(records(start, stop), scheme)
                path_of(folder, start, scheme).write_bytes(data[: int(share * len(data))])
        before = {path: path.read_bytes() for path in folder.iterdir()}
        for portions in (once, again):
            sink = parse(f"{scheme}:{folder}").open(RECOVERER)
            for start, stop in portions:
                sink.write(records(start, stop))
            assert positions(folder, scheme) == list(range(count))
        assert {path: path.read_bytes() for path in before} == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("scheme", ["jsonl", "tfrecord"])
@settings(max_examples=60)
@given(situations())
def test_each_record_is_there_once_whatever_is_there_before(scheme: str, situation) -> None:
    check_situation(scheme, situation)


@settings(max_examples=int(os.environ.get("PARQUET_EXAMPLES", "4")))
@given(situations(cuts=2))
def test_each_record_is_there_once_in_parquet(situation) -> None:
    """Fewer and smaller cases: another process reads each file."""
    check_situation("parquet", situation)
