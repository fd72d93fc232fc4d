"""Processes that begin with TensorFlow and Keras imported, which costs each other 8 s of a core.

A server imports them, uses nothing of them, and forks for each script that it is to run. The fork
runs the script as `__main__`, and ends as any interpreter does.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import pathlib
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from typing import IO, Any


class Popen:
    """What tests use of `subprocess.Popen[str]`.

    Args:
        command: A script and its arguments, or `"-c"`, a program and its arguments.
        env: The environment; default: this process's.
        cwd: The working directory; default: this process's.
        stdin: As for `subprocess.Popen`, as are `stdout` and `stderr`.
    """

    def __init__(
        self,
        command: list[str],
        *,
        env: dict[str, str] | None = None,
        cwd: pathlib.Path | None = None,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        self.args = command
        self.returncode: int | None = None
        self.output = self.errors = ""  # set by `run`
        self._at_end: list[int] = []  # the child's ends of pipes
        self.stdin = self._pipe(1) if stdin == subprocess.PIPE else None
        inputs = self._at_end[-1] if self.stdin else 0
        self.stdout = self._pipe(0) if stdout == subprocess.PIPE else None
        outputs = self._at_end[-1] if self.stdout else 1
        self.stderr = self._pipe(0) if stderr == subprocess.PIPE else None
        errors = self._at_end[-1] if self.stderr else 2
        if stderr == subprocess.STDOUT:
            errors = outputs
        elif stderr == subprocess.DEVNULL:
            self._at_end.append(errors := os.open(os.devnull, os.O_WRONLY))
        self._status = self._pipe(0)
        request = {
            "argv": command,
            "env": env or dict(os.environ),
            "cwd": str(cwd or pathlib.Path.cwd()),
        }
        socket.send_fds(
            _server(), [json.dumps(request).encode()], [inputs, outputs, errors, self._at_end[-1]]
        )
        for descriptor in self._at_end:
            os.close(descriptor)
        self.pid = int(self._status.readline())

    def _pipe(self, own_end: int) -> IO[str]:
        """Make a pipe; return this process's end of it."""
        ends = os.pipe()
        self._at_end.append(ends[1 - own_end])
        return open(ends[own_end], "rw"[own_end], encoding="utf-8", errors="replace")

    def poll(self) -> int | None:
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        """Return the exit status as `subprocess` gives it; None if it does not end in time."""
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            with self._status:
                self.returncode = int(self._status.readline())
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read all output and wait for the end."""
        deadline = None if timeout is None else time.monotonic() + timeout
        texts = ["", ""]

        def read(number: int, stream: IO[str]) -> None:
            with stream:
                texts[number] = stream.read()

        if self.stdin is not None:
            self.stdin.close()
        readers = [
            threading.Thread(target=read, args=(number, stream), daemon=True)
            for number, stream in enumerate((self.stdout, self.stderr))
            if stream is not None and not stream.closed
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if any(reader.is_alive() for reader in readers):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def run(command: list[str], timeout: float = 300, **options: Any) -> Popen:
    """Return a process that has ended, what it printed in `output` and `errors`."""
    process = Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    try:
        process.output, process.errors = process.communicate(timeout)
    finally:
        process.kill()
    return process


@functools.cache
def _server() -> socket.socket:
    """Return the connection to this process's server, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
    )
    theirs.close()

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait()

    return ours


def _serve(control: socket.socket) -> dict[str, Any]:
    """Fork for each request; return in a fork what it is to run."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies of what watches a fork
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 4)
        if not message:  # nobody can ask any more
            os._exit(0)
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
    control.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *standard, status = descriptors
    if pid := os.fork():
        for descriptor in standard:
            os.close(descriptor)
        os.write(status, f"{pid}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(status, f"{code}\n".encode())
        os._exit(0)
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.close(status)
    request: dict[str, Any] = json.loads(message)
    return request


if __name__ == "__main__":
    import keras  # noqa: F401
    import tensorflow as tf  # noqa: F401

    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    random.seed()
    warnings.filterwarnings("error", category=DeprecationWarning, module="__main__")
    first, *sys.argv = asked["argv"]
    if first == "-c":
        source, __file__ = sys.argv[0], "<string>"
    else:
        source, __file__ = pathlib.Path(first).read_text(encoding="utf-8"), first
        sys.argv.insert(0, first)
        sys.path[0] = str(pathlib.Path(first).parent)
    exec(compile(source, __file__, "exec"))
