"""Checks the arguments of `DeepInsightClient`, before anything is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_MOST_WORKERS = 10**19  # names of files have room for 19 digits


def absolute_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the path of a `spool` folder made absolute."""
    spool = options.get("spool")
    if spool is None or spool == "auto":
        return dict(options)
    return {**options, "spool": os.path.abspath(os.path.expanduser(spool))}


def check_values(**options: Any) -> None:
    """Raises for arguments of `DeepInsightClient` that make no sense; opens nothing.

    Raises:
        TypeError, ValueError: With the argument's name, what came and what was expected.
    """
    _check_origin(options.get("run"), options.get("worker"))
    for name, choices in (("overflow", ("block", "drop")), ("on_error", ("warn", "raise"))):
        if name in options and options[name] not in choices:
            raise ValueError(
                f"`{name}` must be one of {choices}. Received: {name}={options[name]!r}"
            )
    for name, positive in (
        ("queue_rows", True),
        ("memory_bytes", True),
        ("flush_seconds", True),
        ("file_seconds", True),
        ("spool_bytes", True),
        ("exit_timeout", True),
        ("retry_seconds", False),
    ):
        value = options.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}")
        if not (value > 0 or (value == 0 and not positive)):
            wanted = "more than 0" if positive else "0 or more"
            raise ValueError(f"`{name}` must be {wanted}. Received: {name}={value!r}")
    spool = options.get("spool")
    if not (spool is None or isinstance(spool, (str, os.PathLike))) or spool == "":
        raise TypeError(f"`spool` must be a folder, 'auto' or None. Received: spool={spool!r}")
    if spool is not None and not _is_text(os.fspath(spool)):
        raise ValueError(f"`spool` must be the path of a folder. Received: spool={spool!r}")
    key = options.get("uid_hash_key")
    if key is not None and not (isinstance(key, bytes) and 1 <= len(key) <= 64):
        # The key itself is a secret, and stays out of the message.
        raise ValueError(
            f"`uid_hash_key` must be 1 to 64 bytes. Received: {type(key).__name__}"
            + (f" of {len(key)}" if isinstance(key, (bytes, str)) else "")
        )
    tags = options.get("counter_tags")
    if not (tags is None or isinstance(tags, Mapping)):
        raise TypeError(f"`counter_tags` must be a dict or None. Received: counter_tags={tags!r}")


def _check_origin(run: Any, worker: Any) -> None:
    if run is not None and not isinstance(run, str):
        raise TypeError(f"`run` must be a string or None. Received: run={run!r}")
    if run is not None and (not run or not _is_text(run)):
        raise ValueError(
            "`run` must be a non-empty string that UTF-8 can hold, without null characters, or "
            f"None. Received: run={run!r}"
        )
    if worker is None:
        return
    if isinstance(worker, bool) or not hasattr(worker, "__index__"):
        raise TypeError(f"`worker` must be an integer or None. Received: worker={worker!r}")
    if not 0 <= worker < _MOST_WORKERS:
        raise ValueError(
            "`worker` must be this process's number among those that write, from 0 on and below "
            f"10**19, or None for what the task context says. Received: worker={worker!r}"
        )


def _is_text(text: str | bytes) -> bool:
    """Return True if UTF-8 can hold it and it has no null characters."""
    return not re.search("[\0\ud800-\udfff]", os.fsdecode(text))
