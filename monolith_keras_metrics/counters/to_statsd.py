"""Counters for DogStatsD, the Datadog agent's kind of StatsD."""

from __future__ import annotations

import re

from monolith_keras_metrics.counters.backend import Backend, check_port, missing

try:
    from datadog.dogstatsd import DogStatsd
except ImportError as error:
    raise missing("datadog 0.51 or newer", "statsd", error) from error


class StatsdBackend(Backend):
    """A back end that sends to a DogStatsD server by UDP.

    Args:
        host: The server's name. It is looked up in the back end's thread.
        port: The server's port.
        seconds: Interval between sends.
    """

    def __init__(self, host: str, port: int, seconds: float) -> None:
        super().__init__(f"{host}:{port}", seconds)
        self._statsd = DogStatsd(
            host=host,
            port=check_port(port),
            disable_buffering=False,
            disable_aggregation=False,
            flush_interval=0,  # no thread of its own, which would also run in a forked process
            disable_telemetry=True,
        )
        self._thread.start()

    def _send(self) -> None:
        statsd = self._statsd
        methods = {
            "counter": statsd.increment,
            "store": statsd.gauge,
            "timer": statsd.distribution,
        }
        for (kind, name, pairs), values in self.values.take():
            tags = [f"{_plain(key)}:{_plain(text)}" for key, text in pairs]
            for value in values:
                methods[kind](re.sub("[^a-zA-Z0-9_.]", "_", name), value, tags=tags)
        statsd.flush_aggregated_metrics()
        statsd.flush_buffered_metrics()

    def _release(self) -> None:
        self._statsd.close_socket()


def _plain(text: str) -> str:
    """Return a tag without the characters that separate tags and lines."""
    return re.sub(r"[|,#\s]", "_", text)
