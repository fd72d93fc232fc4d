"""`Destination`: a value that names where records go. Opening it returns the sink."""

from __future__ import annotations

import abc
import contextlib
import pathlib
import re
import secrets
import weakref
from typing import Any

from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.records.coverage import Coverage
from monolith_keras_metrics.sinks.sink import Sink


class Destination(abc.ABC):
    """A destination for records, as a value. Nothing is opened, created or read before `open`.

    Two destinations are equal if records end up in the same location. `str` returns a text that is
    safe to show and log: it contains no options, which may be secret.

    Each subclass is one kind of destination. An instance is valid wherever a sink is.

    Attributes:
        owns_sink: Whether `open` creates the sink, so that its caller must close it on a failure.
        wants_journal: Whether records for it should wait on disk.
        keeps_attempts: Whether the names of what is written there contain the attempt.
        run_name: The default name of the run; None if there is none.
        folder: The folder that files are written to; None if there is none.
    """

    owns_sink = True
    wants_journal = True
    keeps_attempts = True
    run_name: str | None = None
    folder: pathlib.Path | None = None

    @property
    @abc.abstractmethod
    def key(self) -> tuple[object, ...]:
        """Return a hashable key that is the same for equal destinations."""

    @abc.abstractmethod
    def open(self, origin: Origin, journal: str | None = None) -> Sink:
        """Return the open sink.

        Args:
            origin: The run, attempt and worker of the records.
            journal: The name of the records' journal.

        Raises:
            OSError: If the destination cannot be written. The message names it.
            ImportError: If the extra that the sink needs is not installed. The message names it.
        """

    @abc.abstractmethod
    def identity(self, journal: pathlib.Path) -> str:
        """Return the name that identifies the destination in a journal. It contains no secret.

        Args:
            journal: The journal's folder. The folder that contains it is named ".", so that a run
                can be moved.
        """

    @abc.abstractmethod
    def __str__(self) -> str:
        pass

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def keep(self, origin: Origin, coverage: Coverage) -> None:
        """Keep a process's counts beside its records, in place of its earlier ones.

        Called in any thread after a sink has written, and at the end. It may raise. By default,
        nothing is kept.

        Args:
            origin: The process.
            coverage: Its counts.
        """

    @property
    def journal_folder(self) -> pathlib.Path | None:
        """Return the default folder of the journal; None if there is none."""
        return None

    def to_save(self) -> tuple[str, list[str]]:
        """Return the text to save with a model, and the names of the secrets left out of it.

        Raises:
            TypeError: If the destination cannot be saved as text.
        """
        raise TypeError(
            "`sink` must be a folder or a URI, or a list of these, for a layer that is saved or "
            f"cloned. Received: {self}. Pass a URI, or use a subclass of DeepInsightLayer whose "
            "get_config leaves out `sink`"
        )

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Destination) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)


class ObjectDestination(Destination):
    """A sink object of the user, as a destination.

    Args:
        sink: The object.

    Raises:
        ValueError: If its `identity` is invalid.
    """

    owns_sink = False
    wants_journal = False

    def __init__(self, sink: Sink) -> None:
        name = getattr(sink, "identity", None)
        if name is not None and not _is_name(name):
            raise ValueError(
                "`sink`: the attribute `identity` of a sink object must be a non-empty string that "
                "UTF-8 can encode, the same for all objects that write to the same sink. "
                f"Received: {name!r:.100} of {type(sink).__name__}"
            )
        self.run_name = getattr(sink, "run_name", None)
        self._sink = sink

    @property
    def key(self) -> tuple[object, ...]:
        """Return the identity of the object in memory: its class does not reveal its target."""
        return ("object", id(self._sink))

    def open(self, origin: Origin, journal: str | None = None) -> Sink:
        """Return the object."""
        return self._sink

    def identity(self, journal: pathlib.Path) -> str:
        """Return the object's `identity`; without one, a unique name."""
        name = getattr(self._sink, "identity", None)
        return f"object:{_name_of(self._sink) if name is None else name}"

    def __str__(self) -> str:
        return repr(self._sink)


# Keyed by `id`, since a sink object need not be hashable.
_names: dict[int, tuple[weakref.ref[Any], str]] = {}


def _name_of(sink: Sink) -> str:
    """Return a unique name for an object without an `identity`."""
    key = id(sink)
    reference, name = _names.get(key, (None, ""))
    if reference is not None and reference() is sink:
        return name
    name = f"{type(sink).__module__}.{type(sink).__qualname__}#{secrets.token_hex(8)}"
    with contextlib.suppress(TypeError):  # without weak references, each call returns another name
        _names[key] = weakref.ref(sink, lambda _: _names.pop(key, None)), name
    return name


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and not re.search("[\ud800-\udfff]", name)
