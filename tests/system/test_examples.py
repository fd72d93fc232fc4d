"""The examples run as a reader would run them, on all of the flights, and tell the truth."""

from __future__ import annotations

import datetime as dt
import importlib
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import nbclient
import nbformat
import polars as pl
import pytest
import warm
from places import EXAMPLES, ROOT
from sklearn.metrics import roc_auc_score
from training import read

from monolith_keras_metrics import insight
from monolith_keras_metrics.insight.items import Alert

pytestmark = pytest.mark.slow

NOTEBOOKS = {"first_look": ["first_look"], "compare_models": ["production", "candidate"]}
FLIGHTS = 336_776
_FIGURE = "application/vnd.plotly.v1+json"
TARGETS = ("dep_late", "arr_late")


def run(script: str, *arguments: str, cwd: pathlib.Path) -> str:
    """Run an example in its own process; return what it printed."""
    result = warm.run([str(EXAMPLES / script), *arguments], cwd=cwd)
    return checked(result.returncode, result.output, result.errors)


def checked(returncode: int | None, output: str, errors: str) -> str:
    """Return what an example printed, after checking that nothing went wrong."""
    assert returncode == 0, errors
    for sign in ("Traceback", "AutoGraph could not", "UserWarning", "WARNING:absl", "LOST"):
        assert sign not in output + errors
    return re.sub(r"\x1b\[\d+m", "", output)  # without the progress bar's colours


@pytest.fixture(scope="module")
def flights_module() -> Any:
    """`examples/flights.py`, without its folder on the path of other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        return importlib.import_module("flights")


@pytest.fixture(scope="module")
def flights(flights_module: Any) -> pl.DataFrame:
    return flights_module.load()


def cells(row: str, output: str) -> list[str]:
    """The cells of the one row of a printed table that begins with `row`."""
    (line,) = re.findall(rf"^│ {row} .*│$", output, re.MULTILINE)
    return [cell.strip() for cell in re.split("[│┆]", line)[1:-1]]


def check_records(records: pl.DataFrame, flights: pl.DataFrame) -> None:
    """Asserts that the records are these flights, in order and whole."""
    assert records.height == flights.height
    for column in ("uid", "req_time"):
        assert records[column].equals(flights[column])
    assert records["label"].struct.fields == list(TARGETS)
    for target in TARGETS:
        assert records["label"].struct.field(target).equals(flights[target], check_names=False)
        assert records["predict"].struct.field(target).is_between(0, 1, closed="none").all()
        assert (records["sample_rate"].struct.field(target) == 1).all()
    for column, names in (("extra_str", ["carrier", "origin", "dest"]),
                          ("extra_int", ["hour", "distance"])):  # fmt: skip
        assert records[column].struct.fields == names
        for name in names:
            assert records[column].struct.field(name).equals(flights[name])
    assert records["position"].to_list() == list(range(flights.height))


def check_shown(records: pl.DataFrame, output: str) -> dict[str, float]:
    """Asserts that AUC is scikit-learn's, or nearly so, and that the printed tables have it."""
    table, _, rest = output.partition("AUC by month:")
    columns = [f"{name}{end}" for name in ("calibration", "auc") for end in ("", "_low", "_high")]
    by_target = insight.summary(records, measures=["calibration", "auc"], interval=0.95)
    assert by_target["target"].to_list() == list(TARGETS)
    areas = dict(zip(TARGETS, by_target["auc"].to_list(), strict=True))
    exact = insight.summary(records, exact=True, measures="auc")["auc"]
    for (target, area), exact_area in zip(areas.items(), exact, strict=True):
        label, prediction = (records[c].struct.field(target) for c in ("label", "predict"))
        assert exact_area == pytest.approx(roc_auc_score(label, prediction), abs=1e-9)
        assert area == pytest.approx(exact_area, abs=2e-5)
        predicted, observed = (one.cast(pl.Float64).sum() for one in (prediction, label))
        values = by_target.row(by_predicate=pl.col("target") == target, named=True)
        values["calibration"] = predicted / observed
        counts = [f"{records.height:,}", f"{records['uid'].n_unique():,}"]
        assert cells(target, table) == [target, *counts, *(f"{values[c]:.3f}" for c in columns)]
    wrong = insight.slices(records, ["carrier", "origin", "hour"], most=5)
    for target, where in wrong.select("target", "slice").rows():
        assert re.search(rf"^│ {target} ┆ {where} ", rest, re.MULTILINE)
    return areas


