"""Items in wandb's own files, offline; the process that writes them is killed."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from told import HOUR, NINE, alert, window

pytest.importorskip("wandb", reason="wandb is not installed")

from wandb.proto.wandb_internal_pb2 import Record

from monolith_keras_metrics.insight.items import Series
from monolith_keras_metrics.insight.publish import wandb_files
from monolith_keras_metrics.insight.publish.to_wandb import END, Wandb

pytestmark = pytest.mark.slow

HELPERS = pathlib.Path(__file__).parents[1] / "helpers"


@pytest.fixture(autouse=True)
def _offline(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for name in ("CONFIG_DIR", "CACHE_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "wandb-own"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.glob("wandb/offline-run-*/run-ctr.wandb"))


def rows(folder: pathlib.Path) -> list[tuple[int, dict[str, Any]]]:
    """The step and the columns of each row of the run's history."""
    found = []
    for path in files(folder):
        for record in wandb_files.History(path)._records():
            message = Record.FromString(record)
            if message.WhichOneof("record_type") == "history":
                columns = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in message.history.item
                }
                found.append((message.history.step.num, columns))
    return found


def own(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in columns.items() if not name.startswith("_")}


CHILD = """
import os, signal, sys
sys.path.append({helpers!r})
from told import alert, window
from monolith_keras_metrics.insight.publish import publisher_of
publisher = publisher_of("wandb:ctr", "r")
for number in {numbers}:
    publisher.publish(window(number), {maybe_there})
    print(number, flush=True)
if {killed}:
    publisher._active.log({{"auc/click": 0.0}}, step=99, commit=True)  # and not waited for
    os.kill(os.getpid(), signal.SIGKILL)
publisher.close()
assert "tensorflow" not in sys.modules
"""


def run(
    numbers: list[int], *, maybe_there: bool = False, killed: bool = False, fails: bool = False
) -> str:
    """Publishes windows in a process of its own; returns what it prints."""
    status = -signal.SIGKILL if killed else int(fails)
    code = CHILD.format(
        helpers=str(HELPERS), numbers=numbers, maybe_there=maybe_there, killed=killed
    )
    return run_code(code, status)


def run_code(code: str, status: int = 0) -> str:
    # A service of its own, not that which this process has started.
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=own,
    )
    assert done.returncode == status, done.stderr
    return done.stderr if status == 1 else done.stdout


@pytest.fixture
def publisher() -> Iterator[Wandb]:
    made = Wandb("ctr")
    yield made
    made.close()


def test_windows_and_alerts(tmp_path: pathlib.Path, publisher: Wandb) -> None:
    assert publisher.identity == "wandb:/deep-insight/ctr"
    slices = [Series("click", "place", value, {"auc": 0.75}) for value in ("a/b", None)]
    for item in (window(1), alert(2), window(3, *slices, late=7), alert(4, "resolved")):
        publisher.publish(item, False)
        assert rows(tmp_path)[-1][0] == item.number  # on the disk already
    for maybe_there in (False, True):
        publisher.publish(window(3), maybe_there)
    found = rows(tmp_path)
    assert [step for step, _ in found] == [1, 2, 3, 4]
    assert [columns["_timestamp"] for _, columns in found] == [
        NINE + number * HOUR for number in (1, 2, 3, 4)
    ]
    assert [own(columns) for _, columns in found] == [
        {
            "auc/click": 0.5 + 1 / 1024,
            "auc by country/click/US": 0.25 + 1 / 1024,
            "calibration by country/click/US": 1.0,
            "late records": 0.0,
            END: NINE + HOUR,
        },
        {
            "alerts/too sure/click/US": 1.0,
            "alerts/too sure/click/US/text": f"firing: {alert(2).text}",
            END: NINE + 2 * HOUR,
        },
        {
            "auc by place/click/a∕b": 0.75,  # noqa: RUF001
            "auc by place/click/(none)": 0.75,
            "late records": 7.0,
            END: NINE + 3 * HOUR,
        },
        {
            "alerts/too sure/click/US": 0.0,
            "alerts/too sure/click/US/text": f"resolved: {alert(4).text}",
            END: NINE + 4 * HOUR,
        },
    ]


