"""The names of the files in a run's folder: who wrote them, and from which record on.

A file is called `worker-W.attempt-A.part-N.SUFFIX`. While it is being written it stands aside,
under a hidden name with its writer's random token: `.NAME.TOKEN.inprogress`.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import time

_STALE_SECONDS = 86_400
# Earlier versions had no token.
_ASIDE = re.compile(
    r"\.(worker-\d{5,}\.attempt-\d{16,})\.part-\d{12,}\.\w+?(?:\.[0-9a-f]+)?\.inprogress"
)


def final_path(folder: pathlib.Path, stem: str, number: int, suffix: str) -> pathlib.Path:
    """Return the path of a complete file."""
    return folder / f"{stem}.part-{number:012d}.{suffix}"


def aside_path(final: pathlib.Path, token: str) -> pathlib.Path:
    """Return the path under which a writer writes what becomes `final`."""
    return final.with_name(f".{final.name}.{token}.inprogress")


def numbers_of(folder: pathlib.Path, stem: str, suffix: str) -> list[int]:
    """Return the part numbers of all complete files of a process, in order."""
    pattern = re.compile(rf"{re.escape(stem)}\.part-(\d{{12,}})\.{re.escape(suffix)}")
    return sorted(
        int(match[1]) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))
    )


def remove_stale(folder: pathlib.Path) -> None:
    """Delete files aside that nobody has touched for a day."""
    for path in folder.iterdir():
        if _ASIDE.fullmatch(path.name):
            with contextlib.suppress(OSError):  # its writer lives, or somebody else was faster
                if time.time() - path.lstat().st_mtime > _STALE_SECONDS:
                    path.unlink()


def remove_aside_of(folder: pathlib.Path, stem: str) -> None:
    """Delete the files aside of a process that has ended."""
    for path in folder.iterdir():
        if (match := _ASIDE.fullmatch(path.name)) and match[1] == stem:
            with contextlib.suppress(OSError):
                path.unlink()