def test_flights(flights: pl.DataFrame) -> None:
    """Two flights by hand, and counts that anyone can make from the data."""
    assert flights.height == FLIGHTS
    assert flights.null_count().sum_horizontal().item() == 0
    assert flights["req_time"].is_sorted()
    assert flights["carrier"].n_unique() == 16
    assert flights["origin"].n_unique() == 3
    assert flights["dest"].n_unique() == 105
    # 4,043 tail numbers; 2,512 flights have none.
    assert flights.filter(pl.col("uid") < 0).height == 2512
    assert flights["uid"].n_unique() == 4043 + 2512
    # United 1545 to Houston, 2013-01-01 at 5:15, was 2 minutes late to leave and 11 to arrive.
    # At 4:00 there: 39.9 °F, 62% humidity, no rain, 12.7 miles an hour, 10 miles and 1012.2 mbar.
    first = flights.row(0, named=True)
    assert first == {
        "uid": int("N14228", 36),
        "req_time": 1357034400,
        "carrier": "UA",
        "origin": "EWR",
        "dest": "IAH",
        "distance": 1400,
        "dep_late": 0.0,
        "arr_late": 0.0,
        "carrier_id": 11,
        "origin_id": 0,
        "dest_id": 43,
        "hour": 5,
        "weekday": 1,
        "temperature": 3,
        "humidity": 6,
        "rain": 0,
        "wind": 2,
        "visibility": 10,
        "pressure": 6,
    }
    # At Newark on July 3 it poured at 14:00 (0.94 inch; pressure not known) and was dry at 15:00.
    three = dt.datetime(2013, 7, 3, 15 + 4, tzinfo=dt.timezone.utc)
    rows = flights.filter(pl.col("origin") == "EWR", pl.col("req_time") == three.timestamp())
    assert rows.height > 10
    assert rows.select("rain", "pressure").unique().rows() == [(2, 12)]


