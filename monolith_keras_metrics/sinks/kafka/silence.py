"""Explain why brokers do not answer, and since when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monolith_keras_metrics.sinks.kafka import errors as kafka_errors
from monolith_keras_metrics.sinks.kafka.uri import KafkaAddress

# librdkafka 2.16 keeps sending to coordinators that are gone, so a longer silence ends a client.
PATIENCE_SECONDS = 5.0


class Silence:
    """The time for which brokers have not answered a client, and the errors that it reports.

    Used by one thread only: librdkafka reports errors in the thread that calls the client.

    Args:
        address: The brokers, the topic and the options.
        clock: Returns monotonic seconds.

    Attributes:
        all_down: True if the client has lost its connections to all brokers.
    """

    def __init__(self, address: KafkaAddress, clock: Callable[[], float]) -> None:
        self.all_down = False
        self._address = address
        self._clock = clock
        self._last_error: Any = None
        self._since: float | None = None

    def note_error(self, error: Any) -> None:
        """Note a KafkaError that the client reports: the callback `error_cb`."""
        # A fatal error is not handled here, since the current call raises it next.
        if error.code() == type(error)._ALL_BROKERS_DOWN:
            self.all_down = True
        # Refused credentials explain more than the later error that all brokers are down.
        if not self.is_refusal():
            self._last_error = error

    def is_refusal(self) -> bool:
        """Return True if the brokers are silent because they refuse the credentials."""
        return self._last_error is not None and kafka_errors.is_refusal(self._last_error)

    def seconds(self) -> float:
        """Return the length of the silence, which begins with this call unless it has begun."""
        now = self._clock()
        self._since = now if self._since is None else self._since
        return now - self._since

    def end(self) -> None:
        """Note that the brokers answer."""
        self._since, self.all_down = None, False

    def error(self, reason: Any = None, waiting: int = 0) -> Exception:
        """Return the exception for a call that the brokers have not answered.

        Args:
            reason: The error of the call, a KafkaError; None if there is none.
            waiting: Number of messages that wait for the brokers.
        """
        known = [error for error in (self._last_error, reason) if error is not None]
        self._last_error = None
        for error in filter(kafka_errors.is_refusal, known):
            return kafka_errors.explained(error, self._address)
        why = kafka_errors.without_values(known[0].str(), self._address) if known else ""
        who = repr(self._address)
        who = f"{waiting} messages wait for {who}, which" if waiting else who
        return ConnectionError(f"{who} does not answer" + (f": {why}" if why else ""))
