"""A report without groups of few users: they are not in it, and cannot be found by subtraction."""

from __future__ import annotations

import pathlib

import numpy as np
import polars as pl
import pytest

from monolith_keras_metrics import command, insight

MINIMUM = 10
START = 1_700_006_400  # a full hour
HOURS = 160
FEW = "the-only-one"  # a value that two users have
BUSY = 3  # records of each of the 40 usual users in an hour
LONELY = 17  # an hour of three users


def made() -> pl.DataFrame:
    """Return records of some days: one hour of them, and one country, are of few users."""
    hour = np.repeat(np.arange(HOURS), 40 * BUSY)
    user = np.tile(np.repeat(np.arange(40), BUSY), HOURS)
    kept = (hour != LONELY) | (user < 3)
    hour, user = hour[kept], user[kept]
    country = np.where(
        (user < 2) & (hour < 100), FEW, np.where(user < 13, "FR", np.where(user < 27, "DE", "US"))
    )
    random = np.random.default_rng(5)
    p = random.uniform(0.1, 0.6, hour.size)
    labels = (random.random(hour.size) < p).astype(np.float32)
    return pl.DataFrame(
        {
            "uid": user,
            "req_time": START + 3_600 * hour,
            "label": pl.DataFrame({"ctr": labels}).to_struct(),
            "predict": pl.DataFrame({"ctr": p * np.where(country == FEW, 1.5, 1)}).to_struct(),
            "extra_str": pl.DataFrame(
                {"country": country, "device": np.where(user % 2, "phone", "desk")}
            ).to_struct(),
        }
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    return insight.report(made(), path, minimum_users=MINIMUM)


@pytest.fixture(scope="module")
def tables(path: pathlib.Path) -> dict[str, pl.DataFrame]:
    return insight.open_report(path)


def test_small_groups_are_not_in_the_file(
    path: pathlib.Path, tables: dict[str, pl.DataFrame], tmp_path: pathlib.Path
) -> None:
    everything = insight.report(made(), tmp_path / "all.html").read_text(encoding="utf-8")
    assert FEW in everything
    text = path.read_text(encoding="utf-8")
    assert FEW not in text
    assert f"Groups of fewer than {MINIMUM} users are not shown" in text
    for name, table in tables.items():
        if "users" in table.columns:
            assert table["users"].min() >= MINIMUM, name
        for column in table.select(pl.col(pl.String)).get_columns():
            assert FEW not in column.to_list(), name
    assert tables["slices"].is_empty()


def test_a_value_is_not_the_total_without_the_others(tables: dict[str, pl.DataFrame]) -> None:
    by_value = tables["by_value"]
    shown = by_value.filter(pl.col("field") == "country")["value"].to_list()
    assert sorted(shown) == ["DE", "US"]  # FR, the smallest of the others, is hidden as well
    assert by_value.filter(pl.col("field") == "device").height == 2
    timed = tables["by_value_and_time"].filter(pl.col("field") == "country")
    assert {*timed["value"]} == {"DE", "US"}


def test_a_window_is_not_the_longer_one_without_the_others(tables: dict[str, pl.DataFrame]) -> None:
    """The hour of few users is hidden with another one of the same six hours."""
    assert tables["by_value_and_time"]["window"].dt.hour().unique().sort().to_list() == [
        0,
        6,
        12,
        18,
    ]
    hours = [int(one.timestamp() - START) // 3_600 for one in tables["by_time"]["window"]]
    gone = {*range(HOURS)} - {*hours}
    assert len(gone) == 2
    assert LONELY in gone
    assert {hour // 6 for hour in gone} == {LONELY // 6}
    assert tables["changes"].is_empty()  # the newest time is some of the windows


def test_what_cannot_be_hidden_is_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.html"
    with pytest.raises(ValueError, match="`minimum_users` must be 0 with `against`"):
        insight.report(made(), path, against=made(), minimum_users=MINIMUM)
    with pytest.raises(ValueError, match=r"`minimum_users` must be at least 0. Received: -1"):
        insight.report(made(), path, minimum_users=-1)
    assert not path.exists()
    run = tmp_path / "run"
    run.mkdir()
    made().write_parquet(run / "worker-00000.parquet")
    assert command.main(["report", str(run), "-o", str(path), "--minimum-users", "1000"]) == 0
    assert capsys.readouterr().out.startswith(str(path))
    assert "No target has 1,000 users." in path.read_text(encoding="utf-8")
    assert all(
        table.is_empty()
        for name, table in insight.open_report(path).items()
        if "target" in table.columns
    )
