"""`insight.spark`, on a real Spark of two threads, against the same on one machine."""

from __future__ import annotations

import pathlib
import re
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from places import ROOT
from polars.testing import assert_frame_equal

from monolith_keras_metrics import insight
from monolith_keras_metrics.insight import spark as on_spark

pytestmark = [
    pytest.mark.slow,
    # PySpark leaves its sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    """A session of Spark."""
    pytest.importorskip("pyspark", reason="PySpark is not installed")
    if shutil.which("java") is None:
        pytest.skip("there is no java")
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setattr(on_spark, "_MERGERS", 2)
        session = (
            SparkSession.builder.master("local[2]")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.shuffle.partitions", "2")
            .getOrCreate()
        )
        yield session
        session.stop()


def records(rows: int, seed: int, targets: tuple[str, ...] = ("click", "buy")) -> pl.DataFrame:
    """Return records of a training with a replay, and with examples of several epochs."""
    random = np.random.default_rng(seed)
    known = random.normal(-1, 1, (len(targets), rows))
    struct = {
        "label": random.random(known.shape) < 1 / (1 + np.exp(-known)),
        "predict": np.where(random.random(known.shape) < 0.01, np.nan, 1 / (1 + np.exp(-known))),
        "sample_rate": random.choice([0.5, 1.0], known.shape),
    }
    return pl.DataFrame(
        {
            "model_name": ["ctr"] * rows,
            "uid": random.integers(-50, 50, rows),
            "req_time": random.integers(0, 20_000, rows),
            "train_time": random.integers(20_000, 30_000, rows),
            "sample_ratio": np.ones(rows),
            **{
                name: pl.DataFrame(
                    {
                        target: column.astype(np.float32)
                        for target, column in zip(targets, of_each, strict=True)
                    }
                ).to_struct()
                for name, of_each in struct.items()
            },
            "extra_str": pl.DataFrame(
                {
                    "country": pl.Series(["de", "fr", None]).sample(
                        rows, with_replacement=True, seed=1
                    )
                }
            ).to_struct(),
            "run": ["r"] * rows,
            "attempt": random.integers(1, 3, rows),
            "worker": random.integers(0, 2, rows),
            "position": np.arange(rows),
        }
    )


def written(folder: pathlib.Path, *parts: pl.DataFrame) -> str:
    """Write records as training does, with what lies beside its files."""
    folder.mkdir()
    for number, part in enumerate(parts):
        part.write_parquet(folder / f"worker-00000-{number}.parquet")
    (folder / "worker-00000-9.parquet.inprogress").write_bytes(b"half of it")
    (folder / ".spool").mkdir()
    (folder / ".spool" / "1.journal").write_bytes(b"waiting")
    return str(folder)


def check_same(spark: Any, place: Any, folder: Any, **arguments: Any) -> pl.DataFrame:
    """Compare the result of Spark with that of one machine, and return it."""
    found = insight.spark.summary(spark, place, **arguments)
    expected = insight.summary(insight.open_run(folder), **arguments)
    counts = ["examples", "unlabelled", "invalid", "revisits", "users"]
    assert_frame_equal(found.select(counts), expected.select(counts), check_exact=True)
    assert_frame_equal(found, expected, rel_tol=1e-9, abs_tol=1e-12)
    return found


def test_numbers_are_those_of_one_machine(spark: Any, tmp_path: pathlib.Path) -> None:
    """In groups and windows, with intervals; files differ in targets, and a replay is left out."""
    parts = (records(3_000, 2, ("click",)), records(3_000, 1))
    folder = written(tmp_path / "run", *parts)
    found = check_same(spark, folder, folder, by="country", window="1h", interval=0.9)
    assert found["target"].unique().sort().to_list() == ["buy", "click"]
    assert found["country"].null_count() > 0
    assert found["revisits"].sum() > 0
    # A DataFrame of Spark is a place, and so are several folders.
    read = spark.read.parquet(folder + "/worker-00000-0.parquet")
    by = (pl.col("uid") % 3).alias("third")
    one = f"{folder}/worker-00000-0.parquet"
    check_same(spark, read, one, by=by, exact=True, visits="all", measures=["auc", "gauc"])


def test_visits_of_an_example_are_found_wherever_they_are(
    spark: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their ids, in several epochs and attempts, and by their values where there is no id."""
    monkeypatch.setattr(on_spark, "_ROWS_IN_BUCKET", 500)
    random = np.random.default_rng(3)
    example = pl.Series("example_id", random.integers(0, 1_500, 4_000))
    epoch = pl.Series("epoch", random.integers(0, 3, 4_000))
    all_records = records(4_000, 4).with_columns(
        epoch, pl.when(example % 5 > 0).then(example), req_time=example
    )
    folders = [
        written(tmp_path / "a", all_records[:2_000]),
        written(tmp_path / "b", all_records[2_000:]),
    ]
    found = check_same(spark, folders, folders)
    assert 0 < found["examples"][0] < found["revisits"][0]


def test_the_page_of_the_documentation(
    spark: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "run", records(1_000, 1))
    page = (ROOT / "docs" / "spark.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    exec(snippet.replace("runs/ctr", folder), {})  # `getOrCreate` returns this session
    assert "auc_low" in capsys.readouterr().out


def test_wrong_arguments(
    spark: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are told as on one machine, not as an error of an executor."""
    folder = written(tmp_path / "run", records(10, 1))
    for arguments, match in (
        ({"measures": ["aucc"]}, "`measures` must be among"),
        ({"by": "city"}, "`by` must be among"),
        ({"interval": 2.0}, "`interval` must be"),
        ({"window": "an hour"}, "`window` must be a length of time"),
    ):
        with pytest.raises(ValueError, match=match):
            insight.spark.summary(spark, folder, **arguments)
    monkeypatch.setitem(sys.modules, "pyspark", None)
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(ImportError, match=r"monolith-keras-metrics\[spark\]"):
        insight.spark.summary(spark, folder)
