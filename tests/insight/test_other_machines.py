"""Reading where nothing trains: without TensorFlow, and on platforms without POSIX."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

MESSAGE = (
    '{"uid": 7, "req_time": 60, "label": {"ctr": 1.0}, "predict": {"ctr": 0.75}, "epoch": 0,'
    ' "run": "r", "attempt": 1790000000000000, "worker": 0, "position": 0}\n'
)
# What such a platform does not have; and what `pip install --no-deps` does not bring.
WITHOUT_POSIX = """
import os, sys
sys.modules.update(dict.fromkeys(["fcntl", "resource", "pwd", "grp", "termios"]))
for name in ("geteuid", "getuid", "fork", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
    delattr(os, name)
"""
WITHOUT_OTHERS = """
import sys
others = ["tensorflow", "keras", "tf_keras", "pandas", "pyarrow", "scipy", "sklearn", "hypothesis"]
sys.modules.update(dict.fromkeys(others + ["confluent_kafka", "matplotlib"]))
"""
READ = """
from monolith_keras_metrics import insight
records = insight.open_run(sys.argv[1])
print(insight.summary(records).select("target", "examples", "mean_prediction").rows())
print(insight.long_form(records).collect().height, insight.auc([0, 1], [0.5, 0.5]))
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose journal holds records of a process that crashed."""
    (tmp_path / "worker-00000.jsonl").write_text(MESSAGE)
    spool = tmp_path / ".spool"
    spool.mkdir()
    stem = "worker-00000.attempt-1790000000000000"
    for name in (f"{stem}.lock", f"{stem}.000000.journal"):
        (spool / name).write_bytes(b"")
        os.utime(spool / name, (0, time.time() - 3600))
    return tmp_path


def read(run: Path, code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code + READ, str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[('ctr', 1, 0.75)]\n1 0.5\n"
    return done


def test_with_nothing_but_polars_and_numpy(run: Path) -> None:
    done = read(run, WITHOUT_OTHERS)
    assert "deep-insight recover" in done.stderr


def test_what_needs_scipy_says_so(run: Path) -> None:
    for options in ("interval=0.95", "measures='miscalibration'"):
        code = f"""
{WITHOUT_OTHERS}
from monolith_keras_metrics import insight
try:
    insight.summary(insight.open_run({str(run)!r}), {options})
except ImportError as error:
    print(error)
"""
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "needs SciPy. Install it with: pip install 'monolith-keras-metrics[insight]'" in (
            done.stdout
        )


@pytest.mark.slow
def test_without_posix(run: Path) -> None:
    """A crashed process's journal is told by the time of its lock, which the living renew."""
    done = read(run, WITHOUT_OTHERS + WITHOUT_POSIX)
    assert "deep-insight recover" in done.stderr
    os.utime(next(run.glob(".spool/*.lock")))
    assert "recover" not in read(run, WITHOUT_OTHERS + WITHOUT_POSIX).stderr


def test_locks_without_posix_are_an_error_that_says_so() -> None:
    """Training goes on without a journal then, as on a file system without locks."""
    code = (
        WITHOUT_POSIX
        + """
from monolith_keras_metrics.journal import locks
try:
    locks.take(0)
except OSError as error:
    print(error)
"""
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "this platform has no file locks" in done.stdout
