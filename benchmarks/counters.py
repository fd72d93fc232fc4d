"""Measure what counters cost in training: ratios of wall and CPU times with and without a back end.

The model of `overhead.py` is fitted with the callback (Parquet, sample ratio 0.01): without a back
end, with each of `counters`, and with an OpenTelemetry collector that reads requests and never
answers. All methods alternate in one process. Each round gives the ratio to that round's fit
without a back end, and the table shows the medians. Back ends send every second, five times as
often as by default.

    python benchmarks/counters.py --rounds 9
"""

from __future__ import annotations

import argparse
import pathlib
import socket
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from overhead import FEATURES, batches, make_model, measure

from monolith_keras_metrics import DeepInsightCallback, MetricsCallback, cli, counters


def hanging_port() -> int:
    """Return a port that accepts connections and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []

    def accept() -> None:
        while True:
            accepted.append(server.accept()[0])

    threading.Thread(target=accept, daemon=True).start()
    return int(server.getsockname()[1])


def make_runs(rows: int, folder: str) -> dict[str, Callable[[], Any]]:
    """Return a function per back end that fits a separate model with it."""
    rng = np.random.default_rng(0)
    columns = {
        "features": rng.random((rows, FEATURES), dtype=np.float32),
        "uid": rng.integers(0, 1_000_000, rows),
        "req_time": 1_700_000_000 + np.arange(rows),
    }
    data = batches((columns, (rng.random(rows) < 0.3).astype(np.float32)))

    def fit(
        name: str,
        backend: cli.Backend | None,
        *others: Any,
        ratio: float = 0.01,
        logs: bool = False,
    ) -> Callable[[], Any]:
        model = make_model(jit_compile=False)
        recorder = DeepInsightCallback(
            f"{folder}/{name}", model_name="ctr", sample_ratio=ratio, log_measures=logs
        )

        def run() -> None:
            with cli.use_backend(backend):
                model.fit(data, callbacks=[recorder, *others], verbose=0)

        return run

    hanging = f"http://127.0.0.1:{hanging_port()}"
    backends: dict[str, cli.Backend | None] = {
        "no back end": None,
        "prometheus, scraped": counters.prometheus(port=0),
        "prometheus, file": counters.prometheus(textfile=f"{folder}/counters.prom", seconds=1),
        "statsd": counters.statsd(seconds=1),
        "opentelemetry, hanging": counters.opentelemetry(hanging, seconds=1),
    }
    scraped = backends["prometheus, scraped"]
    return {
        **{name: fit(name, backend) for name, backend in backends.items()},
        "prometheus, MetricsCallback": fit("metrics", scraped, MetricsCallback("ctr", seconds=1)),
        "no back end, every user": fit("every", None, ratio=1.0),
        "log_measures, every user": fit("logs", None, ratio=1.0, logs=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(make_runs(arguments.rows, str(pathlib.Path(folder))), arguments.rounds)
    print("| method | wall s | wall ratio | CPU s | CPU ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        print(
            f"| {row['way']} | {row['wall_seconds']:.2f} | {row['wall_ratio']:.3f} "
            f"| {row['cpu_seconds']:.2f} | {row['cpu_ratio']:.3f} |"
        )


if __name__ == "__main__":
    main()
