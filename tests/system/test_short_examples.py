"""The short example scripts run as they stand."""

from __future__ import annotations

import pathlib

import polars as pl
import pytest
import warm
from places import EXAMPLES

from monolith_keras_metrics import insight

pytestmark = pytest.mark.slow


def run(name: str, out: pathlib.Path) -> tuple[str, pl.DataFrame]:
    ended = warm.run([str(EXAMPLES / name), "--out", str(out)])
    assert ended.returncode == 0, ended.errors
    return ended.output, insight.open_run(out).collect()


def test_xla(tmp_path: pathlib.Path) -> None:
    output, records = run("xla.py", tmp_path)
    assert "still compiled: True" in output
    assert 1_500 < records.height < 2_500
    assert (records["uid"] % 1000 < 100).all()
    assert set(records["extra_str"].struct.field("country")) == {"DE", "FR", "JP"}


def test_own_train_step(tmp_path: pathlib.Path) -> None:
    output, records = run("own_train_step.py", tmp_path)
    assert "'seen': 20000" in output
    by_callback, by_layer = (
        records.filter(model_name=name).sort("position") for name in ("callback", "layer")
    )
    assert by_callback["uid"].to_list() == by_layer["uid"].to_list()
    assert by_callback["mode"].unique().to_list() == ["train"]
