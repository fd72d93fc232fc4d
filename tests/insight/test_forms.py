"""Summaries of records and of their long form, few targets and many."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from monolith_keras_metrics.insight import long_form, open_run, summary
from monolith_keras_metrics.insight.rows import plan_of

# Another one for each target: it depends on all of a target's rows.
HALF = (pl.col("predict").rank() > pl.len() / 2).alias("half")


def records(targets: int, rows: int = 50) -> pl.DataFrame:
    """Records of many targets, whose last one every second example does not have."""
    random = np.random.default_rng(0)
    names = [f"t{i}" for i in range(targets)]

    def struct(values: np.ndarray) -> pl.Series:
        frame = pl.DataFrame(values.astype(np.float32), schema=dict.fromkeys(names, pl.Float32))
        lacks = pl.int_range(pl.len()) % 2 == 1
        return frame.with_columns(pl.when(~lacks).then(names[-1]).alias(names[-1])).to_struct()

    predictions = random.random((rows, targets))
    return pl.DataFrame({
        "uid": random.integers(0, 9, rows),
        "req_time": range(rows),
        "label": struct(random.random((rows, targets)) < predictions),
        "predict": struct(predictions),
        "sample_rate": struct(random.uniform(0.1, 1, (rows, targets))),
        "extra_str": pl.DataFrame({"country": random.choice(["DE", "FR"], rows)}).to_struct(),
        "epoch": [0] * (rows - 5) + [1] * 5,
    })  # fmt: skip


@pytest.mark.parametrize("by", [(), "country", HALF])
def test_the_long_form_is_measured_alike(by: str | pl.Expr) -> None:
    frame = records(3)
    expected = summary(frame, by)
    assert expected.group_by("target").agg(pl.col("examples", "revisits").sum()).sort(
        "target"
    ).rows() == [("t0", 45, 5), ("t1", 45, 5), ("t2", 23, 2)]
    long = long_form(frame)
    for form in (long, long.collect(), frame.lazy()):
        assert_frame_equal(summary(form, by), expected)


def test_of_the_long_form_a_part_is_enough() -> None:
    rows = pl.DataFrame({
        "target": ["b", "a", "b"],
        "label": [1.0, 0.0, 0.0],
        "predict": [0.9, 0.5, 0.1],
        "uid": [7, 7, 8],
    })  # fmt: skip
    assert summary(rows).select("target", "examples", "users", "auc").rows() == [
        ("b", 2, 2, 1.0),
        ("a", 1, 1, None),
    ]


@pytest.mark.slow
def test_a_thousand_targets_of_a_file(tmp_path: pathlib.Path) -> None:
    """Each as if it were alone. (It took more than minutes, as a plan with a branch a target.)"""
    frame = records(1_000)
    frame.write_parquet(tmp_path / "a.parquet")
    result = summary(open_run(tmp_path), "country")
    assert result["target"].unique(maintain_order=True).to_list() == [f"t{i}" for i in range(1_000)]
    for name in ("t0", "t517", "t999"):
        alone = frame.with_columns(
            pl.struct(pl.col(column).struct.field(name)).alias(column)
            for column in ("label", "predict", "sample_rate")
        )
        assert_frame_equal(result.filter(target=name), summary(alone, "country"))


@pytest.mark.parametrize(("by", "read"), [((), 5), ("country", 6), ("from_logits", 6)])
def test_only_what_is_needed_is_read(tmp_path: pathlib.Path, by: str, read: int) -> None:
    """Polars reads every struct that is taken apart, whatever is selected of it."""
    frame = records(3).with_columns(from_logits=pl.struct(t0=pl.lit(True)))
    frame.write_parquet(tmp_path / "a.parquet")
    plan = plan_of(open_run(tmp_path), by, None, "req_time", True, "first", ())
    assert re.findall(r"PROJECT (.*) COLUMNS", plan.source.explain()) == [f"{read}/8"]
    found = summary(open_run(tmp_path), by)
    assert_frame_equal(found, summary(frame, by))
    assert found["examples"].sum() == 45 + 45 + 23


def test_the_example_needs_a_uid() -> None:
    with pytest.raises(ValueError, match=r"`records` must have a column 'uid'.*\['label'"):
        summary(records(1).select("label", "predict"))
