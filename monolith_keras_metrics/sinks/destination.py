"""`Destination`: a place for records as a value. Opening it gives the sink that writes there."""

from __future__ import annotations

import abc
import contextlib
import pathlib
import re
import secrets
import weakref
from typing import Any

from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.sinks.sink import Sink


class Destination(abc.ABC):
    """A place for records. Nothing is opened, made or looked at before `open`.

    Two destinations are equal if they are the same place. `str` returns what may be shown to
    people and logged: it never holds an option, which may be a secret.

    A subclass is a kind of place. An instance can be given wherever a sink is.

    Attributes:
        owns_sink: Whether `open` makes the sink, so that whoever opened it closes it on a failure.
        wants_journal: Whether records for it should wait on disk.
        keeps_attempts: Whether what is written there tells later attempts of earlier ones.
    """

    owns_sink = True
    wants_journal = True
    keeps_attempts = True

    @property
    @abc.abstractmethod
    def key(self) -> tuple[object, ...]:
        """What destinations of one place have in common: hashable."""

    @abc.abstractmethod
    def open(self, origin: Origin, journal: str | None = None) -> Sink:
        """Open the sink.

        Args:
            origin: Who writes.
            journal: The name of the journal that the records come from.

        Raises:
            OSError: If the place cannot be written to; the message names it.
            ImportError: If the extra that the sink needs is not installed; the message names it.
        """

    @abc.abstractmethod
    def identity(self, journal: pathlib.Path) -> str:
        """Return the name by which a journal knows the place again; it holds no secret.

        Args:
            journal: The journal's folder. A run's own is known as ".", so that a run can be moved.
        """

    @abc.abstractmethod
    def __str__(self) -> str:
        pass

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    @property
    def run_name(self) -> str | None:
        """The run that the place names; None if it names none."""
        return None

    @property
    def folder(self) -> pathlib.Path | None:
        """The folder that files are written into; None if there is none."""
        return None

    @property
    def journal_folder(self) -> pathlib.Path | None:
        """Where records for it wait on disk unless the user says where; None for nowhere."""
        return None

    def to_save(self) -> tuple[str, list[str]]:
        """Return the text that can be saved with a model, and the names of secrets left out.

        Raises:
            TypeError: If the destination is no text.
        """
        raise TypeError(
            "`sink` must be a folder or a URI, or a list of these, for a layer that is saved or "
            f"cloned. Received: {self}. Give a URI, or have a subclass of DeepInsightLayer whose "
            "get_config leaves `sink` out"
        )

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Destination) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)


class ObjectDestination(Destination):
    """A sink object that the user made.

    Args:
        sink: The object.

    Raises:
        ValueError: If its `identity` is not a name.
    """

    owns_sink = False
    wants_journal = False

    def __init__(self, sink: Sink) -> None:
        name = getattr(sink, "identity", None)
        if name is not None and not _is_name(name):
            raise ValueError(
                "`sink`: the attribute `identity` of a sink object must be a non-empty string that "
                "UTF-8 can hold, the same for each object that writes to the same place. "
                f"Received: {name!r:.100} of {type(sink).__name__}"
            )
        self._sink = sink

    @property
    def key(self) -> tuple[object, ...]:
        """The object itself: its class does not tell where it writes to."""
        return ("object", id(self._sink))

    def open(self, origin: Origin, journal: str | None = None) -> Sink:
        """Return the object."""
        return self._sink

    def identity(self, journal: pathlib.Path) -> str:
        """Return the object's `identity`; without one, a name that no other object ever has."""
        name = getattr(self._sink, "identity", None)
        return f"object:{_name_of(self._sink) if name is None else name}"

    @property
    def run_name(self) -> str | None:
        """The object's attribute `run_name`; None without one."""
        return getattr(self._sink, "run_name", None)

    def __str__(self) -> str:
        return repr(self._sink)


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
