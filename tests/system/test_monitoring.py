"""The Grafana dashboard and the Prometheus rules, against what is really exported."""

from __future__ import annotations

import itertools
import json
import pathlib
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import training
from prometheus_client.parser import text_string_to_metric_families
from told import alert, window

from monolith_keras_metrics import DeepInsightCallback, cli, counters, insight
from monolith_keras_metrics.insight.items import Series
from monolith_keras_metrics.insight.publish.to_prometheus import Prometheus

ROOT = pathlib.Path(__file__).parents[2]
MONITORING = ROOT / "examples" / "monitoring"
RULES = MONITORING / "deep-insight.rules.yml"
TESTS_OF_RULES = pathlib.Path(__file__).parent / "deep-insight.rules.test.yml"

Exported = dict[str, set[str]]  # the labels of each name

_OF_PROMETHEUS = {"instance", "job"}  # labels that a scrape adds
_WORDS = {"and", "or", "unless", "offset", "bool", "inf", "nan", "by", "on"}


def exported_by(port: int) -> Exported:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: Exported = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def series_of(run: pathlib.Path, field: str | None) -> Iterator[Series]:
    """The measures of a real run, as a watcher hands them over."""
    table = insight.summary(str(run), by=[field] if field else ())
    for row in table.rows(named=True):
        target = row.pop("target")
        value = row.pop(field) if field else None
        numbers = {name: one for name, one in row.items() if isinstance(one, (int, float))}
        yield Series(target, field, value, numbers)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """What a real training exports, and what a watched run of it does."""
    run = tmp_path_factory.mktemp("monitoring") / "run"
    backend = counters.prometheus(port=0)
    with cli.use_backend(backend):
        callback = DeepInsightCallback(
            run,
            model_name="ctr",
            sample_ratio=1.0,
            uid="uid",
            req_time="req_time",
            extra_fields=training.EXTRA,
        )
        model = training.model()
        model.compile("sgd", "binary_crossentropy")
        model.fit(
            training.dataset(training.columns(), training.labels()), verbose=0, callbacks=[callback]
        )
    found = exported_by(backend.port)
    backend.close()

    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(counters, "from_uri", lambda _, **o: counters.prometheus(port=0, **o))
        publisher: Any = Prometheus("prometheus://127.0.0.1:0")
    series = [*series_of(run, None), *series_of(run, "carrier")]
    publisher.publish(window(1, *series), False)
    publisher.publish(alert(2), False)
    found |= exported_by(publisher.backend.port)
    publisher.close()
    return found


def rules() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return [one for group in yaml.safe_load(RULES.read_text())["groups"] for one in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "deep-insight.json").read_text())
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Each expression of the dashboard, and the text that names its labels."""
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"], target["legendFormat"]
    for one in dashboard()["annotations"]["list"]:
        yield one["expr"], one["titleFormat"] + one["textFormat"]
    for one in dashboard()["templating"]["list"]:
        if one["type"] == "query":
            yield one["definition"], ""


def check(expression: str, exported: Exported, labels_of_text: set[str]) -> None:
    """Fails if the expression has a name or a label that is not exported."""
    left = expression
    names: set[str] = set()
    # A label is known if the name that it stands behind has it.
    for name, matchers in re.findall(r"(\w*)\{([^}]*)\}", left):
        asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        if asked == {"__name__"}:
            names |= set(re.search(r'"(.*)"', matchers)[1].split("|"))  # type: ignore[index]
        else:
            assert asked <= exported.get(name, set()) | _OF_PROMETHEUS, (name, asked)
    left = re.sub(r"\{[^}]*\}", " ", left)
    left = re.sub(r"\[[^\]]*\]", " ", left)
    grouped: set[str] = set()
    for labels in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", left):
        grouped |= set(re.findall(r"\w+", labels))
    left = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", " ", left)
    if left.startswith("label_values("):
        label = left.rstrip(")").rpartition(",")[2].strip()
        grouped.add(label)
        left = left.rpartition(",")[0]
    identifiers = re.findall(r"(?<![\w.])([a-zA-Z_:][\w:]*)(?!\w|\s*\()", left)
    names |= set(identifiers) - _WORDS
    assert names, expression
    assert names <= set(exported), names - set(exported)
    known = set().union(*(exported[name] for name in names)) | _OF_PROMETHEUS
    assert grouped | labels_of_text <= known, (grouped | labels_of_text) - known


def test_the_names_and_labels_of_the_rules_are_exported(exported: Exported) -> None:
    assert len(rules()) >= 9
    for rule in rules():
        text = " ".join(rule["annotations"].values())
        check(rule["expr"], exported, set(re.findall(r"\$labels\.(\w+)", text)))


def test_the_names_and_labels_of_the_dashboard_are_exported(exported: Exported) -> None:
    assert len([*expressions()]) >= 25
    for expression, text in expressions():
        check(expression, exported, set(re.findall(r"\{\{(\w+)\}\}", text)))


@pytest.mark.parametrize(
    "expression",
    [
        "deep_insight_no_such_total > 0",
        'sum by (model) (rate(deep_insight_written_total{country="US"}[5m]))',
        "sum by (country) (deep_insight_waiting)",
        'deep_insight_waiting{field=""}',
        "label_values(deep_insight_waiting, field)",
        "deep_insight_waiting and on (target) deep_insight_lag_seconds",
    ],
)
def test_an_unknown_name_or_label_is_found(exported: Exported, expression: str) -> None:
    with pytest.raises(AssertionError):
        check(expression, exported, set())


def test_what_is_exported_is_used(exported: Exported) -> None:
    """Nothing that says how a training or its watcher does is in neither file."""
    texts = RULES.read_text() + (MONITORING / "deep-insight.json").read_text()
    unused = {name for name in exported if name not in texts}
    assert not {name for name in unused if not name.startswith("deep_insight_window_")} - {
        "deep_insight_unsampled_total",
        "deep_insight_steps_total",
    }


def test_the_dashboard_is_whole() -> None:
    found = dashboard()
    variables = {one["name"] for one in found["templating"]["list"]}
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["title"], panel
        assert panel["description"], panel
        assert panel["fieldConfig"]["defaults"]["unit"], panel
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for expression, _ in expressions():
        assert set(re.findall(r"\$(\w+)", expression)) <= variables | {"__rate_interval"}
    places = [panel["gridPos"] for panel in found["panels"]]
    for one in places:
        assert one["x"] >= 0
        assert one["x"] + one["w"] <= 24
    for a, b in itertools.combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)


@pytest.fixture(scope="module")
def promtool() -> str:
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not installed")
    return path


@pytest.mark.slow
def test_promtool_takes_the_rules(promtool: str) -> None:
    for arguments in (
        ["check", "rules", "--lint=all", "--lint-fatal", str(RULES)],
        ["test", "rules", str(TESTS_OF_RULES)],
    ):
        done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_promtool_parses_the_dashboard(promtool: str) -> None:
    values = {"$model": "ctr", "$target": "click", "$field": "country", "$__rate_interval": "5m"}
    for expression, _ in expressions():
        if not expression.startswith("label_values"):
            for variable, value in values.items():
                expression = expression.replace(variable, value)
            command = [promtool, "--experimental", "promql", "format", expression]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, expression + done.stderr


def test_each_rule_has_a_test() -> None:
    text = TESTS_OF_RULES.read_text()
    for rule in rules():
        assert rule["alert"] in text, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}
