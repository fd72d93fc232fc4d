"""`DeepInsightLayer`: records from inside a model or a `train_step`."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from monolith_keras_metrics.capture.compat import keras
from monolith_keras_metrics.capture.input_columns import check_column
from monolith_keras_metrics.deep_insight_ops import write_deep_insight_v2
from monolith_keras_metrics.pipeline import lifecycle
from monolith_keras_metrics.pipeline.client import DeepInsightClient
from monolith_keras_metrics.pipeline.options import Options, make_options
from monolith_keras_metrics.records.batch import Layout
from monolith_keras_metrics.records.columns import EXTRA, ID, NUMBER, TIME, Kind
from monolith_keras_metrics.sinks import Destination, parse_all
from monolith_keras_metrics.threads import WarnOnce


@keras.utils.register_keras_serializable("monolith_keras_metrics")
class DeepInsightLayer(keras.layers.Layer):
    """Record each example that passes through; predictions pass through unchanged.

    It works like a `keras.metrics.Metric`: `update_state` records, `result` returns the counts, and
    `reset_state` resets them. Called as a layer, it records if `training` is true. The first record
    opens the client; `close` or the exit of the process closes it. A record after `close` opens a
    new client, even in a function that was traced before.

    The write is a `tf.py_function`, which XLA cannot compile. The layer therefore sets
    `supports_jit = False`, so that Keras does not enable XLA for the model automatically.

    Args:
        sink: Where to write: a folder (Parquet), `"jsonl:PATH"`, `"tfrecord:PATH"`,
            `"kafka://HOST:PORT/TOPIC"`, or a list of these. A relative folder is resolved when the
            layer is created. A saved model keeps the relative folder, and resolves it where the
            model is loaded. Secrets in a URI (`sasl.password=…`) are not saved: set `sink` again
            after loading.
        model_name: Name of the model in the records.
        target: Name of the target.
        sample_ratio: Share of users to record, from 0 to 1.
        client_options: Further arguments of `DeepInsightClient`.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Raises:
        TypeError, ValueError: If an argument is invalid.

    Example:
    >>> import tempfile, tensorflow as tf
    >>> layer = DeepInsightLayer(tempfile.mkdtemp(), model_name="ctr", sample_ratio=1.0)
    >>> predictions = layer(tf.constant([[0.5], [0.25]]), labels=tf.constant([1.0, 0.0]),
    ...                     uid=tf.constant([3, 4]), req_time=tf.constant([7, 8]), training=True)
    >>> predictions.numpy().ravel()
    array([0.5 , 0.25], dtype=float32)
    >>> layer.close()
    >>> layer.result()
    {'seen': 2, 'sampled': 2, 'written': 2}
    """

    def __init__(
        self,
        sink: Any,
        *,
        model_name: str,
        target: str = "ctr_head",
        sample_ratio: float = 0.01,
        client_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"trainable": False, **kwargs})
        self.supports_jit = False
        self.model_name = model_name
        self.target = target
        self.sample_ratio = Layout(model_name, (target,), (), sample_ratio).sample_ratio
        self.client_options = dict(client_options or {})
        if "uid_hash_key" in self.client_options:
            raise ValueError(
                "`client_options` must not contain 'uid_hash_key': it is a secret, and a layer's "
                "arguments are saved with the model. Hash uids with DeepInsightCallback, or with "
                "deep_insight_client(uid_hash_key=…) and the write operations"
            )
        self._clients = _Clients(make_options(**self.client_options))
        self.sink = sink
        self._warn_once = WarnOnce()
        self.built = True
        self._before = self._clients.totals()

    @property
    def sink(self) -> Any:
        """Return the sink. Setting it first writes pending records to the previous sink."""
        return self._sink if not isinstance(self._sink, (list, tuple)) else list(self._sink)

    @sink.setter
    def sink(self, sink: Any) -> None:
        """Set where to write. Pending records are written to the previous sink first."""
        destinations = parse_all(sink)
        self._clients.close()
        self._clients.destinations = destinations
        # `sink` and `client_options` stay unresolved: a saved model may be loaded elsewhere.
        self._sink = os.fspath(sink) if isinstance(sink, os.PathLike) else sink

    def call(
        self,
        predictions: Any,
        labels: Any,
        uid: Any,
        req_time: Any,
        sample_rate: Any = None,
        extra_fields: Mapping[str, Any] | None = None,
        training: bool | None = None,
        example_id: Any = None,
        epoch: Any = None,
    ) -> Any:
        """Record the examples if `training` is true, and return `predictions`.

        Args:
            predictions: Floats, shape `(batch,)` or `(batch, 1)`.
            labels: Numbers, shape `(batch,)` or `(batch, 1)`.
            uid: Integers, or text (recorded as its hash), shape `(batch,)` or `(batch, 1)`.
            req_time: Integers, Unix seconds, shape `(batch,)` or `(batch, 1)`.
            sample_rate: Floats, shape `(batch,)` or `(batch, 1)`; default 1.
            extra_fields: Columns to record: floats, integers or strings.
            training: Whether this is a training step.
            example_id: Ids that identify the examples across trainings: integers, or text (recorded
                as its hash), shape `(batch,)` or `(batch, 1)`.
            epoch: The epoch, a scalar integer, 0 for the first.

        Returns:
            `predictions`.
        """
        if training:
            self.update_state(
                labels, predictions, uid, req_time, sample_rate, extra_fields, example_id, epoch
            )
        return predictions

    @tf.autograph.experimental.do_not_convert
    def update_state(
        self,
        labels: Any,
        predictions: Any,
        uid: Any,
        req_time: Any,
        sample_rate: Any = None,
        extra_fields: Mapping[str, Any] | None = None,
        example_id: Any = None,
        epoch: Any = None,
    ) -> None:
        """Record a batch. The arguments are those of `call`."""
        predictions = _flat("predictions", predictions, NUMBER)
        if sample_rate is None:
            sample_rate = tf.ones_like(predictions)
        extras = {name: _flat(name, value, EXTRA) for name, value in (extra_fields or {}).items()}
        write_deep_insight_v2(
            tf.constant(self._clients.number, tf.int64),
            req_times=_flat("req_time", req_time, TIME),
            labels=[_flat("labels", labels, NUMBER)],
            preds=[predictions],
            sample_rates=[_flat("sample_rate", sample_rate, NUMBER)],
            extra_fields_values=[_flat("uid", uid, ID), *extras.values()],
            extra_fields_keys=["uid", *extras],
            model_name=self.model_name,
            targets=[self.target],
            sample_ratio=self.sample_ratio,
            example_ids=None if example_id is None else _flat("example_id", example_id, ID),
            epoch=epoch,
        )

    def result(self) -> dict[str, int]:
        """Return the numbers of examples seen, sampled and written since `reset_state`."""
        now = self._clients.totals()
        return {name: now[name] - self._before[name] for name in now}

    def reset_state(self) -> None:
        """Reset the counts of `result` to zero."""
        self._before = self._clients.totals()

    def flush(self) -> None:
        """Block until all records so far are durable."""
        self._clients.flush()

    def close(self) -> None:
        """Write pending records and close the sink. The next record opens it again."""
        self._clients.close()

    def compute_output_shape(self, predictions_shape: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the shape of `predictions`."""
        return predictions_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that recreate this layer, without secrets.

        Raises:
            TypeError: If a sink is an object, which cannot be saved.
        """
        return {
            **super().get_config(),
            "sink": self._sink_to_save(),
            "model_name": self.model_name,
            "target": self.target,
            "sample_ratio": self.sample_ratio,
            "client_options": dict(self.client_options),
        }

    def _sink_to_save(self) -> Any:
        destinations = self._clients.destinations
        saved = [one.to_save() for one in destinations]
        omitted = "; ".join(
            f"{', '.join(secrets)} of {where}"
            for where, (_, secrets) in zip(destinations, saved, strict=True)
            if secrets
        )
        if omitted:
            self._warn_once(
                "secrets",
                "DeepInsightLayer %r: secrets are not saved or cloned with a model: %s. After "
                "loading or cloning, set the complete sink again before training: "
                "layer.sink = 'kafka://HOST:PORT/TOPIC?…'",
                self.name,
                omitted,
            )
        texts = [text for text, _ in saved]
        return texts if isinstance(self.sink, list) else texts[0]


class _Clients:
    """The successive clients of a layer, each open until `close`.

    Graphs store `number`, which refers to the currently open client, instead of a client's handle.

    Args:
        options: How records are written.

    Attributes:
        destinations: Where to write.
    """

    def __init__(self, options: Options) -> None:
        self.destinations: Sequence[Destination] = ()
        self._options = options
        self._changing = threading.RLock()  # replicas record from several threads
        self._client: DeepInsightClient | None = None
        self._closed = dict.fromkeys(("seen", "sampled", "written"), 0)
        self.number = lifecycle.add_opener(self._open)

    def _open(self) -> DeepInsightClient:
        with self._changing:
            if self._client is None:
                self._client = DeepInsightClient(list(self.destinations), self._options)
            return self._client

    def totals(self) -> dict[str, int]:
        """Return the numbers of examples that all clients have seen, sampled and written."""
        with self._changing:
            if self._client is None:
                return dict(self._closed)
            stats = self._client.stats()
        now = {"seen": stats.accepted, "sampled": stats.sampled, "written": stats.written}
        return {name: count + now[name] for name, count in self._closed.items()}

    def flush(self) -> None:
        """Block until all records so far are durable."""
        client = self._client
        if client is not None:
            client.flush()

    def close(self) -> None:
        """Close the open client, if there is one."""
        with self._changing:
            if self._client is None:
                return
            try:
                self._client.close()
            finally:
                self._closed, self._client = self.totals(), None


def _flat(name: str, value: Any, kind: Kind) -> tf.Tensor:
    """Return a column with shape `(batch,)`: int64, float32 or string."""
    tensor = tf.convert_to_tensor(value)
    check_column(f"`{name}`", tensor, kind)
    dtype = tensor.dtype
    if dtype != tf.string:
        dtype = tf.float32 if kind is NUMBER or dtype.is_floating else tf.int64
    return tf.reshape(tf.cast(tensor, dtype), [-1])
