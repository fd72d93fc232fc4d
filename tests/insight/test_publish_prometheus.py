"""The gauges and counters of a watched run, as Prometheus scrapes them."""

from __future__ import annotations

import pathlib
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from told import HOUR, NINE, alert, window

from monolith_keras_metrics.insight.items import Series

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")

from prometheus_client.parser import text_string_to_metric_families
from receivers import Tags, tags_of

from monolith_keras_metrics.insight.publish.to_prometheus import Prometheus

ALL = tags_of(model="ctr", target="click")
US = tags_of(model="ctr", target="click", field="country", value="US")
ALERT = tags_of(
    model="ctr", name="too sure", severity="page", target="click", field="country", value="US"
)


def parsed(text: str) -> dict[str, dict[Tags, float]]:
    """Each sample by its name and labels."""
    found: dict[str, dict[Tags, float]] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = found.setdefault(sample.name.removeprefix("deep_insight_"), {})
            assert tags_of(**sample.labels) not in labels
            labels[tags_of(**sample.labels)] = sample.value
    return found


def scrape(publisher: Any) -> dict[str, dict[Tags, float]]:
    url = f"http://127.0.0.1:{publisher.backend.port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return parsed(answer.read().decode())


def new(monkeypatch: pytest.MonkeyPatch) -> Prometheus:
    """A publisher at a free port."""
    from monolith_keras_metrics import counters

    def from_uri(uri: str, **options: Any) -> Any:
        return counters.prometheus(port=0, **options)

    monkeypatch.setattr(counters, "from_uri", from_uri)
    return Prometheus("prometheus://127.0.0.1:0")


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Prometheus]:
    made = new(monkeypatch)
    yield made
    made.close()


def test_a_window(publisher: Any) -> None:
    assert scrape(publisher) == {}
    publisher.publish(window(1, late=7), False)
    model = tags_of(model="ctr")
    assert scrape(publisher) == {
        "window_auc": {ALL: 0.5 + 1 / 1024, US: 0.25 + 1 / 1024},
        "window_calibration": {US: 1.0},
        "window_start_timestamp_seconds": {model: NINE},
        "window_end_timestamp_seconds": {model: NINE + HOUR},
        "windows_total": {model: 1},
        "late_total": {model: 7},
    }


def test_nothing_of_an_older_window_stays(publisher: Any) -> None:
    publisher.publish(window(1), False)
    other = Series("click", "country", "GB", {"auc": None, "delay_p50": 4.0})
    publisher.publish(window(2, other), False)
    found = scrape(publisher)
    assert set(found) == {
        "window_delay_p50_seconds",
        "window_start_timestamp_seconds",
        "window_end_timestamp_seconds",
        "windows_total",
        "late_total",
    }
    assert found["window_end_timestamp_seconds"] == {tags_of(model="ctr"): NINE + 2 * HOUR}


def test_values_that_are_like_no_value(publisher: Any) -> None:
    values = ("", None, 'a "b"\\\n', "(none")
    series = [Series("click", "x", one, {"auc": n / 8}) for n, one in enumerate(values)]
    publisher.publish(window(1, *series, Series("click", None, None, {"auc": 1.0})), False)
    auc = scrape(publisher)["window_auc"]
    assert len(auc) == 5
    assert auc[tags_of(model="ctr", target="click", field="x")] == 0.0
    assert auc[tags_of(model="ctr", target="click", field="x", value="(none)")] == 0.125
    assert auc[tags_of(model="ctr", target="click", field="x", value='a "b"\\\n')] == 0.25


def test_an_alert_fires_and_is_resolved(publisher: Any) -> None:
    publisher.publish(alert(1), False)
    found = scrape(publisher)
    assert found == {"alert_firing": {ALERT: 1}, "alerts_total": {ALERT: 1}}
    publisher.publish(alert(2, "resolved"), False)
    publisher.publish(alert(3, name="no data", target="", group={}), False)
    no_data = tags_of(model="ctr", name="no data", severity="page")
    found = scrape(publisher)
    assert found["alert_firing"] == {ALERT: 0, no_data: 1}
    assert found["alerts_total"] == {ALERT: 1, no_data: 1}


def test_an_item_that_comes_again_is_counted_once(publisher: Any) -> None:
    for maybe_there in (False, True):
        publisher.publish(window(1, late=7), maybe_there)
    publisher.publish(alert(2), True)
    publisher.publish(alert(2), True)
    publisher.publish(window(1), True)  # an older one does not replace the newest
    found = scrape(publisher)
    assert found["windows_total"] == {tags_of(model="ctr"): 1}
    assert found["late_total"] == {tags_of(model="ctr"): 7}
    assert found["alerts_total"] == {ALERT: 1}


def test_a_restart_shows_the_newest_window_and_counts_from_nothing(publisher: Any) -> None:
    publisher.restore([alert(2), window(3, late=7)])
    found = scrape(publisher)
    assert found["window_auc"][ALL] == 0.5 + 3 / 1024
    assert found["alert_firing"] == {ALERT: 1}
    assert found["windows_total"] == found["late_total"] == {tags_of(model="ctr"): 0}
    assert found["alerts_total"] == {ALERT: 0}
    publisher.publish(window(3, late=7), True)
    assert scrape(publisher) == found
    publisher.publish(window(4), False)
    found = scrape(publisher)
    assert found["window_auc"][ALL] == 0.5 + 4 / 1024
    assert found["windows_total"] == {tags_of(model="ctr"): 1}
    assert found["alert_firing"] == {ALERT: 1}


@pytest.mark.slow
def test_as_many_series_as_a_watched_run_may_have(
    publisher: Any, warnings_logged: list[str]
) -> None:
    measures = {f"m{n}": float(n) for n in range(12)}
    series = [
        Series(f"target {target}", "item", str(value), measures)
        for target in range(10)
        for value in range(200)
    ]
    publisher.publish(window(1, *series), False)
    found = scrape(publisher)
    assert sum(map(len, found.values())) == 24_000 + 4
    assert not warnings_logged


def test_a_text_file(tmp_path: pathlib.Path, warnings_logged: list[str]) -> None:
    path = tmp_path / "later" / "deep_insight.prom"
    publisher = Prometheus(f"prometheus:{path}")
    with pytest.raises(OSError, match="could not be written"):
        publisher.publish(window(1), False)
    assert str(path) in warnings_logged[0]
    path.parent.mkdir()
    publisher.publish(window(1), True)
    found = parsed(path.read_text())
    assert found["windows_total"] == {tags_of(model="ctr"): 1}
    assert found["window_auc"][ALL] == 0.5 + 1 / 1024
    publisher.close()
    assert parsed(path.read_text()) == found
