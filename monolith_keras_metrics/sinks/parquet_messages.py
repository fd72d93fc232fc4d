"""The process that reads Parquet files of unknown origin.

The file is the standard input. The standard output gets one JSON message per line.
"""

from __future__ import annotations

import contextlib
import sys

import polars as pl

from monolith_keras_metrics.sinks.errors import may_pass

DAMAGED = 3
_MOST_MEMORY = 8 << 30


def main() -> int:
    """Print the records. Return 0, `DAMAGED`, or 1 if reading may work later."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    try:
        frame = pl.read_parquet(sys.stdin.buffer)
        for piece in frame.iter_slices(8_192):
            piece.write_ndjson(sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except (Exception, pl.exceptions.PanicException) as error:
        sys.stderr.write(str(error)[:1_000])
        return 1 if may_pass(error) else DAMAGED
    return 0


if __name__ == "__main__":
    sys.exit(main())
