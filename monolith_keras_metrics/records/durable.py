"""Files that survive a power failure, and their publication under final names."""

from __future__ import annotations

import errno
import os
import pathlib

from absl import logging

_NOT_SUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
# Errors of file systems that cannot sync a folder, such as some network and FUSE file systems.
_NO_SYNC = {*_NOT_SUPPORTED, errno.EACCES, errno.EBADF, errno.EINVAL}
# Errors of file systems that have no hard links, or no more for this file.
_NO_LINKS = {*_NOT_SUPPORTED, errno.EMLINK, errno.EPERM, errno.EXDEV}


def make_durable(path: pathlib.Path) -> None:
    """Sync a file's bytes, or a folder's names, to the disk.

    Some file systems refuse to sync a folder. Its files are still synced, but their names may be
    lost if the machine fails. This is logged once.

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
        logging.log_first_n(
            logging.WARNING,
            "Deep insight: the file system of %r cannot sync folders (%s). Files are synced, but "
            "the names of the newest ones may be lost if the machine fails. This is logged once",
            1,
            str(path),
            os.strerror(error.errno),
        )


def publish(aside: pathlib.Path, final: pathlib.Path) -> None:
    """Give a file its final name, and never replace another file.

    On a file system without hard links, the name is checked and the file renamed. Two processes
    that publish under one name at the same moment can then replace each other's file.

    Raises:
        FileExistsError: If the name is taken, even by a broken link. The file keeps its old name.
        OSError: If the file cannot be given its name.
    """
    try:
        os.link(aside, final)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from None
        aside.rename(final)
    else:
        aside.unlink(missing_ok=True)
