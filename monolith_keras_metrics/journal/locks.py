"""Lock files for as long as the process lives, so that others can see it.

On Linux these are open file description locks. Whoever may read the file can ask whether they are
held, without taking one. On other systems they are those of `flock`. A platform that has neither
(Windows) takes no locks and sees none. It can still read what other platforms have written.
"""

from __future__ import annotations

import errno
import struct

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

AVAILABLE = fcntl is not None

_FLOCK = "hhqqi0q"  # struct flock of 64-bit Linux: kind, whence, start, length, pid
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS)


class TakenError(Exception):
    """Another process, or another client of this process, holds the lock."""


def take(descriptor: int) -> None:
    """Lock an open file for as long as its descriptor is open.

    Args:
        descriptor: The descriptor of a file that is open for writing.

    Raises:
        TakenError: If another owner has locked the file.
        OSError: If the file system or the platform has no locks.
    """
    if not AVAILABLE:
        raise OSError(errno.ENOLCK, "this platform has no file locks")
    try:
        if not _ask(descriptor, "F_OFD_SETLK"):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise TakenError from None


def is_taken(descriptor: int) -> bool:
    """Return True if an open file is locked; False if its file system has no locks.

    Args:
        descriptor: The descriptor of a file that is open for reading.
    """
    try:
        if answer := _ask(descriptor, "F_OFD_GETLK"):
            return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def _ask(descriptor: int, command: str) -> bytes:
    """Return the kernel's answer; empty if it has no such locks."""
    number = getattr(fcntl, command, None)
    if number is None:
        return b""
    request = struct.pack(_FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0)
    try:
        return fcntl.fcntl(descriptor, number, request)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return b""
        raise
