"""`deep-insight watch` as a process: killed at random moments, signalled, started by two."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from waiting import wait_until
from watching import START, records, write
from webhooks import Hook

from monolith_keras_metrics import insight

pytestmark = [pytest.mark.slow, pytest.mark.system]

KILLS = int(os.environ.get("KILLS_OF_WATCH", "4"))  # CI's time is bounded; the docs have 50
_MAIN = "import sys; from monolith_keras_metrics.command import main; sys.exit(main())"
_COMMAND = [sys.executable, "-c", _MAIN, "watch"]
_OPTIONS = ["--window", "1m", "--by", "country", "--lateness", "0s"]


def started(run: pathlib.Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*_COMMAND, str(run), *_OPTIONS, *options],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_random_kills(tmp_path: pathlib.Path) -> None:
    """Each window is published exactly once, with the measures that `summary` gives."""
    random = np.random.default_rng(KILLS)
    run, board = tmp_path / "run", tmp_path / "board"
    run.mkdir()
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nrule = "0.9 <= calibration <= 1.1"\n')
    places = ["--to", f"tensorboard:{board}", "--to", f"prometheus:{tmp_path}/watch.prom"]
    hook = Hook()
    places += ["--to", f"webhook+windows:{hook.url}", "--rules", str(rules)]
    minutes = 0
    for _ in range(KILLS):
        process = started(run, *places)
        until = time.monotonic() + random.uniform(0.5, 3.5)
        while time.monotonic() < until:  # training writes meanwhile
            write(run, records(START + 60 * minutes, 60, minutes), minutes, age=200)
            minutes += 1
            time.sleep(random.uniform(0.0, 0.4))
        process.kill()
        process.communicate(timeout=60)
    last = started(run, *places, "--once", "--final")
    _, errors = last.communicate(timeout=300)
    hook.close()
    assert last.returncode == 0, errors
    starts = {
        key: body["window"]["start"]
        for key, _, _, body in hook.received
        if body["kind"] == "window"
    }
    assert minutes > 3 * KILLS
    expected = insight.summary(insight.open_run(run), window="1m", measures=["calibration"])
    expected = expected.filter(target="ctr").sort("window")
    seen = EventAccumulator(str(board / "deep_insight"), size_guidance={"scalars": 0}).Reload()
    events = seen.Scalars("calibration/ctr")
    assert [event.wall_time for event in events] == [
        START + 60.0 * minute for minute in range(1, minutes + 1)
    ]
    np.testing.assert_allclose(
        [event.value for event in events], expected["calibration"].to_numpy(), rtol=1e-6
    )
    # A webhook may be called twice, with the same key.
    assert sorted(starts.values()) == [START + 60 * minute for minute in range(minutes)]
    print(f"\n{KILLS} kills: {minutes} windows, each published once")


def test_a_signal_ends_it_and_it_goes_on(tmp_path: pathlib.Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    board = tmp_path / "board"
    for minute in range(5):
        write(run, records(START + 60 * minute, 60, minute), minute, age=200)
    process = started(run, "--to", f"tensorboard:{board}")
    file = board / "deep_insight"
    wait_until(lambda: file.exists() and any(file.iterdir()))
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "2023-11-15 00:00 to 00:01 ctr: 200 examples" in output
    assert "windows still open: 1" in errors
    write(run, records(START + 300, 60, 5), 5)
    last = started(run, "--to", f"tensorboard:{board}", "--once", "--final")
    output, errors = last.communicate(timeout=60)
    assert last.returncode == 0, errors
    events = EventAccumulator(str(file)).Reload().Scalars("auc/ctr")
    assert [event.wall_time for event in events] == [START + 60.0 * at for at in range(1, 7)]


def test_what_the_command_says_of_mistakes(tmp_path: pathlib.Path) -> None:
    write(tmp_path, records(START, 60, 1), 0)
    for options, text in (
        (["--to", "nowhere:x"], "tensorboard:DIR"),
        (["--rules", str(tmp_path / "none.toml")], "none.toml"),
        (["--window", "1x"], "`window` must be a length of time"),
    ):
        done = subprocess.run(
            [*_COMMAND, str(tmp_path), "--once", *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 2
        assert text in done.stderr
        assert "Traceback" not in done.stderr
