"""Items in a real store of MLflow: a file of SQLite, and a server where MLflow has one."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from told import HOUR, NINE, alert, window

from monolith_keras_metrics.insight.items import Series

pytest.importorskip("mlflow", reason="mlflow is not installed")
pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed")
pytest.importorskip("alembic", reason="alembic is not installed")

from mlflow import MlflowClient

from monolith_keras_metrics.insight.publish import to_mlflow
from monolith_keras_metrics.insight.publish.to_mlflow import LAST, MLflow, part_of

# MLflow's own, while it makes a database.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

EXPERIMENT = "/Shared/on call"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A database with MLflow's tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(made: pathlib.Path, tmp_path: pathlib.Path) -> str:
    """The URI of a store without runs."""
    path = tmp_path / "mlflow.db"
    path.write_bytes(made.read_bytes())
    return f"sqlite:///{path}"


def publisher_of(store: str, name: str = "ctr", run: str = "7c1f") -> MLflow:
    return MLflow(name, run, EXPERIMENT, store)


def runs(store: str) -> list[Any]:
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def history(store: str, key: str) -> list[tuple[int, int, float]]:
    """The step, the time in seconds and the value of each entry of a metric."""
    (run,) = runs(store)
    entries = MlflowClient(store).get_metric_history(run.info.run_id, key)
    return sorted((one.step, one.timestamp // 1000, one.value) for one in entries)


def test_windows_and_alerts(store: str) -> None:
    publisher = publisher_of(store)
    assert not runs(store)
    for item in (window(1), alert(2), window(3, late=7), alert(4, "resolved")):
        publisher.publish(item, False)
    (run,) = runs(store)
    assert run.info.run_name == "ctr"
    assert run.data.tags["deep_insight.run"] == "7c1f"
    assert run.data.tags["alerts/too sure/click/US"] == f"resolved: {alert(4).text}"
    assert set(run.data.metrics) == {
        "auc/click",
        "auc by country/click/US",
        "calibration by country/click/US",
        "alerts/too sure/click/US",
        "late records",
        LAST,
    }
    assert history(store, "auc/click") == [
        (1, NINE + HOUR, 0.5 + 1 / 1024),
        (3, NINE + 3 * HOUR, 0.5 + 3 / 1024),
    ]
    assert history(store, "alerts/too sure/click/US") == [
        (2, NINE + 2 * HOUR, 1.0),
        (4, NINE + 4 * HOUR, 0.0),
    ]
    assert [step for step, *_ in history(store, LAST)] == [1, 2, 3, 4]


def test_a_run_is_made_once_and_found_again(store: str) -> None:
    publisher_of(store).publish(window(1), False)
    publisher_of(store).publish(window(2), False)
    assert [step for step, *_ in history(store, "auc/click")] == [1, 2]
    publisher_of(store, run="another").publish(window(1), False)
    publisher_of(store, name="other").publish(window(1), False)
    assert len(runs(store)) == 3


def test_a_run_that_is_there_can_be_named_by_its_id(store: str) -> None:
    client = MlflowClient(store)
    run = client.create_run(client.create_experiment(EXPERIMENT), run_name="training")
    publisher_of(store, name=run.info.run_id).publish(window(1), False)
    assert [step for step, *_ in history(store, "auc/click")] == [1]
    with pytest.raises(Exception, match="not found"):
        publisher_of(store, name="0" * 32).publish(window(1), False)


class Killed(BaseException):
    """The end of the process."""


@pytest.mark.parametrize("calls", [0, 1, 2])
@pytest.mark.parametrize("kind", ["database", "folder"])  # a folder keeps what is there twice
@pytest.mark.filterwarnings("ignore:The filesystem:FutureWarning")
def test_a_part_of_an_item_is_completed(
    store: str, kind: str, calls: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "folder":
        store = f"file:{tmp_path}/runs"
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(to_mlflow, "_MOST", 2)
    item = window(2, *(Series("click", "n", str(n), {"auc": n / 8}) for n in range(4)))
    publisher = publisher_of(store)
    publisher.publish(window(1), False)
    real, left = MlflowClient.log_batch, calls

    def log_batch(self: Any, *arguments: Any, **keywords: Any) -> None:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        real(self, *arguments, **keywords)

    with monkeypatch.context() as killing:
        killing.setattr(MlflowClient, "log_batch", log_batch)
        with pytest.raises(Killed):
            publisher.publish(item, False)
    assert [step for step, *_ in history(store, LAST)] == [1]
    restarted = publisher_of(store)
    restarted.publish(item, True)
    restarted.publish(item, True)
    for n in range(4):
        assert history(store, f"auc by n/click/{n}") == [(2, NINE + 2 * HOUR, n / 8)]
    assert [step for step, *_ in history(store, LAST)] == [1, 2]


@pytest.mark.slow
def test_more_metrics_than_a_call_takes(store: str) -> None:
    series = [Series("click", "n", str(n), {"auc": n / 4096}) for n in range(2_500)]
    publisher_of(store).publish(window(1, *series), False)
    (run,) = runs(store)
    assert len(run.data.metrics) == 2_500 + 2
    assert run.data.metrics["auc by n/click/2499"] == 2_499 / 4096


def test_names_that_mlflow_does_not_allow(store: str) -> None:
    values = ["a/b", "a+b", "a_b", "", ".", "..", "é", "x" * 300, "x" * 301, None, " ", "-"]
    series = [Series("click", "a=b", value, {"auc": n / 8}) for n, value in enumerate(values)]
    publisher_of(store).publish(window(1, *series), False)
    (run,) = runs(store)
    found = {name: value for name, value in run.data.metrics.items() if name.startswith("auc")}
    assert sorted(found.values()) == [n / 8 for n in range(len(values))]
    assert len({part_of(value) for value in values if value is not None}) == len(values) - 1


def test_a_store_that_is_away(tmp_path: pathlib.Path, made: pathlib.Path) -> None:
    path = tmp_path / "later" / "mlflow.db"
    path.parent.write_text("a file, no folder")
    publisher = publisher_of(f"sqlite:///{path}")
    with pytest.raises(Exception, match="later"):
        publisher.publish(window(1), False)
    path.parent.unlink()
    path.parent.mkdir()
    path.write_bytes(made.read_bytes())
    publisher.publish(window(1), True)
    assert [step for step, *_ in history(f"sqlite:///{path}", "auc/click")] == [1]


def test_the_environment_is_the_default(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    publisher = MLflow("ctr", "7c1f")
    assert publisher.identity == publisher_of(store).identity
    publisher.publish(window(1), False)
    assert len(runs(store)) == 1
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    MLflow("ctr", "7c1f").publish(window(1), False)
    assert len(MlflowClient(store).search_runs(["0"])) == 1
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", runs(store)[0].info.experiment_id)
    MLflow("ctr", "7c1f").publish(window(2), False)
    assert [step for step, *_ in history(store, "auc/click")] == [1, 2]


def test_an_identity_has_no_secrets() -> None:
    publisher = MLflow("r", "7c1f", "e", "postgresql://me:secret@host:1/db?password=secret")
    assert publisher.identity == "mlflow:postgresql://host:1/db#e/r"
