"""A second signal, to real processes with much that waits: what was accepted is in the journal."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time

import pytest
from places import HELPERS
from writing import ROWS, check_records, read_whole

from monolith_keras_metrics.pipeline import recovery

pytestmark = pytest.mark.slow

_SCRIPT = HELPERS / "signalled.py"


class Signalled:
    """A process that runs `signalled.py`, with a backlog."""

    def __init__(self, folder: pathlib.Path, fault: str) -> None:
        self.run, self._progress = folder / "run", folder / "progress"
        self.process = subprocess.Popen(
            [sys.executable, str(_SCRIPT), str(self.run), str(self._progress), fault],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.wait_for("ready")

    def wait_for(self, line: str) -> None:
        assert self.process.stdout is not None
        told = self.process.stdout.readline()
        assert told == f"{line}\n", (told, self.process.communicate()[1])

    def end(self, timeout: float) -> float:
        """Waits for the end; returns how many seconds it took."""
        before = time.monotonic()
        try:
            self.process.communicate(timeout=timeout)
        finally:
            self.process.kill()
        return time.monotonic() - before

    def recovered(self) -> int:
        """How many records there are after `recover`, whole, each once, without a gap."""
        recovery.recover(self.run)
        (rows,) = check_records(read_whole(self.run)).values()
        return rows

    def check_nothing_lost(self) -> None:
        """The signal may come between a `write` and the count of it."""
        accepted = int(self._progress.read_text())
        assert accepted > 1500 * ROWS
        assert 0 <= self.recovered() - accepted <= ROWS


@pytest.mark.parametrize("second", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("run", range(3))
def test_two_signals_within_a_moment_lose_nothing(
    second: str, run: int, tmp_path: pathlib.Path
) -> None:
    """As by a supervisor that signals the group and the process, and systemd's SendSIGHUP."""
    process = Signalled(tmp_path, "slow")
    process.process.terminate()
    time.sleep(0.01 * run)
    process.process.send_signal(getattr(signal, second))
    process.end(60)
    # Both may be there before Python looks: it then calls the handlers in the order of the numbers.
    assert process.process.returncode in {signal.SIGTERM, getattr(signal, second)}
    process.check_nothing_lost()


def test_a_later_signal_while_a_sink_hangs_loses_nothing(tmp_path: pathlib.Path) -> None:
    process = Signalled(tmp_path, "hang")
    process.process.terminate()
    process.wait_for("closing")
    time.sleep(1.5)
    process.process.terminate()
    assert process.end(30) < 8.0
    assert process.process.returncode == signal.SIGTERM
    process.check_nothing_lost()


def test_a_later_signal_while_the_disk_hangs_ends_the_process(tmp_path: pathlib.Path) -> None:
    """What the disk did not take is lost; what it has is whole."""
    process = Signalled(tmp_path, "hung disk")
    process.process.terminate()
    process.wait_for("closing")
    time.sleep(1.5)
    process.process.terminate()
    assert process.end(30) < 8.0
    assert process.process.returncode == signal.SIGTERM
    assert process.recovered() > 0
