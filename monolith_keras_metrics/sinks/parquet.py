"""Records as Parquet files with nested columns, the default format."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import BinaryIO

import polars as pl

from monolith_keras_metrics.sinks import parquet_messages
from monolith_keras_metrics.sinks.part_contents import DamagedError, split_lines
from monolith_keras_metrics.sinks.part_files import PartFileSink

_DAMAGED = {parquet_messages.DAMAGED, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGSEGV}
_SMALLEST = 12  # bytes: the magic bytes at both ends, and the footer's size


class ParquetSink(PartFileSink):
    """A sink that writes compressed `*.parquet` files, with nested columns such as `label`."""

    suffix = "parquet"

    def encode(self, frame: pl.DataFrame, file: BinaryIO) -> None:
        """Write the frame to the file."""
        # Level 1 and no statistics halve the time and cost 2% of the space (measured).
        frame.write_parquet(file, compression="zstd", compression_level=1, statistics=False)

    def decode(self, file: BinaryIO) -> Iterator[list[bytes]]:
        """Yield the file's records as messages.

        Another process reads it, since Polars aborts the process for some damaged files.
        """
        _check_ends(file)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
            "POLARS_MAX_THREADS": "1",
        }
        with subprocess.Popen(  # noqa: S603 (our own module)
            [sys.executable, "-m", parquet_messages.__name__],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        ) as reader:
            try:
                assert reader.stdout is not None
                assert reader.stderr is not None
                for lines, _ in split_lines(reader.stdout):
                    yield lines
                why = reader.stderr.read().decode(errors="replace").strip()
            except BaseException:
                reader.kill()
                raise
        if reader.returncode in _DAMAGED:
            raise DamagedError(f"it is corrupt: {why.partition(chr(10))[0]}")
        if reader.returncode:
            raise OSError(f"A Parquet file could not be read and will be tried again: {why[-500:]}")


def _check_ends(file: BinaryIO) -> None:
    """Raise `DamagedError` for most files that are not Parquet, without starting a process."""
    size = file.seek(0, os.SEEK_END)
    ends = os.pread(file.fileno(), 4, 0), os.pread(file.fileno(), 4, max(0, size - 4))
    file.seek(0)
    if size < _SMALLEST or ends != (b"PAR1", b"PAR1"):
        raise DamagedError("it is not a complete Parquet file")