def test_a_kill_loses_nothing_and_doubles_nothing(tmp_path: pathlib.Path) -> None:
    run([1, 2], killed=True)
    assert [step for step, _ in rows(tmp_path) if step != 99] == [1, 2]
    run([2, 3], maybe_there=True, killed=True)
    run([3, 4], maybe_there=True)
    assert [step for step, _ in rows(tmp_path) if step != 99] == [1, 2, 3, 4]
    assert len(files(tmp_path)) == 3
    # What a kill in the middle of a write leaves: the last item is published again.
    last = files(tmp_path)[-1]
    size = next(
        size
        for size in range(last.stat().st_size, 0, -1)
        if 4 not in wandb_files.History(_cut(last, size, tmp_path))
    )
    last.write_bytes(last.read_bytes()[:size])
    run([4], maybe_there=True)
    assert [step for step, _ in rows(tmp_path) if step != 99] == [1, 2, 3, 4]


def _cut(path: pathlib.Path, size: int, folder: pathlib.Path) -> pathlib.Path:
    cut = folder / "cut"
    cut.write_bytes(path.read_bytes()[:size])
    return cut


FULL = """
import os, pathlib, sys
sys.path.append({helpers!r})
from told import Series, window
from monolith_keras_metrics.insight.publish import publisher_of, to_wandb
to_wandb._WAIT_SECONDS = 2.0
publisher = publisher_of("wandb:ctr", "r")
publisher.publish(window(1), False)
filler = pathlib.Path({filler!r})
with open(filler, "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(1_000))
    except OSError:
        pass
big = window(2, *(Series("click", "n", str(n), dict(auc=0.5)) for n in range(3_000)))
for attempt in range(2):
    try:
        publisher.publish(big, attempt > 0)
    except OSError:  # a TimeoutError is one
        print("full")
filler.unlink()
publisher.publish(big, True)
publisher.publish(window(3), False)
publisher.close()
"""


def test_a_full_disk(small_disk: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", str(small_disk))
    code = FULL.format(helpers=str(HELPERS), filler=str(small_disk / "filler"))
    assert run_code(code).split().count("full") == 2
    assert [step for step, _ in rows(small_disk)] == [1, 2, 3]


def test_rows_of_many_blocks(tmp_path: pathlib.Path, publisher: Wandb) -> None:
    series = [Series("click", "item", str(n), {"auc": n / 4096}) for n in range(2_500)]
    for number in range(1, 6):
        publisher.publish(window(number, *series), False)
    publisher.close()
    assert files(tmp_path)[0].stat().st_size > 5 * 32_768
    found = rows(tmp_path)
    assert [step for step, _ in found] == [1, 2, 3, 4, 5]
    assert found[4][1]["auc by item/click/2499"] == 2_499 / 4096


@pytest.mark.parametrize("rest", range(10))
def test_a_block_that_ends_with_little_room(tmp_path: pathlib.Path, rest: int) -> None:
    """Written by hand, as LevelDB's documentation has it: kinds 1 full, 2 first, 4 last."""
    row = Record()
    row.history.step.num = 7
    filler = Record()
    filler.output_raw.line = "x" * (32_768 - 7 - 7 - rest - 8)
    assert filler.ByteSize() == 32_768 - 7 - 7 - rest
    data = b":W&B...."[:7] + _piece(filler.SerializeToString(), 1)
    message = row.SerializeToString()
    if rest < 7:
        data += bytes(rest) + _piece(message, 1)
    else:
        data += _piece(message[: rest - 7], 2) + _piece(message[rest - 7 :], 4)
    path = tmp_path / "run.wandb"
    history = wandb_files.History(path)
    for size in (7, 1_000, len(data) - 1):  # it grows
        path.write_bytes(data[:size])
        assert 7 not in history
    path.write_bytes(data)
    assert 7 in history


def _piece(data: bytes, kind: int) -> bytes:
    return struct.pack("<IHB", 0, len(data), kind) + data


def test_a_disabled_wandb_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert "wandb is disabled; set WANDB_MODE" in run([1], fails=True)


@pytest.mark.parametrize("name", ["", "a b", "a#b", "a" * 129])
def test_a_name_that_cannot_be_an_id(name: str) -> None:
    with pytest.raises(ValueError, match="The name of a run in wandb"):
        Wandb(name)
