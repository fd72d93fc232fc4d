"""`deep-insight serve` in its own process, and requests to it without a browser."""

from __future__ import annotations

import http.client
import pathlib
import signal
import subprocess
import sys
import urllib.parse
from typing import NamedTuple

_MAIN = "import sys; from monolith_keras_metrics import command; sys.exit(command.main())"


class Answer(NamedTuple):
    """An answer of a server: its status, its headers by names in lower case, and its text."""

    status: int
    headers: dict[str, str]
    text: str


class RealServer:
    """Serve the page of a run.

    Args:
        run: The run's folder.
        *options: Further ones of the command.
        first: A program that its process runs first.
    """

    def __init__(self, run: pathlib.Path, *options: str, first: str = "") -> None:
        self._run = run
        self._program = f"{first}\n{_MAIN}"
        self._options = options
        self.port = 0
        self.address = ""

    @property
    def url(self) -> str:
        """Return where it is, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, where it was before, and wait until it can be reached."""
        command = ["serve", str(self._run), "--port", str(self.port), *self._options]
        self.process = subprocess.Popen(
            [sys.executable, "-c", self._program, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.address = self.process.stdout.readline().strip()
        assert self.address, self.process.stderr.read()
        self.port = urllib.parse.urlsplit(self.address).port

    def stop(self) -> str:
        """Interrupt it, as Ctrl+C does, and return what it has said of errors."""
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=60)
        return errors

    def get(self, path: str = "/", **headers: str) -> Answer:
        """Ask for a path, with these headers; `_` stands for `-` in their names."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request("GET", path, headers=named)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        finally:
            connection.close()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, text)
