"""Items for Prometheus, through the back end that the counters of a training use.

The gauges are those of the newest window. Of a measure that is undefined in it, or a value that it
does not have, there is no series: none keeps what an older window had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from monolith_keras_metrics import counters
from monolith_keras_metrics.counters import series
from monolith_keras_metrics.insight.items import Item, Window
from monolith_keras_metrics.insight.measures import COUNTS, MEASURES
from monolith_keras_metrics.insight.publish.names import group_of, value_of
from monolith_keras_metrics.insight.publish.publisher import Publisher

WINDOW = "deep_insight.window_"
"""What the names of the newest window's gauges begin with."""

MOST_SERIES = 50_000
"""Most series: 10 targets, each with 200 values of fields, have 24,000 of 12 measures."""

_WRITE_SECONDS = 10.0
_UNITS = {"delay_p50": "_seconds", "delay_p95": "_seconds", "delay_p99": "_seconds"}


class Prometheus(Publisher):
    """Gauges of the newest window and of the alerts, at a port or in a file.

    Args:
        uri: `prometheus://HOST:PORT` or `prometheus:/FILE.prom`, as in `MONOLITH_METRICS`.

    Raises:
        ImportError: If the extra `prometheus` is not installed.
        OSError: If the port is taken.
        ValueError: If the URI is invalid.
    """

    def __init__(self, uri: str) -> None:
        from monolith_keras_metrics.counters.to_prometheus import PrometheusBackend

        backend = counters.from_uri(uri, most_series=MOST_SERIES)
        assert isinstance(backend, PrometheusBackend)
        backend.descriptions.update(_descriptions())
        self.backend = backend
        self._last = 0  # the number of the last item that was counted
        self.identity = uri

    def restore(self, items: Sequence[Item]) -> None:
        """Set the gauges again, and count nothing."""
        for item in items:
            self._last = max(self._last, item.number)
            self._emit(item, 0)
        self._write()

    def publish(self, item: Item, maybe_there: bool) -> None:
        """Set the gauges and count; with a file, write it."""
        if item.number > self._last:
            self._emit(item, 1)
            self._last = item.number
        self._write()

    def close(self) -> None:
        """Stop listening. A file stays as it is."""
        self.backend.close()

    def _emit(self, item: Item, count: int) -> None:
        client = self.backend()
        if isinstance(item, Window):
            model = _tags(model=item.model)
            self.backend.values.replace(WINDOW, dict(_gauges(item)))
            client.emit_counter("deep_insight.windows", count, model)
            client.emit_counter("deep_insight.late", count * item.late, model)
            return
        field, value = group_of(item)
        tags = _tags(
            model=item.model,
            name=item.name,
            severity=item.severity,
            target=item.target,
            field=field,
            value=value,
        )
        client.emit_store("deep_insight.alert_firing", float(item.state == "firing"), tags)
        client.emit_counter("deep_insight.alerts", count * (item.state == "firing"), tags)

    def _write(self) -> None:
        if not self.backend.flush(_WRITE_SECONDS):
            raise OSError(f"{self.identity} could not be written")


def gauge_of(measure: str) -> str:
    """Return the name of the gauge of a measure, with its unit by Prometheus's custom.

    Example:
    >>> gauge_of("auc"), gauge_of("delay_p50")
    ('deep_insight.window_auc', 'deep_insight.window_delay_p50_seconds')
    """
    return f"{WINDOW}{measure}{_UNITS.get(measure, '')}"


def _gauges(window: Window) -> Iterator[tuple[series.Series, float]]:
    model = tuple(_tags(model=window.model).items())
    for name in ("start", "end"):
        moment = series.Series("store", f"{WINDOW}{name}_timestamp_seconds", model)
        yield moment, float(getattr(window, name))
    for one in window.series:
        group = {} if one.field is None else {"field": one.field, "value": value_of(one)}
        tags = tuple(sorted(_tags(model=window.model, target=one.target, **group).items()))
        for measure, value in one.measures.items():
            if value is not None:
                yield series.Series("store", gauge_of(measure), tags), float(value)


def _tags(**tags: str) -> dict[str, str]:
    """Return the tags that are not empty: for Prometheus, an empty one is none."""
    return {name: value for name, value in tags.items() if value}


def _descriptions() -> dict[str, tuple[str, str]]:
    """Return the descriptions of the gauges of all measures."""
    texts = {name: f"number of records: {name}" for name in COUNTS}
    texts |= {name: measure.text for name, measure in MEASURES.items()}
    return {gauge_of(name): (f"Newest closed window: {text}.", "") for name, text in texts.items()}
