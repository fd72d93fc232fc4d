"""Checks the arguments of `DeepInsightClient`, before anything is opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from monolith_keras_metrics import sinks


def sink_list(sink: sinks.SinkLike | Sequence[sinks.SinkLike]) -> list[sinks.SinkLike]:
    """Returns one sink or several as a list."""
    return list(sink) if isinstance(sink, (list, tuple)) else [sink]  # type: ignore[list-item]


def check_values(sink: sinks.SinkLike | Sequence[sinks.SinkLike], **options: Any) -> None:
    """Raises for arguments of `DeepInsightClient` that make no sense; opens nothing.

    Raises:
        TypeError, ValueError: With the argument's name, what came and what was expected.
    """
    for place in sink_list(sink):
        sinks.check_sink(place)
    for name, choices in (("overflow", ("block", "drop")), ("on_error", ("warn", "raise"))):
        if name in options and options[name] not in choices:
            raise ValueError(
                f"`{name}` must be one of {choices}. Received: {name}={options[name]!r}"
            )
    for name, positive in (
        ("queue_rows", True),
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
    key = options.get("uid_hash_key")
    if key is not None and not (isinstance(key, bytes) and 1 <= len(key) <= 64):
        # The key itself is a secret, and stays out of the message.
        raise ValueError(
            f"`uid_hash_key` must be 1 to 64 bytes. Received: {type(key).__name__}"
            + (f" of {len(key)}" if isinstance(key, (bytes, str)) else "")
        )
