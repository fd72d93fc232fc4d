"""Back ends for `cli.set_backend`: Prometheus, DogStatsD and OpenTelemetry.

Each needs its extra: `prometheus`, `statsd` or `otel`. `MONOLITH_METRICS` in the environment sets
one without a change of code, when the first client is created, if no other back end is set:

- `prometheus://127.0.0.1:9100` has Prometheus scrape that address;
- `prometheus:/var/lib/node_exporter/deep_insight.prom` keeps that file;
- `statsd://127.0.0.1:8125` sends to a DogStatsD server;
- `otlp://127.0.0.1:4318` exports to an OpenTelemetry collector by HTTP.

Telemetry never stops training: if the variable is invalid, a package is missing or a port is taken,
an error is logged and the counters are discarded.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from absl import logging

from monolith_keras_metrics import cli
from monolith_keras_metrics.counters.series import MOST_SERIES

if TYPE_CHECKING:
    from monolith_keras_metrics.counters.backend import Backend

ENVIRONMENT_VARIABLE = "MONOLITH_METRICS"

_FORMS = "prometheus://HOST:PORT, prometheus:/FILE.prom, statsd://HOST:PORT or otlp://HOST:PORT"
_SEND_SECONDS = 5.0

_lock = threading.Lock()
_tried: tuple[int, str] | None = None  # the process and the value


def prometheus(
    host: str = "127.0.0.1",
    port: int | None = None,
    *,
    textfile: str | os.PathLike[str] | None = None,
    seconds: float = _SEND_SECONDS,
    most_series: int = MOST_SERIES,
) -> Backend:
    """Return a back end for Prometheus, with a registry of its own.

    Names get underscores, and counters `_total`: `deep_insight_written_total`.

    Args:
        host: The address to listen at. Anyone who can reach it can read the counters.
        port: The port to listen at, in a daemon thread. 0 takes a free one, which is the back end's
            `port`.
        textfile: A file to keep instead, for the textfile collector of node_exporter. It is written
            aside and renamed. Give each process a file of its own.
        seconds: Interval between writes of the file.
        most_series: Most series, that is names with different tags. Others are left out, and a
            warning says so once.

    Returns:
        The back end. Its `close` stops listening.

    Raises:
        ImportError: If the extra `prometheus` is not installed.
        OSError: If the port is taken.
        ValueError: If an argument is invalid, or not exactly one of `port` and `textfile` is given.

    Example:
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "deep_insight.prom")
    >>> backend = prometheus(textfile=path)
    >>> backend().emit_counter("deep_insight.written", 3, {"model": "ctr"})
    >>> backend.flush(timeout=10)
    True
    >>> print(path.read_text().splitlines()[-1])
    deep_insight_written_total{model="ctr"} 3.0
    >>> backend.close()
    """
    from monolith_keras_metrics.counters import to_prometheus

    if (port is None) == (textfile is None):
        raise ValueError(
            "Either `port` or `textfile` must be given. "
            f"Received: port={port!r}, textfile={textfile!r}"
        )
    if textfile is not None:
        path = os.path.abspath(os.path.expanduser(os.fspath(textfile)))
        return to_prometheus.Textfile(path, seconds, most_series)
    assert port is not None
    return to_prometheus.Scraped(host, port, most_series)


def statsd(host: str = "127.0.0.1", port: int = 8125, *, seconds: float = _SEND_SECONDS) -> Backend:
    """Return a back end that sends to a DogStatsD server by UDP, aggregated and buffered.

    Names stay as they are: `deep_insight.written`. The environment variables of the package
    `datadog` for tags of all metrics, such as `DD_ENV`, apply.

    Args:
        host: The server.
        port: Its port.
        seconds: Interval between sends.

    Returns:
        The back end.

    Raises:
        ImportError: If the extra `statsd` is not installed.
        ValueError: If an argument is invalid.

    Example:
    >>> backend = statsd("127.0.0.1", 8125)  # it need not be there: UDP does not tell
    >>> backend().emit_store("deep_insight.waiting", 12, {"model": "ctr"})
    >>> backend.flush(timeout=10)
    True
    >>> backend.close()
    """
    from monolith_keras_metrics.counters import to_statsd

    return to_statsd.StatsdBackend(host, port, seconds)


def opentelemetry(
    endpoint: str = "http://127.0.0.1:4318", *, seconds: float = _SEND_SECONDS
) -> Backend:
    """Return a back end that exports to an OpenTelemetry collector by OTLP over HTTP.

    It has a meter provider of its own; the global one is left alone. Units are not in the names:
    `deep_insight.lag` has the unit `s`. The environment variables of OpenTelemetry for resources
    and OTLP headers apply.

    Args:
        endpoint: The collector's base URL, to which `/v1/metrics` is added, or a URL with a path.
        seconds: Interval between exports.

    Returns:
        The back end.

    Raises:
        ImportError: If the extra `otel` is not installed.
        ValueError: If an argument is invalid.

    Example:
    ```python
    cli.set_backend(counters.opentelemetry("http://collector:4318"))
    ```
    """
    from monolith_keras_metrics.counters import to_opentelemetry

    return to_opentelemetry.OpenTelemetryBackend(endpoint, seconds)


def from_uri(uri: str, *, most_series: int = MOST_SERIES) -> Backend:
    """Return the back end for a value of `MONOLITH_METRICS`.

    Args:
        uri: The value.
        most_series: Most series of a back end for Prometheus.

    Raises:
        ImportError: If its extra is not installed.
        OSError: If its port is taken.
        ValueError: If the value is invalid. The message does not repeat it.

    Example:
    >>> from_uri("statsd://127.0.0.1:8125").close()
    """
    try:
        parts = urlsplit(uri)
        place = parts.hostname, parts.port
    except ValueError:
        parts, place = urlsplit(""), (None, None)
    host, port = place
    is_address = bool(host and port) and not (parts.path or parts.username or parts.password)
    is_file = parts.scheme == "prometheus" and not parts.netloc and parts.path.endswith(".prom")
    if not (parts.query or parts.fragment):
        if is_file:
            return prometheus(textfile=parts.path, most_series=most_series)
        if is_address and host and port:
            if parts.scheme == "prometheus":
                return prometheus(host, port, most_series=most_series)
            if parts.scheme == "statsd":
                return statsd(host, port)
            if parts.scheme == "otlp":
                shown = f"[{host}]" if ":" in host else host
                return opentelemetry(f"http://{shown}:{port}")
    raise ValueError(f"It must be {_FORMS}")


def use_environment() -> None:
    """Set the back end that `MONOLITH_METRICS` describes, if no back end is set.

    A value is tried once in a process. If it fails, an error is logged.

    Example:
    >>> use_environment()  # the variable is not set: nothing happens
    """
    global _tried
    uri = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    if not uri:
        return
    with _lock:
        if cli.has_backend() or _tried == (os.getpid(), uri):
            return
        _tried = (os.getpid(), uri)
        try:
            cli.set_backend(from_uri(uri))
        except Exception as error:
            logging.error(
                "Deep insight: %s cannot be used, so counters are discarded. %s: %s",
                ENVIRONMENT_VARIABLE,
                type(error).__name__,
                error,
            )
