"""Counters for OpenTelemetry, by OTLP over HTTP."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from monolith_keras_metrics.counters.backend import THREAD, Backend, missing
from monolith_keras_metrics.counters.descriptions import DESCRIPTIONS
from monolith_keras_metrics.counters.series import Series

try:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult
    from opentelemetry.sdk.resources import Resource
except ImportError as error:
    raise missing(
        "opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http 1.27 or newer", "otel", error
    ) from error

_EXPORT_SECONDS = 5.0
_UNITS_IN_NAMES = {"_seconds": "s", "_bytes": "By"}


class _Quiet(logging.Filter):
    """Keep back what the exporter logs at each failure in our threads: one warning is enough."""

    status = ""  # the last one

    def filter(self, record: logging.LogRecord) -> bool:
        if record.threadName != THREAD:
            return True
        found = re.search(r"code: (\d+)", record.getMessage())
        self.status = f" (status {found[1]})" if found else ""
        return False


_quiet = _Quiet()


class OpenTelemetryBackend(Backend):
    """A back end with its own meter provider, never the global one.

    Values are collected and exported in this back end's thread: a reader of the SDK with a thread
    starts it again in a forked process.

    Args:
        endpoint: Base URL of the collector, or the URL of its metrics.
        seconds: Interval between exports.
    """

    def __init__(self, endpoint: str, seconds: float) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("`endpoint` must be a URL such as http://127.0.0.1:4318")
        super().__init__(f"{parts.hostname}:{parts.port or ''}".rstrip(":"), seconds)
        url = endpoint if parts.path.strip("/") else f"{endpoint.rstrip('/')}/v1/metrics"
        logging.getLogger(OTLPMetricExporter.__module__).addFilter(_quiet)
        self._exporter = OTLPMetricExporter(url, timeout=_EXPORT_SECONDS)
        self._reader = InMemoryMetricReader()
        is_named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        )
        provider = MeterProvider(
            [self._reader],
            Resource.create({} if is_named else {"service.name": "deep-insight"}),
            shutdown_on_exit=False,
        )
        self._meter = provider.get_meter("monolith_keras_metrics")
        self._instruments: dict[str, Callable[..., Any]] = {}
        self._thread.start()

    def _send(self) -> None:
        for series, values in self.values.take():
            if series.kind != "store":
                for value in values:
                    self._record(series, value)
        for series, last, _ in self.values.totals():
            if series.kind == "store":  # again, since the SDK exports each value of a gauge once
                self._record(series, last)
        data = self._reader.get_metrics_data()
        if data is None or self._exporter.export(data) is MetricExportResult.SUCCESS:
            return
        raise ConnectionError(f"the collector is away or refuses the metrics{_quiet.status}")

    def _release(self) -> None:
        self._exporter.shutdown()

    def _record(self, series: Series, value: float) -> None:
        record = self._instruments.get(series.name) or self._instrument(series)
        record(value, dict(series.tags))

    def _instrument(self, series: Series) -> Callable[..., Any]:
        """Return the method that records values under a name. The unit is not in the name."""
        kind, name, _ = series
        description, unit = DESCRIPTIONS.get(name, ("", ""))
        for suffix, in_name in _UNITS_IN_NAMES.items():
            if name.endswith(suffix) and unit in ("", in_name):
                name, unit = name.removesuffix(suffix), in_name
        record: Callable[..., Any]
        if kind == "counter":
            record = self._meter.create_counter(name, unit, description).add
        elif kind == "store":
            record = self._meter.create_gauge(name, unit, description).set
        else:
            record = self._meter.create_histogram(name, unit, description).record
        self._instruments[series.name] = record
        return record
