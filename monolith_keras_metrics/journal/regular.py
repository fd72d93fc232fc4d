"""Open files that another user or program may have put there."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import stat
import tempfile
import time
from typing import NamedTuple

# Windows has none of these, and reports user 0 as the owner of every file.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"))


class NotOursError(OSError):
    """A path is not a regular file, or belongs to another user."""


class Probe(NamedTuple):
    """What a file system makes of a new file.

    Attributes:
        uids: Users that own the files of this process. On a network file system, that may be
            another user than the process runs as.
        now: The file system's time, in Unix seconds.
    """

    uids: frozenset[int]
    now: float


def probe(folder: pathlib.Path) -> Probe:
    """Create a temporary file in a folder, and return what the file system made of it."""
    uids, now = {_own_uid()}, time.time()
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
        status = os.fstat(file.fileno())
        uids.add(status.st_uid)
        now = status.st_mtime
    return Probe(frozenset(uids), now)


def open_regular(
    path: pathlib.Path, flags: int = os.O_RDONLY, uids: frozenset[int] = frozenset()
) -> int:
    """Open a file without waiting and without following a link.

    Args:
        path: The path of the file.
        flags: As in `os.open`.
        uids: Users whose files are accepted. Default: this process's user.

    Returns:
        The file descriptor.

    Raises:
        NotOursError: If it is not a regular file of these users.
        OSError: If the file cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | _FLAGS, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV):
            wrong = "it is not a regular file"
        elif error.errno == errno.EACCES and path.parent.is_dir():
            wrong = "there is no permission to open it"
        else:
            raise
        raise NotOursError(error.errno, wrong, str(path)) from None
    status = os.fstat(descriptor)
    wrong = ""
    if not stat.S_ISREG(status.st_mode):
        wrong = "it is not a regular file"
    elif status.st_uid not in (uids or {_own_uid()}):
        wrong = f"it belongs to another user ({status.st_uid})"
    if wrong:
        os.close(descriptor)
        raise NotOursError(errno.EPERM, wrong, str(path))
    return descriptor


def _own_uid() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0