def test_inputs_are_known_before_departure(
    flights_module: Any, flights: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without all that is known only later, labels change and nothing else does."""
    later = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
    read_all = flights_module._read

    def read_early(name: str) -> pl.DataFrame:
        frame = read_all(name)
        here = [column for column in later if column in frame.columns]
        return frame.with_columns(pl.lit(None, pl.Int64).alias(column) for column in here)

    monkeypatch.setattr(flights_module, "_read", read_early)
    early = flights_module.load()
    assert early.drop(TARGETS).equals(flights.drop(TARGETS))
    assert early.select(pl.col(TARGETS).min()).row(0) == (1.0, 1.0)
    for name, size in flights_module.INPUTS.items():
        assert 0 <= flights[name].min() <= flights[name].max() < size


def test_quickstart(flights: pl.DataFrame, tmp_path: pathlib.Path) -> None:
    """In the folder of an earlier training, it shows the newer one."""
    folder = tmp_path / "runs" / "flights"
    folder.mkdir(parents=True)
    earlier = pl.DataFrame(
        {
            "uid": [1, 2],
            "req_time": [1357034400] * 2,
            "label": [{"dep_late": 0.0, "arr_late": 1.0}] * 2,
            "predict": [{"dep_late": 0.5, "arr_late": 0.5}] * 2,
            "attempt": [1, 1],
        }
    )
    earlier.write_parquet(folder / "earlier.parquet")
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__"]
    result = subprocess.run(
        [*command, EXAMPLES / "quickstart.py"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    output = checked(result.returncode, result.stdout, result.stderr)
    assert re.search(r"658/658.*s .*ms/step.* loss: \d", output)
    assert f"Deep insight: {FLIGHTS:,} of {FLIGHTS:,} examples written to runs/flights" in output
    records = pl.read_parquet(folder / "worker-*.parquet").sort("position")
    check_records(records, flights)
    for area in check_shown(records, output).values():
        assert area > 0.68
    assert "│ dep_late ┆ hour=6 " in output
    months = [cells(f"2013-{month:02d}", output) for month in range(1, 13)]
    assert sum(int(count.replace(",", "")) for _, count, *_ in months) == FLIGHTS
    assert months[0][1] == "27,004"
    # It learns: from January to March, and stays well above January.
    january, later = months[0], months[2:]
    for column in (2, 3):
        assert all(float(row[column]) > float(january[column]) + 0.03 for row in later)


def test_custom_loop(flights: pl.DataFrame, tmp_path: pathlib.Path) -> None:
    limit = 20_000
    output = run("custom_loop.py", "--limit", str(limit), "--out", "records", cwd=tmp_path)
    assert re.search(r"40/40.* loss: \d", output)
    assert f"Stats(accepted={limit}, sampled={limit}, unsampled=0, written={limit}" in output
    records = read(tmp_path / "records")
    check_records(records, flights.head(limit))
    check_shown(records, output)


def outputs(notebook: Any) -> list[Any]:
    return [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]


def pictures(notebook: Any) -> list[Any]:
    found = [out.get("data", {}).get(_FIGURE) for out in outputs(notebook)]
    return [picture for picture in found if picture]


def notebook_of(name: str) -> Any:
    return nbformat.read(EXAMPLES / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook(
    name: str, flights: pl.DataFrame, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole notebook runs, and trains and plots as the committed one did."""
    for script in EXAMPLES.glob("*.py"):
        shutil.copy(script, tmp_path)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = notebook_of(name)
    committed = pictures(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()  # raises what a cell raises
    assert len(pictures(notebook)) == len(committed) == {"first_look": 4, "compare_models": 1}[name]
    for run in NOTEBOOKS[name]:
        check_records(read(folder / "runs" / run), flights)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_notebook_reads_well_without_running(name: str) -> None:
    notebook = notebook_of(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert all(not cell.metadata for cell in notebook.cells)
    assert all(picture["data"] for picture in pictures(notebook))
    for out in outputs(notebook):
        assert out.output_type != "error"
        assert out.get("name") != "stderr"
        text = "".join([out.get("text", ""), *map(str, out.get("data", {}).values())])
        if _FIGURE not in out.get("data", {}):
            assert not re.search(r"(^|[\s'\"(])(/\w+|[A-Z]:\\)[/\w]", text), "a path"
    shown = [out for out in outputs(notebook) if f"{FLIGHTS:,}" in out.get("text", "")]
    assert len(shown) == len(NOTEBOOKS[name])


@pytest.mark.system
def test_a_planted_incident_is_found(tmp_path: pathlib.Path) -> None:
    """The alerts that the page "On call" tells of: when, why, and when they are over."""
    run("incident.py", "--out", "runs/incident", cwd=tmp_path)
    rules = EXAMPLES / "incident.toml"
    items: list[Any] = []
    counts = insight.watch(
        tmp_path / "runs/incident",
        rules=rules,
        window="6h",
        once=True,
        final=True,
        told=items.append,
    )
    assert (counts["late"], counts["open"]) == (0, 0)
    alerts = [item for item in items if isinstance(item, Alert)]
    begin = dt.datetime(2013, 6, 10, tzinfo=dt.timezone.utc).timestamp()
    hours = 3600
    assert {alert.model for alert in alerts} == {"flights"}
    fired = [alert for alert in alerts if alert.state == "firing"]
    assert {alert.name for alert in fired} == {"calibration", "calibration by airport"}
    for alert in fired:
        assert alert.value is not None
        assert alert.value > 1.1
        assert alert.since is not None
        assert begin <= alert.since <= begin + 12 * hours
        assert begin + 6 * hours < alert.at <= begin + 24 * hours
    everywhere = [alert for alert in fired if not alert.group]
    assert everywhere
    assert all("hour=21" in alert.culprits[0].where for alert in everywhere)
    assert {alert.group["origin"] for alert in fired if alert.group} == {"EWR"}
    resolved = [alert for alert in alerts if alert.state == "resolved"]
    assert len(resolved) == len(fired)
    assert all(begin + 48 * hours < alert.at <= begin + 84 * hours for alert in resolved)
