"""What is written outlives the machine's power."""

from __future__ import annotations

import os
import pathlib


def make_durable(path: pathlib.Path) -> None:
    """Has the system write a file's bytes, or a folder's names, to the disk before going on.

    Raises:
        OSError: If it cannot.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
