"""Where records go: `open_sink` makes a sink from a URI.

| URI | sink |
| --- | --- |
| `PATH` or `parquet:PATH` | a folder of Parquet files |
| `jsonl:PATH` | a folder of JSON Lines files |
| `tfrecord:PATH` | a folder of TFRecord files, a JSON message a record |
| `kafka://HOST:PORT[,HOST:PORT]/TOPIC?option=value` | a Kafka topic, a JSON message a message |

URIs are untrusted, and may hold secrets: of those that make no sense, and of Kafka's options,
nothing is repeated in an error or a log.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import secrets
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.sinks.kafka import uri as kafka_uri
from monolith_keras_metrics.sinks.sink import RejectedError, Sink

__all__ = [
    "FOLDER_FORMATS",
    "RejectedError",
    "Sink",
    "SinkLike",
    "absolute",
    "check_sink",
    "destination",
    "folder",
    "identity",
    "is_topic",
    "open_all",
    "open_sink",
    "run_name",
    "shown",
    "spool_place",
    "without_secrets",
]

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


def _kafka(rest: str, journal: str | None) -> Sink:
    from monolith_keras_metrics.sinks.kafka.sink import KafkaSink

    address = kafka_uri.parse(rest)
    return KafkaSink(address.brokers, address.topic, address.options, journal=journal)


_FOLDERS: dict[str, Callable[[str, Origin], Sink]] = {
    "parquet": _parquet,
    "jsonl": _jsonl,
    "tfrecord": _tfrecord,
}
FOLDER_FORMATS = tuple(_FOLDERS)
# Two letters at least: "C:\runs" is a path.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)


def check_sink(sink: SinkLike) -> None:
    """Raises what `open_sink` would raise for a URI that makes no sense; opens nothing.

    Args:
        sink: A path, a URI or an object with the methods of `Sink`.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the URI's scheme is not known, or it names no path; or if the object's
            `identity` is no name.
    """
    if isinstance(sink, (str, os.PathLike)):
        scheme, rest = _split(sink)
        if scheme == "kafka":
            kafka_uri.parse(rest)
    elif not isinstance(sink, Sink):
        raise TypeError(
            "`sink` must be a folder, a URI such as 'jsonl:PATH', or an object with the methods "
            f"write(frame), flush() and close(). Received: {_redacted(repr(sink))} of type "
            f"{type(sink).__name__}"
        )
    elif (name := getattr(sink, "identity", None)) is not None and not _is_name(name):
        raise ValueError(
            "`sink`: the attribute `identity` of a sink object must be a non-empty string that "
            f"UTF-8 can hold, the same for each object that writes to the same place. "
            f"Received: {name!r:.100} of {type(sink).__name__}"
        )


def open_sink(sink: SinkLike, origin: Origin, journal: str | None = None) -> Sink:
    """Opens a sink from its URI; a sink object is returned as it is.

    Args:
        sink: A path, a URI or an object with the methods of `Sink`.
        origin: Who writes; the names of files carry its worker and attempt.
        journal: The name of the journal that the records come from; Kafka's transactions carry it.

    Returns:
        The sink, ready for `write`.

    Raises:
        TypeError, ValueError: As `check_sink`.
        OSError: If the place cannot be written to; the message names it.
        ImportError: If the extra that the sink needs is not installed; the message names it.
    """
    check_sink(sink)
    if isinstance(sink, (str, os.PathLike)):
        scheme, rest = _split(sink)
        return _kafka(rest, journal) if scheme == "kafka" else _FOLDERS[scheme](rest, origin)
    return sink


def open_all(places: Sequence[SinkLike], origin: Origin, journal: str | None = None) -> list[Sink]:
    """Opens all sinks, or none: what was opened before one that fails is closed again.

    Raises:
        Exception: What `open_sink` raises.
    """
    opened: list[Sink] = []
    try:
        opened.extend(open_sink(place, origin, journal) for place in places)
    except BaseException:
        close_opened(places, opened)
        raise
    return opened


def close_opened(places: Sequence[SinkLike], opened: Sequence[Sink]) -> None:
    """Closes sinks that nothing was written to, but for those that were given as objects."""
    for place, sink in zip(places, opened, strict=False):
        if sink is not place:
            sink.close()


def absolute(sink: SinkLike) -> SinkLike:
    """Return the sink with a path that does not depend on the working directory.

    A URI keeps its scheme. Topics and sink objects are returned as they are.

    Args:
        sink: A path, a URI or an object with the methods of `Sink`.

    Raises:
        ValueError: As `check_sink`.
        FileNotFoundError: If the path is relative and the working directory has been removed.

    Example:
        >>> absolute("jsonl:/data/runs/ctr")
        'jsonl:/data/runs/ctr'
    """
    if not isinstance(sink, (str, os.PathLike)):
        return sink
    scheme, rest = _split(sink)
    if scheme == "kafka":
        return sink
    # Not `os.path.abspath`: behind a symbolic link ".." is another folder than in the text.
    path = pathlib.Path(rest).absolute()
    if isinstance(sink, os.PathLike):
        return path
    return f"{scheme}:{path}" if _SCHEME.fullmatch(sink) else str(path)


def destination(sink: SinkLike) -> tuple[object, ...]:
    """Return what two sinks have in common that write to one place: equal, and hashable."""
    if not isinstance(sink, (str, os.PathLike)):
        return ("object", id(sink))
    scheme, rest = _split(sink)
    if scheme == "kafka":
        address = kafka_uri.parse(rest)
        return (scheme, *sorted(address.brokers.split(",")), address.topic)
    return (scheme, os.path.realpath(rest))


def folder(sink: SinkLike) -> pathlib.Path | None:
    """Return the folder that a sink writes files into; None for a topic and a sink object."""
    if not isinstance(sink, (str, os.PathLike)) or is_topic(sink):
        return None
    return pathlib.Path(_split(sink)[1])


def is_topic(sink: SinkLike) -> bool:
    """Return True if a sink's URI names a Kafka topic."""
    return isinstance(sink, str) and _split(sink)[0] == "kafka"


