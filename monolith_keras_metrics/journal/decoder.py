"""Decode the journal files of crashed processes in a child process.

A malicious or damaged journal file can make the library that reads it abort or use all memory. So
the files of crashed processes are decoded by a child process with a memory limit. If the child
dies, the file is set aside, and training goes on.

A request to the child is a line of JSON. The answer is a letter, the length of the body in 8 bytes,
and the body: records as an Arrow IPC file, or a description of the error.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import resource
import select
import struct
import subprocess
import sys
import threading
import time
from typing import Any

import polars as pl

from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.claims import Claim
from monolith_keras_metrics.journal.segment import KeptFile, Place

_MEMORY_BYTES = 1 << 30  # in addition to the child's memory at its start
_ANSWER_SECONDS = 20.0
_ANSWER = struct.Struct("<cQ")
_RECORDS, _UNREADABLE, _FAILED = b"r", b"u", b"f"
_MOST_ANSWER_BYTES = 1 << 30
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from monolith_keras_metrics.journal.decoder import serve; serve()"
)


class Decoder:
    """Read entries of the journal files of crashed processes."""

    def __init__(self) -> None:
        self._path = [os.path.abspath(entry) for entry in sys.path]
        self._lock = threading.Lock()  # one request at a time
        self._child: subprocess.Popen[bytes] | None = None

    def read(self, place: Place) -> pl.DataFrame:
        """Return the records of an entry.

        Raises:
            UnreadableError: If the entry does not hold valid records, if they are of another worker
                or attempt than the file, or if decoding takes too much time or memory.
            OSError: If the file cannot be read now.
        """
        request = {
            "path": os.fspath(place.file.path),
            "stem": place.file.claim.stem,
            "uids": sorted(place.file.claim.uids),
            "offset": place.offset,
            "length": place.length,
            "rows": place.rows,
            "position": place.position,
            "checksum": place.checksum,
        }
        with self._lock:
            try:
                kind, answer = self._ask(request)
            except journal.UnreadableError:
                # Once more in a new child, since the file may not be the cause.
                kind, answer = self._ask(request)
        if kind == _RECORDS:
            return pl.read_ipc(io.BytesIO(answer))
        problem = json.loads(bytes(answer))
        if kind == _UNREADABLE:
            raise journal.UnreadableError(problem["text"])
        raise OSError(problem["errno"], problem["text"], os.fspath(place.file.path))

    def close(self) -> None:
        """End the child process."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()

    def detach(self) -> None:
        """Close the pipes to the parent's child process. Called in a forked process."""
        child, self._child = self._child, None
        if child is not None and child.stdin is not None and child.stdout is not None:
            child.stdin.close()
            child.stdout.close()
            child.returncode = 0  # only the parent can wait for it

    def _ask(self, request: dict[str, Any]) -> tuple[bytes, memoryview]:
        child = self._child
        if child is None or child.poll() is not None:
            child = self._child = self._start()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            deadline = time.monotonic() + _ANSWER_SECONDS
            kind, size = _ANSWER.unpack(self._receive(child, _ANSWER.size, deadline))
            if size > _MOST_ANSWER_BYTES:
                raise EOFError
            return kind, self._receive(child, size, deadline)
        except (EOFError, BrokenPipeError):
            self.close()
            raise journal.UnreadableError("it cannot be decoded") from None

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 (our own program)
                [sys.executable, "-c", _PROGRAM, json.dumps(self._path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "POLARS_MAX_THREADS": "1", "RUST_BACKTRACE": "0"},
                start_new_session=True,  # keeps signals to the training's group from the child
            )
        except OSError as error:
            # Without its errno, which would mean that the journal file is missing.
            raise OSError(f"cannot start a process to decode records: {error}") from error

    def _receive(self, child: subprocess.Popen[bytes], size: int, deadline: float) -> memoryview:
        assert child.stdout is not None
        descriptor = child.stdout.fileno()
        data = bytearray(size)
        view = memoryview(data)
        ready = select.poll()
        ready.register(descriptor, select.POLLIN)
        while view:
            left = deadline - time.monotonic()
            if left <= 0 or not ready.poll(1000 * left):
                raise EOFError
            count = os.readv(descriptor, [view])
            if not count:
                raise EOFError
            view = view[count:]
        return memoryview(data)


def serve() -> None:
    """Answer requests until the input ends. Runs in the child process."""
    _bound_memory()
    answers = os.fdopen(os.dup(1), "wb")
    for line in sys.stdin.buffer:
        kind, answer = _answer(json.loads(line))
        answers.write(_ANSWER.pack(kind, len(answer)))
        answers.write(answer)
        answers.flush()


def _answer(request: dict[str, Any]) -> tuple[bytes, bytes | memoryview]:
    try:
        frame = journal.read_untrusted(_place_of(**request))
    except journal.UnreadableError as error:
        return _UNREADABLE, json.dumps({"text": str(error)}).encode()
    except OSError as error:
        problem = {"errno": error.errno or 0, "text": error.strerror or str(error)}
        return _FAILED, json.dumps(problem).encode()
    file = io.BytesIO()
    frame.write_ipc(file)
    return _RECORDS, file.getbuffer()


def _place_of(path: str, stem: str, uids: list[int], **numbers: int) -> Place:
    """Return the place that a request describes."""
    file = pathlib.Path(path)
    claim = Claim(file.parent, stem, "", uids=frozenset(uids))
    return Place(KeptFile(claim, file), **numbers)


def _bound_memory() -> None:
    with contextlib.suppress(OSError, ValueError):
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        bound = pages * resource.getpagesize() + _MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
