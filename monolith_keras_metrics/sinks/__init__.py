"""Where records go: the `Sink` protocol, and `open_sink`, which makes one from a URI.

| URI | sink |
| --- | --- |
| `PATH` or `parquet:PATH` | a folder of Parquet files |
| `jsonl:PATH` | a folder of JSON Lines files |
| `tfrecord:PATH` | a folder of TFRecord files, a JSON message a record |
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import polars as pl

from monolith_keras_metrics.record import Origin


@runtime_checkable
class Sink(Protocol):
    """What a place for records must do. It is used from one thread only.

    A sink that raises has not taken the frame: the same frame is handed over again later, so a
    sink that can take half of one must be able to take it twice.
    """

    def write(self, frame: pl.DataFrame) -> None:
        """Takes records, with the schema of `record.to_frame`; may hold them until `flush`."""

    def flush(self) -> None:
        """Returns once everything written before is durable: on disk, or acknowledged."""

    def close(self) -> None:
        """Flushes and lets go of files and connections. A second call does nothing."""


SinkLike: TypeAlias = "str | os.PathLike[str] | Sink"


def _parquet(path: str, origin: Origin) -> Sink:
    from monolith_keras_metrics.sinks.parquet import ParquetSink

    return ParquetSink(path, origin)


def _jsonl(path: str, origin: Origin) -> Sink:
    from monolith_keras_metrics.sinks.jsonl import JsonLinesSink

    return JsonLinesSink(path, origin)


def _tfrecord(path: str, origin: Origin) -> Sink:
    from monolith_keras_metrics.sinks.tfrecord import TFRecordSink

    return TFRecordSink(path, origin)


_SCHEMES: dict[str, Callable[[str, Origin], Sink]] = {
    "parquet": _parquet,
    "jsonl": _jsonl,
    "tfrecord": _tfrecord,
}
# Two letters at least: "C:\runs" is a path.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)


def check_sink(sink: SinkLike) -> None:
    """Raises what `open_sink` would raise for a URI that makes no sense; opens nothing.

    Args:
        sink: A path, a URI or an object with the methods of `Sink`.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the URI's scheme is not known, or it names no path.
    """
    if isinstance(sink, (str, os.PathLike)):
        _split(sink)
    elif not isinstance(sink, Sink):
        raise TypeError(
            "`sink` must be a folder, a URI such as 'jsonl:PATH', or an object with the methods "
            f"write(frame), flush() and close(). Received: {sink!r} of type {type(sink).__name__}"
        )


def open_sink(sink: SinkLike, origin: Origin) -> Sink:
    """Opens a sink from its URI; a sink object is returned as it is.

    Args:
        sink: A path, a URI or an object with the methods of `Sink`.
        origin: Who writes; the names of files carry its worker and attempt.

    Returns:
        The sink, ready for `write`.

    Raises:
        TypeError, ValueError: As `check_sink`.
        OSError: If the place cannot be written to; the message names it.
    """
    check_sink(sink)
    if isinstance(sink, (str, os.PathLike)):
        scheme, path = _split(sink)
        return _SCHEMES[scheme](path, origin)
    return sink


def run_name(sink: SinkLike) -> str | None:
    """The run that a sink's URI names: the last part of its path; None for a sink object."""
    if not isinstance(sink, (str, os.PathLike)):
        return None
    return os.path.basename(os.path.normpath(os.path.abspath(_split(sink)[1]))) or None


def _split(uri: str | os.PathLike[str]) -> tuple[str, str]:
    text = os.fspath(uri)
    match = _SCHEME.fullmatch(text) if isinstance(uri, str) else None
    scheme, path = match.groups() if match else ("parquet", text)
    if scheme not in _SCHEMES or path.startswith("//"):
        known = ", ".join(f"'{name}:PATH'" for name in _SCHEMES)
        raise ValueError(
            f"`sink` must be a folder's path or one of {known}. Received: sink={_redacted(text)!r}"
        )
    if not path.strip() or "\0" in path:
        raise ValueError(f"`sink` must name a folder. Received: sink={text!r}")
    return scheme, os.path.expanduser(path)


def _redacted(uri: str) -> str:
    """A URI that is none of ours may carry a password or a token: these are not repeated."""
    return uri.partition(":")[0] + ":…" if re.search("[@?#]", uri) else uri