def run_name(sink: SinkLike) -> str | None:
    """Return the run that a sink names: a folder's name, a topic; None if it names none."""
    if not isinstance(sink, (str, os.PathLike)):
        return getattr(sink, "run_name", None)
    scheme, rest = _split(sink)
    if scheme == "kafka":
        return kafka_uri.parse(rest).topic
    return os.path.basename(os.path.normpath(os.path.abspath(rest))) or None


def shown(sink: SinkLike) -> str:
    """How a sink is told to people: without options, which may be secret."""
    if isinstance(sink, (str, os.PathLike)):
        scheme, rest = _split(sink)
        return repr(kafka_uri.parse(rest)) if scheme == "kafka" else str(sink)
    return repr(sink)


def without_secrets(sink: SinkLike) -> tuple[SinkLike, list[str]]:
    """Return the sink without options that are secrets, and the names of these."""
    if not isinstance(sink, str) or not is_topic(sink):
        return sink, []
    scheme, _, rest = sink.partition(":")
    kept, names = kafka_uri.without_secrets(rest)
    return f"{scheme}:{kept}", names


def spool_place(sink: SinkLike) -> pathlib.Path | None:
    """Where records for a sink wait on disk, unless the user says where.

    Returns:
        A hidden folder in the sink's own; for a Kafka topic, one of its name in the user's folder
        for state (`$XDG_STATE_HOME`, else `~/.local/state`); None for a sink object, and where
        the user has no home.
    """
    if not isinstance(sink, (str, os.PathLike)):
        return None
    scheme, rest = _split(sink)
    if scheme != "kafka":
        return pathlib.Path(rest).absolute() / run_folder.JOURNAL
    state = pathlib.Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # such a one is to be ignored, says the XDG specification
        state = pathlib.Path(os.path.expanduser("~/.local/state"))
    if not state.is_absolute():
        return None
    return state / "monolith_keras_metrics" / kafka_uri.parse(rest).topic


def identity(sink: SinkLike, place: pathlib.Path) -> str:
    """What a journal says of the sinks that its records are for; no secret is in it.

    Args:
        sink: The sink.
        place: The journal's folder: a run's own is told by ".", so that a run can be moved.

    Returns:
        A name. That of an object without an `identity` is of this object in this process only,
        since its class does not tell where it writes to.
    """
    if not isinstance(sink, (str, os.PathLike)):
        name = getattr(sink, "identity", None)
        return f"object:{_name_of(sink) if name is None else name}"
    scheme, rest = _split(sink)
    if scheme == "kafka":
        address = kafka_uri.parse(rest)
        return f"kafka://{','.join(sorted(address.brokers.split(',')))}/{address.topic}"
    folder = os.path.realpath(rest)
    own = os.path.join(folder, run_folder.JOURNAL)
    return f"{scheme}:{'.' if os.path.realpath(place) == own else folder}"


# By `id`: a sink object need not be hashable.
_names: dict[int, tuple[weakref.ref[Any], str]] = {}


def _name_of(sink: Sink) -> str:
    """Return a name for an object without an `identity`, which no other object ever has."""
    key = id(sink)
    reference, name = _names.get(key, (None, ""))
    if reference is not None and reference() is sink:
        return name
    name = f"{type(sink).__module__}.{type(sink).__qualname__}#{secrets.token_hex(8)}"
    with contextlib.suppress(TypeError):  # no weak references: another name each time
        _names[key] = weakref.ref(sink, lambda _: _names.pop(key, None)), name
    return name


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and not re.search("[\ud800-\udfff]", name)


def _split(uri: str | os.PathLike[str]) -> tuple[str, str]:
    text = os.fsdecode(uri)
    match = _SCHEME.fullmatch(text) if isinstance(uri, str) else None
    scheme, rest = match.groups() if match else ("parquet", text)
    if scheme == "kafka":
        return scheme, rest
    if scheme not in _FOLDERS or rest.startswith("//"):
        known = ", ".join(f"'{name}:PATH'" for name in _FOLDERS)
        raise ValueError(
            f"`sink` must be a folder's path or one of {known}, 'kafka://HOST:PORT/TOPIC'. "
            f"Received: sink={_redacted(text)!r}"
        )
    if not rest.strip() or "\0" in rest:
        raise ValueError(f"`sink` must name a folder. Received: sink={_redacted(text)!r}")
    if re.search("[\ud800-\udfff]", rest):  # bytes of a name that are no UTF-8: see os.fsdecode
        raise ValueError(
            "`sink` must be text that UTF-8 can hold: not every format can write to this folder. "
            f"Received: sink={_redacted(text)!r}"
        )
    return scheme, os.path.expanduser(rest)


def _redacted(uri: str) -> str:
    """A URI that is none of ours may carry a password or a token: these are not repeated."""
    if not re.search("[@?#;=]", uri):
        return uri
    match = _SCHEME.fullmatch(uri)
    return f"{match[1]}:…" if match else "…"
