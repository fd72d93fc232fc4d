"""Makes what is written outlive the machine's power, and gives files their final names."""

from __future__ import annotations

import errno
import os
import pathlib

from absl import logging

# What file systems say that cannot sync a folder: some network and FUSE file systems.
_NO_SYNC = {
    errno.EACCES,
    errno.EBADF,
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
}
# What file systems say that have no hard links, or no more for this file.
_NO_LINKS = {
    errno.EMLINK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EXDEV,
}


def make_durable(path: pathlib.Path) -> None:
    """Write a file's bytes, or a folder's names, to the disk before going on.

    Some file systems refuse to sync a folder. The files in it are synced even so; that their
    names survive a machine that stops is then not promised, and a warning says so once.

    Raises:
        OSError: If the disk fails.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC or not path.is_dir():
            raise
        _warn_once(str(path), os.strerror(error.errno))


def publish(aside: pathlib.Path, final: pathlib.Path) -> None:
    """Give a file its final name without ever replacing another file.

    Where the file system has no hard links, a check and a rename take their place: two processes
    that publish under one name in the same moment can then replace each other's file.

    Raises:
        FileExistsError: If the name is taken, even by a broken link. The file keeps its name.
        OSError: If the file cannot be given its name.
    """
    try:
        os.link(aside, final)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        aside.unlink(missing_ok=True)
        return
    if os.path.lexists(final):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
    aside.rename(final)


_told = False


def _warn_once(folder: str, why: str) -> None:
    global _told
    if not _told:
        _told = True
        logging.warning(
            "Deep insight: the file system of %r does not sync folders (%s). Files are synced, but "
            "a machine that stops may lose the names of the newest ones. This is said once",
            folder,
            why,
        )
