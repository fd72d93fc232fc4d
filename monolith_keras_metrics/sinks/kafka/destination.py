"""A Kafka topic as a destination."""

from __future__ import annotations

import os
import pathlib

from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.sinks.destination import Destination
from monolith_keras_metrics.sinks.kafka import uri
from monolith_keras_metrics.sinks.sink import Sink


class TopicDestination(Destination):
    """A Kafka topic, from a URI.

    Args:
        rest: The URI after `kafka:`; see `uri.parse`.

    Raises:
        ValueError: As in `uri.parse`.
    """

    keeps_attempts = False

    def __init__(self, rest: str) -> None:
        self._rest = rest
        self._address = uri.parse(rest)
        self.run_name = self._address.topic

    @property
    def key(self) -> tuple[object, ...]:
        """The brokers and the topic."""
        return ("kafka", self._address.identity)

    def open(self, origin: Origin, journal: str | None = None) -> Sink:
        """Return a sink for the topic."""
        from monolith_keras_metrics.sinks.kafka.sink import KafkaSink

        address = self._address
        return KafkaSink(address.brokers, address.topic, address.options, journal=journal)

    def identity(self, journal: pathlib.Path) -> str:
        """Return the URI without options, with the brokers in sorted order."""
        return self._address.identity

    @property
    def journal_folder(self) -> pathlib.Path | None:
        """A folder named after the topic, in `$XDG_STATE_HOME` or `~/.local/state`.

        None if the user has no home folder.
        """
        state = pathlib.Path(os.environ.get("XDG_STATE_HOME", ""))
        if not state.is_absolute():  # the XDG specification says to ignore relative paths
            state = pathlib.Path(os.path.expanduser("~/.local/state"))
        if not state.is_absolute():
            return None
        return state / "monolith_keras_metrics" / self._address.topic

    def to_save(self) -> tuple[str, list[str]]:
        """Return the URI without secret options, and the names of these options."""
        kept, names = uri.without_secrets(self._rest)
        return f"kafka:{kept}", names

    def __str__(self) -> str:
        return repr(self._address)
