"""Items for MLflow: metrics of a run, at their windows' own times.

Nothing is there twice after a crash: each item ends with the metric `deep_insight_item`, its
number. An item without it may be there in part. Then each of its metrics is looked up first.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Sequence
from typing import Any

from monolith_keras_metrics.insight.items import Alert, Item
from monolith_keras_metrics.insight.publish.names import name_of, numbers_of, time_of
from monolith_keras_metrics.insight.publish.publisher import Publisher, missing

try:
    import mlflow
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException
except ImportError as error:
    raise missing("mlflow or mlflow-skinny 2.10 or newer", "mlflow", error) from error

LAST = "deep_insight_item"
"""The metric that an item ends with: its number."""

_MOST = 1_000  # metrics of a call, MLflow's limit
_LONGEST_PART = 40  # of a name, whose limit is 250
_LONGEST_TEXT = 5_000  # of a tag, in MLflow before 2.11
_WATCHED = "deep_insight.run"  # the tag by which the run is found again
_RUN_ID = re.compile(r"[0-9a-f]{32}")


class MLflow(Publisher):
    """A run in MLflow.

    Args:
        name: The run's name, or the id of a run that is there. A run of that name is created once.
        run: What tells the watched run from others, the same after a restart. The run in MLflow
            has it as the tag `deep_insight.run`, and is found by it.
        experiment: The experiment's name. It is created if it is missing. By default as in
            `MLFLOW_EXPERIMENT_NAME` or `MLFLOW_EXPERIMENT_ID`, else MLflow's default experiment.
        tracking_uri: Where MLflow keeps runs. By default as in `MLFLOW_TRACKING_URI`.
    """

    def __init__(
        self, name: str, run: str, experiment: str | None = None, tracking_uri: str | None = None
    ) -> None:
        self._tracking_uri = tracking_uri or mlflow.get_tracking_uri()
        self._name = name
        self._run = run
        named = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        by_id = named is None and "MLFLOW_EXPERIMENT_ID" in os.environ
        self._experiment = None if by_id else named or "Default"
        self._run_id: str | None = None
        self.identity = f"mlflow:{_without_secrets(self._tracking_uri)}#{named or ''}/{name}"

    def publish(self, item: Item, maybe_there: bool) -> None:
        """Log the metrics of an item, then its number."""
        run_id = self._run_id = self._run_id or self._find() or self._create()
        milliseconds = time_of(item) * 1000
        metrics = [
            Metric(name, value, milliseconds, item.number)
            for name, value in numbers_of(item, part_of)
        ]
        if maybe_there:
            if self._last(run_id) >= item.number:
                return
            metrics = [metric for metric in metrics if not self._has(run_id, metric)]
        for start in range(0, len(metrics), _MOST):
            self._client.log_batch(run_id, metrics=metrics[start : start + _MOST])
        if isinstance(item, Alert):
            text = f"{item.state}: {item.text}"[:_LONGEST_TEXT]
            self._client.set_tag(run_id, name_of(item, part_of), text)
        last = Metric(LAST, float(item.number), milliseconds, item.number)
        self._client.log_batch(run_id, metrics=[last])

    @functools.cached_property
    def _client(self) -> MlflowClient:
        # Not before the first item, since it may create the tables of a database.
        return MlflowClient(tracking_uri=self._tracking_uri)

    def _last(self, run_id: str) -> float:
        """Return the number of the last item that is there completely; 0 if there is none."""
        return float(self._client.get_run(run_id).data.metrics.get(LAST, 0.0))

    def _has(self, run_id: str, metric: Any) -> bool:
        history = self._client.get_metric_history(run_id, metric.key)
        return any(one.step == metric.step for one in history)

    def _find(self) -> str | None:
        """Return the id of the run; None if it is not there yet.

        Raises:
            MlflowException: If the name is an id, and there is no such run.
        """
        if _RUN_ID.fullmatch(self._name):
            return str(self._client.get_run(self._name).info.run_id)
        runs = self._client.search_runs(
            [self._experiment_id()], f"tags.`{_WATCHED}` = '{self._run}'"
        )
        found: Sequence[str] = [one.info.run_id for one in runs if one.info.run_name == self._name]
        return found[0] if found else None

    def _create(self) -> str:
        # Tags come with the run in one call: there is no run that would not be found again.
        run = self._client.create_run(
            self._experiment_id(), tags={_WATCHED: self._run}, run_name=self._name
        )
        return str(run.info.run_id)

    def _experiment_id(self) -> str:
        if self._experiment is None:
            return os.environ["MLFLOW_EXPERIMENT_ID"]
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return str(self._client.create_experiment(self._experiment))
            except MlflowException:  # another process was faster
                found = self._client.get_experiment_by_name(self._experiment)
                if found is None:
                    raise
        return str(found.experiment_id)


def part_of(text: str) -> str:
    """Return a part of a metric's name, with the characters that MLflow allows.

    A text that has others, or is too long, gets a hash, so that two texts never get one name.

    Example:
    >>> part_of("US"), part_of("a/b"), part_of("a+b")
    ('US', 'a_b-c14cddc0', 'a_b-300273da')
    """
    plain = re.sub(r"[^\w. -]", "_", text)[:_LONGEST_PART]
    if plain == text and plain.strip(". "):
        return plain
    return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _without_secrets(uri: str) -> str:
    """Return a URI without a user's name and password, and without a query."""
    return re.sub(r"(?<=//)[^/@]*@", "", uri.partition("?")[0])
