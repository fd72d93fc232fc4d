"""Processes that are killed, and what must be there of what they had accepted."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time

import warm


class Killed:
    """A process that adds to a file how far it is, and is killed; knows what must be there then."""

    def __init__(self, folder: pathlib.Path, command: list[str], tensorflow: bool = False) -> None:
        self._progress = folder / f"progress-{time.monotonic_ns()}"
        words = [word.format(progress=self._progress) for word in command]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process: warm.Popen | subprocess.Popen[str] = (
            warm.Popen(words, **pipes)
            if tensorflow
            else subprocess.Popen([sys.executable, *words], text=True, **pipes)
        )
        self.accepted: list[tuple[float, int]] = []
        self.at_risk: list[float] = []

    def first_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.at = time.monotonic()
        self.process.communicate()
        if self._progress.exists():
            lines = [line.split() for line in self._progress.read_text().splitlines()]
            self.accepted = [(float(at), int(rows)) for at, rows, *_ in lines]
            self.at_risk = [float(line[2]) for line in lines if len(line) > 2]

    def promised(self) -> float:
        """For how many seconds what is lost may have been accepted: `flush_seconds`, or what
        `stats` said, and as much again for a machine whose cores are all busy.
        """
        return 1.0 + max([1.0, *self.at_risk[-1:]])

    def oldest_lost(self, rows: int) -> float:
        """For how many seconds, at the kill, the oldest example had been accepted that is lost."""
        lost = [at for at, accepted in self.accepted if accepted > rows]
        return self.at - lost[0] if lost else 0.0
