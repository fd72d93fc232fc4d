"""Counters for Prometheus: an HTTP server to scrape, or a file for node_exporter."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from monolith_keras_metrics.counters.backend import SEND_SECONDS, Backend, check_port, missing
from monolith_keras_metrics.counters.descriptions import DESCRIPTIONS
from monolith_keras_metrics.counters.series import MOST_SERIES, Kind, Values

try:
    import prometheus_client
    from prometheus_client.metrics_core import Metric
except ImportError as error:
    raise missing("prometheus-client 0.20 or newer", "prometheus", error) from error

_TYPES: dict[Kind, str] = {"counter": "counter", "store": "gauge", "timer": "summary"}


class Collector:
    """What a registry of `prometheus_client` collects from: the values, by Prometheus's names.

    Args:
        values: The values.
        descriptions: The description and the unit of each name.
    """

    def __init__(self, values: Values, descriptions: Mapping[str, tuple[str, str]]) -> None:
        self._values = values
        self._descriptions = descriptions

    def collect(self) -> Iterable[Any]:
        """Return the metrics, each with the samples of all its series."""
        metrics: dict[str, Any] = {}
        for (kind, name, tags), value, count in self._values.totals():
            family = re.sub("[^a-zA-Z0-9_:]", "_", name)
            metric = metrics.setdefault(
                family, Metric(family, self._descriptions.get(name, (name, ""))[0], _TYPES[kind])
            )
            labels = {re.sub("[^a-zA-Z0-9_]", "_", key): text for key, text in tags}
            if kind == "timer":
                metric.add_sample(f"{family}_count", labels, count)
                metric.add_sample(f"{family}_sum", labels, value)
            else:
                metric.add_sample(family + ("_total" if kind == "counter" else ""), labels, value)
        return metrics.values()


class PrometheusBackend(Backend):
    """A back end with its own registry, never the global one.

    Attributes:
        descriptions: The description and the unit of each name, to which more may be added.
    """

    def __init__(
        self, receiver: str, seconds: float = SEND_SECONDS, most_series: int = MOST_SERIES
    ) -> None:
        super().__init__(receiver, seconds, most_series)
        self._registry = prometheus_client.CollectorRegistry()
        self.descriptions = dict(DESCRIPTIONS)
        self._registry.register(Collector(self.values, self.descriptions))


class Scraped(PrometheusBackend):
    """A back end that Prometheus scrapes.

    Args:
        host: The address to listen at.
        port: The port. 0 takes a free one.
        most_series: Most series in memory.

    Attributes:
        port: The port that it listens at.
    """

    def __init__(self, host: str, port: int, most_series: int = MOST_SERIES) -> None:
        super().__init__(f"{host}:{port}", most_series=most_series)
        self._server, _ = prometheus_client.start_http_server(
            check_port(port), host, self._registry
        )
        self.port = int(self._server.server_port)
        if hasattr(os, "register_at_fork"):
            # Else the port would stay taken, and scrapes unanswered, for as long as a fork runs.
            os.register_at_fork(after_in_child=self._server.socket.close)

    def flush(self, timeout: float) -> bool:
        """Return True: what was emitted can be scraped."""
        return True

    def close(self, timeout: float = 2.0) -> None:
        """Stop listening."""
        if self._pid == os.getpid():
            self._server.shutdown()
            self._server.server_close()

    def _send(self) -> None:
        """Do nothing: whoever scrapes comes for the values."""


class Textfile(PrometheusBackend):
    """A back end that keeps a file for the textfile collector of node_exporter.

    Args:
        path: The file.
        seconds: Interval between writes.
        most_series: Most series in memory.
    """

    def __init__(self, path: str, seconds: float, most_series: int = MOST_SERIES) -> None:
        super().__init__(repr(path), seconds, most_series)
        self._path = path
        self._thread.start()

    def _send(self) -> None:
        # Written aside and renamed.
        prometheus_client.write_to_textfile(self._path, self._registry)
