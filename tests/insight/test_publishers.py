"""The URIs of places where items are published, and the packages that they need."""

from __future__ import annotations

import builtins
import pathlib
import socket
import sys
from typing import Any

import pytest
from told import alert

from monolith_keras_metrics.insight import publish
from monolith_keras_metrics.insight.publish import FORMS, names, publisher_of


def identity_of(uri: str, module: str) -> str:
    pytest.importorskip(module, reason=f"{module} is not installed")
    publisher = publisher_of(uri, "7c1f")
    publisher.close()
    return publisher.identity


def test_a_folder_of_tensorboard_is_absolute(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    identity = f"tensorboard:{tmp_path}/logs"
    assert identity_of("tensorboard:logs", "tensorboard") == identity
    assert identity_of(f"tensorboard:{tmp_path}/logs/", "tensorboard") == identity
    assert not list(tmp_path.iterdir())  # nothing before the first item


def test_places_of_prometheus(tmp_path: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            identity_of(f"prometheus://127.0.0.1:{port}", "prometheus_client")
    for uri in (f"prometheus://127.0.0.1:{port}", f"prometheus:{tmp_path}/a.prom"):
        assert identity_of(uri, "prometheus_client") == uri


@pytest.mark.slow  # the import of mlflow
def test_runs_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow:5000")
    expected = {
        "ctr": "http://mlflow:5000#/ctr",
        "/Shared/on call/ctr": "http://mlflow:5000#/Shared/on call/ctr",
        "https://me:secret@host/x#ads/ctr": "https://host/x#ads/ctr",
        "sqlite:////data/mlflow.db#ads/ctr": "sqlite:////data/mlflow.db#ads/ctr",
        "databricks#ctr": "databricks#/ctr",
    }
    for rest, shown in expected.items():
        assert identity_of(f"mlflow:{rest}", "mlflow") == f"mlflow:{shown}"


def test_runs_of_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    assert identity_of("wandb:ctr", "wandb") == "wandb:/deep-insight/ctr"
    assert identity_of("wandb:ads/ctr", "wandb") == "wandb:/ads/ctr"
    assert identity_of("wandb:me/ads/ctr", "wandb") == "wandb:me/ads/ctr"
    monkeypatch.setenv("WANDB_PROJECT", "other")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    assert identity_of("wandb:ctr", "wandb") == "wandb:us/other/ctr"


def test_webhooks() -> None:
    url = "https://hooks.example.com:8443/T0/B0/secret"
    alerts, windows = (
        publisher_of(f"{kind}:{url}", "r") for kind in ("webhook", "webhook+windows")
    )
    assert alerts.identity.startswith("webhook:https://hooks.example.com:8443#")
    assert windows.identity.startswith("webhook+windows:https://hooks.example.com:8443#")
    assert "secret" not in alerts.identity
    assert publisher_of(f"webhook:{url}2", "r").identity != alerts.identity


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "secret",
        "slack:secret",
        "webhook:",
        "tensorboard:",
        "tensorboard: ",
        "prometheus:secret.txt",
        "prometheus://secret",
        "prometheus://me:secret@host:1",
        "wandb:a/b/c/secret",
        "wandb:secret//c",
        "wandb:secret/",
        "mlflow:http://me:secret@host#ads/",
        "mlflow:#",
    ],
)
def test_a_uri_that_is_wrong_is_not_repeated(uri: str) -> None:
    for module in ("prometheus_client", "tensorboard", "wandb", "mlflow"):
        if uri.partition(":")[0] == module.partition("_")[0]:
            pytest.importorskip(module)
    with pytest.raises(ValueError, match="must be tensorboard:DIR, ") as failed:
        publisher_of(uri, "r")
    assert FORMS in str(failed.value)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    ("extra", "module", "uri"),
    [
        ("tensorboard", "tensorboard", "tensorboard:logs"),
        ("prometheus", "prometheus_client", "prometheus:/a.prom"),
        ("wandb", "wandb", "wandb:ctr"),
        ("mlflow", "mlflow", "mlflow:ctr"),
    ],
)
def test_a_missing_extra_is_named(
    extra: str, module: str, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == module:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *arguments, **keywords)

    for name in list(sys.modules):
        if name.rpartition(".")[2] == f"to_{extra}" and name.startswith("monolith_keras_metrics"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(publish, f"to_{extra}", raising=False)
    monkeypatch.setattr("monolith_keras_metrics.counters.to_prometheus", None, raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=rf"monolith-keras-metrics\[{extra}\]"):
        publisher_of(uri, "r")


def test_names_of_alerts() -> None:
    keep = str
    assert names.name_of(alert(1), keep) == "alerts/too sure/click/US"
    by_two = alert(1, group={"country": None, "device": "tv"})
    assert names.name_of(by_two, keep) == "alerts/too sure/click/(none)/tv"
    assert names.group_of(by_two) == ("country,device", "(none),tv")
    assert names.name_of(alert(1, name="no data", target="", group={}), keep) == "alerts/no data"
