"""How programs use the package, for type checkers alone: `mypy` reads it, nothing runs it."""

from __future__ import annotations

import pathlib

import numpy as np
import polars as pl

from monolith_keras_metrics import (
    Batch,
    DeepInsightCallback,
    DeepInsightClient,
    DeepInsightLayer,
    Layout,
    MetricsCallback,
    Options,
    client_of,
    deep_insight_client,
    insight,
)
from monolith_keras_metrics.pipeline.ledger import Stats
from monolith_keras_metrics.sinks import Sink
from monolith_keras_metrics.testing import Clock, CollectingSink, FailingSink, example_batch

recorder = DeepInsightCallback(
    ["runs/ctr", pathlib.Path("runs/copy")],
    model_name="ctr",
    extra_fields=["country"],
    targets={"out": ["click", "buy"]},
    log_measures=["auc", "log_loss"],
    overflow="drop",
    flush_seconds=5,
    uid_hash_key=b"key",
)
stats: Stats | None = recorder.stats
MetricsCallback("ctr", seconds=30)
DeepInsightCallback("runs/ctr")  # type: ignore[call-arg]
DeepInsightCallback("runs/ctr", model_name="ctr", overflow="wait")  # type: ignore[arg-type]
DeepInsightCallback("runs/ctr", model_name="ctr", flush_second=5)  # type: ignore[call-arg]

sink: Sink = CollectingSink()
options = Options(run="ctr", worker=3, spool=pathlib.Path("journal"))
with DeepInsightClient([sink, FailingSink()], options, clock=Clock(1.0)) as client:
    layout = Layout("ctr", ("click",), sample_ratio=1.0, mode="train")
    numbers = np.arange(3)
    client.write(Batch(layout, 3, numbers, numbers, 0, [numbers], [numbers]))
    client.write(example_batch())
    delivered: bool = client.flush(10, to="journal")
written: int = client.stats().written
DeepInsightClient(sink, spool_bytes="1 GiB")  # type: ignore[arg-type]
DeepInsightClient(3)  # type: ignore[arg-type]

layer = DeepInsightLayer("runs/ctr", model_name="ctr", client_options={"exit_timeout": 5})
client_of(deep_insight_client(True, sink="runs/ctr", queue_rows=10)).close(raising=False)

records: pl.LazyFrame = insight.open_run("runs/ctr")
measures: pl.DataFrame = insight.summary(records, by="country")
rows: int = measures.height
