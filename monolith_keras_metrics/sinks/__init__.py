"""Sinks for records. `parse` turns the argument `sink` into a `Destination`.

| URI | destination |
| --- | --- |
| `PATH` or `parquet:PATH` | a folder of Parquet files |
| `jsonl:PATH` | a folder of JSON Lines files |
| `tfrecord:PATH` | a folder of TFRecord files, with one JSON message in each record |
| `kafka://HOST:PORT[,HOST:PORT]/TOPIC?option=value` | a Kafka topic of JSON messages |

URIs are untrusted input and may contain credentials. Errors and logs never echo an invalid URI or
the value of an option.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.sinks.destination import Destination, ObjectDestination
from monolith_keras_metrics.sinks.folder import FolderDestination
from monolith_keras_metrics.sinks.kafka.destination import TopicDestination
from monolith_keras_metrics.sinks.sink import RejectedError, Sink, UnfinishedError

__all__ = [
    "Destination",
    "RejectedError",
    "Sink",
    "SinkLike",
    "Sinks",
    "UnfinishedError",
    "open_all",
    "parse",
    "parse_all",
]

SinkLike: TypeAlias = "str | os.PathLike[str] | Sink | Destination"
Sinks: TypeAlias = "SinkLike | Sequence[SinkLike]"

# At least two letters, since "C:\runs" is a path.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)


def parse(sink: SinkLike) -> Destination:
    """Return the destination for a path, a URI or a sink object.

    Opens nothing. Resolves a relative folder.

    Args:
        sink: A path, a URI, an object with the methods of `Sink`, or a destination, which is
            returned unchanged.

    Raises:
        TypeError: If `sink` is none of these.
        ValueError: If the URI has an unknown scheme or no path, or the object's `identity` is
            invalid.

    Example:
    >>> parse("jsonl:/data/runs/ctr").run_name
    'ctr'
    """
    if isinstance(sink, Destination):
        return sink
    if isinstance(sink, (str, os.PathLike)):
        return _parse_text(sink)
    if isinstance(sink, Sink):
        return ObjectDestination(sink)
    raise TypeError(
        "`sink` must be a folder, a URI such as 'jsonl:PATH', or an object with the methods "
        f"write(frame), flush() and close(). Received: {_redacted(repr(sink))} of type "
        f"{type(sink).__name__}"
    )


def parse_all(sinks: Sinks) -> list[Destination]:
    """Return the destinations of one sink, or of a list of them.

    Raises:
        TypeError, ValueError: As in `parse`, or if two of them are the same destination.
    """
    given: Sequence[Any] = sinks if isinstance(sinks, (list, tuple)) else [sinks]
    destinations: list[Destination] = []
    for one in map(parse, given):
        if one in destinations:
            raise ValueError(
                "`sink` must not name one destination twice, or it would get each record twice. "
                f"Received: {destinations[destinations.index(one)]} and {one}"
            )
        destinations.append(one)
    return destinations


def open_all(
    destinations: Sequence[Destination], origin: Origin, journal: str | None = None
) -> list[Sink]:
    """Open the sinks of all destinations. If one fails, close those already opened.

    Args:
        destinations: The destinations.
        origin: The run, attempt and worker of the records.
        journal: The name of the records' journal.

    Raises:
        Exception: As in `Destination.open`.
    """
    opened: list[Sink] = []
    try:
        opened.extend(one.open(origin, journal) for one in destinations)
    except BaseException:
        for one, sink in zip(destinations, opened, strict=False):
            if one.owns_sink:
                sink.close()
        raise
    return opened


def _parse_text(uri: str | os.PathLike[str]) -> Destination:
    text = os.fsdecode(uri)
    match = _SCHEME.fullmatch(text) if isinstance(uri, str) else None
    scheme, rest = match.groups() if match else ("parquet", text)
    if scheme == "kafka":
        return TopicDestination(rest)
    if scheme not in run_folder.FORMATS or rest.startswith("//"):
        known = ", ".join(f"'{name}:PATH'" for name in run_folder.FORMATS)
        raise ValueError(
            f"`sink` must be the path of a folder or one of {known}, 'kafka://HOST:PORT/TOPIC'. "
            f"Received: sink={_redacted(text)!r}"
        )
    if not rest.strip() or "\0" in rest:
        raise ValueError(f"`sink` must name a folder. Received: sink={_redacted(text)!r}")
    if re.search("[\ud800-\udfff]", rest):  # os.fsdecode writes bytes that are not UTF-8 like this
        raise ValueError(
            "`sink` must be text that UTF-8 can encode, because some formats cannot write to other "
            f"paths. Received: sink={_redacted(text)!r}"
        )
    return FolderDestination(scheme, os.path.expanduser(rest), text)


def _redacted(uri: str) -> str:
    """Return an invalid URI for an error message, without what may contain a password."""
    if not re.search("[@?#;=]", uri):
        return uri
    match = _SCHEME.fullmatch(uri)
    return f"{match[1]}:…" if match else "…"
