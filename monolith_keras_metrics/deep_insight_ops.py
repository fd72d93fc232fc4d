"""The operations that Monolith's `deep_insight_ops` declares, backed by `tf.py_function`.

They work eagerly (as plain Python), in a `tf.function`, in `Model.fit`, and in a TF1 graph with a
session. A `tf.py_function` runs only in the process that created it, and XLA cannot compile it:
call the operations outside of functions with `jit_compile=True`.

An invalid argument raises a `TypeError` or `ValueError` when the operation is called or traced, as
far as static shapes are known. Errors that depend on values (such as the length of a column) raise
`tf.errors.InvalidArgumentError` with the same text when the graph runs, because TensorFlow
reports a `ValueError` from Python in this way.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from absl import logging

from monolith_keras_metrics import task_context
from monolith_keras_metrics.ops import arguments
from monolith_keras_metrics.pipeline.client import DeepInsightClient, open_client
from monolith_keras_metrics.records.batch import Layout
from monolith_keras_metrics.sinks import Sinks, parse_all
from monolith_keras_metrics.sinks.tfrecord import TFRecordDump

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from monolith_keras_metrics.pipeline.options import OptionValues


@tf.autograph.experimental.do_not_convert
def deep_insight_client(
    enable_metrics_counter: bool = False,
    is_fake: bool = False,
    dump_filename: str | None = None,
    container: str = socket.gethostname(),
    *,
    sink: Sinks = (),
    **options: Unpack[OptionValues],
) -> tf.Tensor:
    """Create a client that writes in the background, and return a handle to it.

    The client is closed, with everything written, when the process exits or by
    `client_of(handle).close()`. If it has a sink, it handles SIGTERM, SIGINT and SIGHUP until then:
    they unwind the stack, so that the process exits normally (see `exit_hook`).

    Args:
        enable_metrics_counter: Whether to send counters of written records to the metrics client
            (`cli.get_cli`).
        is_fake: Whether the client is a fake one, which opens no sinks. Messages are still
            returned and dumped.
        dump_filename: TFRecord file to which every message is also written. It gets this name when
            the client is closed. A missing folder is created. If the task context has several
            workers, worker `i` adds `.part-%05d`.
        container: A tag of the counters.
        sink: Where to write, as for `DeepInsightClient`. Without a sink, messages are only
            returned and dumped.
        **options: Fields of `Options` that control how records are written.

    Returns:
        The handle, a scalar int64 tensor. Each call creates a new client.

    Raises:
        FileExistsError: If `dump_filename` exists or is being written.
        OSError: If a sink is not writable.

    Example:
    >>> client = deep_insight_client(is_fake=True)
    >>> write_deep_insight(client, [0, 19], [7, 7], [1.0, 0.0], [0.5, 0.25], [1.0, 1.0], "ctr",
    ...                    return_msgs=True, use_zero_train_time=True).numpy()[1]
    b''
    """
    destinations = [] if is_fake else parse_all(sink)
    dump = None
    if dump_filename:
        context = task_context.get()
        part = f".part-{context.worker_number:05d}" if context.num_workers > 1 else ""
        dump = TFRecordDump(f"{os.path.abspath(dump_filename)}{part}")
    if enable_metrics_counter:
        options.setdefault("counter_tags", {"container": container})
    try:
        client = DeepInsightClient([*destinations, *([dump] if dump else [])], **options)
    except BaseException:
        if dump is not None:
            dump.abandon()
        raise
    if destinations:
        client.handle_signals()
    return client.handle


def client_of(deep_insight_client_tensor: tf.Tensor) -> DeepInsightClient:
    """Return the client of a handle, to flush it, close it or read its counts.

    Args:
        deep_insight_client_tensor: A handle from `deep_insight_client`, with a static value.

    Raises:
        ValueError: If it is not the handle of an open client of this process.

    Example:
    >>> client_of(deep_insight_client(is_fake=True)).stats().accepted
    0
    """
    number = tf.get_static_value(deep_insight_client_tensor)
    if number is None or np.ndim(number) != 0:
        raise ValueError(
            "`deep_insight_client_tensor` must be the scalar that deep_insight_client returned. "
            f"Received: {deep_insight_client_tensor!r}"
        )
    return open_client(int(number))


@tf.autograph.experimental.do_not_convert
def write_deep_insight(
    deep_insight_client_tensor: tf.Tensor,
    uids: Any,
    req_times: Any,
    labels: Any,
    preds: Any,
    sample_rates: Any,
    model_name: str,
    target: str = "ctr_head",
    sample_ratio: float = 0.01,
    return_msgs: bool = False,
    use_zero_train_time: bool = False,
    *,
    example_ids: Any = None,
    epoch: Any = None,
) -> tf.Tensor:
    """Write a message for each example of a sampled user, with one target.

    Args:
        deep_insight_client_tensor: A handle from `deep_insight_client`.
        uids: int64, or text (recorded as its hash, see `ids.hashed_ids`), shape `(batch,)`.
        req_times: int64, Unix seconds, shape `(batch,)`. Values that seem to have another unit are
            written unchanged, with a warning.
        labels: Floats, shape `(batch,)`.
        preds: Floats, shape `(batch,)`.
        sample_rates: Floats, shape `(batch,)`: the rate at which each example was kept before
            training.
        model_name: Name of the model.
        target: Name of the target.
        sample_ratio: Share of users to write, in [0, 1].
        return_msgs: Whether to return the messages.
        use_zero_train_time: Whether to write `train_time` 0 instead of the time of the call.
        example_ids: int64, or text (recorded as its hash), shape `(batch,)`: ids that identify the
            examples across trainings.
        epoch: The epoch, a scalar int64, 0 for the first.

    Returns:
        Strings, shape `(batch,)`: the message if `return_msgs` is true and the example was
        sampled, otherwise `""`.

    Raises:
        TypeError, ValueError: If an argument has a wrong dtype, shape or length.

    Example:
    >>> client = deep_insight_client(is_fake=True)
    >>> msgs = write_deep_insight(
    ...     client, uids=[0, 19, 1005], req_times=[7, 8, 9], labels=[1.0, 0.0, 0.0],
    ...     preds=[0.5, 0.25, 0.125], sample_rates=[1.0, 1.0, 1.0], model_name="ctr",
    ...     sample_ratio=0.01, return_msgs=True, use_zero_train_time=True)
    >>> [len(msg) > 0 for msg in msgs.numpy()]  # uid 19 is in bucket 19, and 1% reaches to 9
    [True, False, True]
    """
    columns = {
        "uid": arguments.ids("uids", uids),
        "req_time": arguments.integers("req_times", req_times),
        "labels": arguments.floats("labels", labels),
        "predictions": arguments.floats("preds", preds),
        "sample_rates": arguments.floats("sample_rates", sample_rates),
        **_optional(example_ids, epoch),
    }
    layout = Layout(model_name, (target,), (), sample_ratio)
    return arguments.write_examples(
        deep_insight_client_tensor, layout, columns, (), return_msgs, use_zero_train_time
    )


@tf.autograph.experimental.do_not_convert
def write_deep_insight_v2(
    deep_insight_client_tensor: tf.Tensor,
    req_times: Any,
    labels: Any,
    preds: Any,
    sample_rates: Any,
    extra_fields_values: Sequence[Any],
    extra_fields_keys: Sequence[str],
    model_name: str,
    targets: Sequence[str],
    sample_ratio: float = 0.01,
    return_msgs: bool = False,
    use_zero_train_time: bool = False,
    *,
    example_ids: Any = None,
    epoch: Any = None,
) -> tf.Tensor:
    """Write a message for each example of a sampled user, with several targets and extra fields.

    Args:
        deep_insight_client_tensor: A handle from `deep_insight_client`.
        req_times: int64, Unix seconds, shape `(batch,)`.
        labels: Floats, shape `(num_targets, batch)`.
        preds: Floats, shape `(num_targets, batch)`.
        sample_rates: Floats, shape `(num_targets, batch)`: the rate at which each example was
            kept before training.
        extra_fields_values: Tensors of shape `(batch,)`, float32, int64 or string.
        extra_fields_keys: Names of the extra fields, one per value. One name must be `"uid"`: its
            value, int64 or text (recorded as its hash), is the message's `uid`.
        model_name: Name of the model.
        targets: Names of the `num_targets` targets. Each message has all of them.
        sample_ratio: Share of users to write, in [0, 1].
        return_msgs: Whether to return the messages.
        use_zero_train_time: Whether to write `train_time` 0 instead of the time of the call.
        example_ids: int64, or text (recorded as its hash), shape `(batch,)`: ids that identify the
            examples across trainings.
        epoch: The epoch, a scalar int64, 0 for the first.

    Returns:
        Strings, shape `(batch,)`: the message if `return_msgs` is true and the example was
        sampled, otherwise `""`.

    Raises:
        TypeError, ValueError: If an argument has a wrong dtype, shape or length.

    Example:
    >>> client = deep_insight_client(is_fake=True)
    >>> msgs = write_deep_insight_v2(
    ...     client, req_times=[7, 8], labels=[[1.0, 0.0], [0.0, 0.0]],
    ...     preds=[[0.5, 0.25], [0.125, 0.0]], sample_rates=[[1.0, 1.0], [0.5, 0.5]],
    ...     extra_fields_values=[tf.constant([3, 4], tf.int64), tf.constant(["UA", "DL"])],
    ...     extra_fields_keys=["uid", "carrier"], model_name="ctr", targets=["click", "buy"],
    ...     sample_ratio=1.0, return_msgs=True, use_zero_train_time=True)
    >>> import json; json.loads(msgs.numpy()[0])["predict"]
    {'click': 0.5, 'buy': 0.125}
    """
    keys = _names("extra_fields_keys", extra_fields_keys)
    values, targets = list(extra_fields_values), _names("targets", targets)
    if len(keys) != len(values):
        raise ValueError(
            "`extra_fields_keys` must have the same length as `extra_fields_values`. "
            f"Received: {len(keys)} keys {keys}, {len(values)} values"
        )
    if keys.count("uid") != 1:
        raise ValueError(f"`extra_fields_keys` must contain 'uid' once. Received: {keys}")
    by_target = ("num_targets", "batch")
    columns = {
        "req_time": arguments.integers("req_times", req_times),
        "labels": arguments.floats("labels", labels, *by_target),
        "predictions": arguments.floats("preds", preds, *by_target),
        "sample_rates": arguments.floats("sample_rates", sample_rates, *by_target),
    }
    extras = []
    for key, value in zip(keys, values, strict=True):
        name = f"extra_fields_values[{key!r}]"
        if key == "uid":
            columns["uid"] = arguments.ids(name, value)
        else:
            extras.append(arguments.extra_field(name, value))
    columns |= _optional(example_ids, epoch)
    layout = Layout(
        model_name, tuple(targets), tuple(key for key in keys if key != "uid"), sample_ratio
    )
    return arguments.write_examples(
        deep_insight_client_tensor, layout, columns, extras, return_msgs, use_zero_train_time
    )


def _optional(example_ids: Any, epoch: Any) -> dict[str, arguments.Argument]:
    """Return the given arguments that Monolith's operations do not have."""
    found = {}
    if example_ids is not None:
        found["example_id"] = arguments.ids("example_ids", example_ids)
    if epoch is not None:
        found["epoch"] = arguments.integers("epoch", epoch, is_scalar=True)
    return found


def _names(argument: str, names: Any) -> list[str]:
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise TypeError(f"`{argument}` must be a list of names. Received: {argument}={names!r}")
    return list(names)


@tf.autograph.experimental.do_not_convert
def write_deep_insight_from_features(
    features: Mapping[str, Any],
    sample_ratio: float,
    model_name: str,
    labels: Any = None,
    preds: Any = None,
    target: str | None = None,
    targets: Sequence[str] | None = None,
    labels_list: Sequence[Any] | None = None,
    preds_list: Sequence[Any] | None = None,
    sample_rates_list: Sequence[Any] | None = None,
    extra_fields_keys: Sequence[str] = (),
    enable_deep_insight_metrics: bool = True,
    enable_kafka_metrics: bool = False,
    dump_filename: str | None = None,
    *,
    deep_insight_client_tensor: tf.Tensor | None = None,
    return_msgs: bool | None = None,
    use_zero_train_time: bool = False,
    example_ids: Any = None,
    epoch: Any = None,
) -> Any:
    """Write messages from a dict of features, as Monolith's `native_training/metric/utils` does.

    Args:
        features: A dict with `uid` (int64 or text), `req_time` (int64), `sample_rate` (floats) and
            the extra fields, of shape `(batch,)` or `(batch, 1)`.
        sample_ratio: Share of users to write, in [0, 1].
        model_name: Name of the model.
        labels: For one target: floats, `(batch,)`.
        preds: For one target: floats, `(batch,)`.
        target: For one target: its name; default `"ctr_head"`.
        targets: For several targets: their names. The lists below are then used.
        labels_list: For several targets: floats, `(batch,)` or `(batch, 1)` each. None entries are
            skipped.
        preds_list: The same for predictions.
        sample_rates_list: The same for sample rates; default: the feature, for every target.
        extra_fields_keys: For several targets: features to write as extra fields.
        enable_deep_insight_metrics: Whether the client that this call creates emits counters.
        enable_kafka_metrics: Whether that client is a fake one and messages are returned, as in
            Monolith, where another hook sends them.
        dump_filename: If given, that client is a fake one that dumps to this file.
        deep_insight_client_tensor: The client to use. By default this call creates one; in a
            training step, create the client outside of the step instead.
        return_msgs: Whether to return the messages; default: only if the client is a fake one.
        use_zero_train_time: Whether to write `train_time` 0 instead of the time of the call.
        example_ids: int64 or text, `(batch,)` or `(batch, 1)`: ids that identify the examples
            across trainings.
        epoch: The epoch, a scalar int64, 0 for the first.

    Returns:
        The result of `write_deep_insight` or `write_deep_insight_v2`. If `features` has no
        `req_time`: `tf.no_op()`, with one line in the log.

    Example:
    >>> features = {"uid": tf.constant([3], tf.int64), "req_time": tf.constant([7], tf.int64),
    ...             "sample_rate": tf.constant([1.0])}
    >>> msgs = write_deep_insight_from_features(
    ...     features, 1.0, "ctr", labels=tf.constant([1.0]), preds=tf.constant([0.5]),
    ...     deep_insight_client_tensor=deep_insight_client(is_fake=True), return_msgs=True)
    >>> msgs.numpy()[0][:28]
    b'{"model_name":"ctr","uid":3,'
    """
    if "req_time" not in features:
        logging.log_first_n(
            logging.INFO, "Deep insight is off: `features` does not contain 'req_time'", 1
        )
        return tf.no_op()
    is_fake = enable_kafka_metrics or bool(dump_filename)
    needed = ["req_time", "uid", *extra_fields_keys]
    if not (targets and sample_rates_list):
        needed.append("sample_rate")
    flat = _flat_columns(features, needed)
    client = deep_insight_client_tensor
    if client is None:
        client = deep_insight_client(enable_deep_insight_metrics, is_fake, dump_filename)
    rest: dict[str, Any] = {
        "model_name": model_name,
        "sample_ratio": sample_ratio,
        "return_msgs": is_fake if return_msgs is None else return_msgs,
        "use_zero_train_time": use_zero_train_time,
        "example_ids": None if example_ids is None else tf.reshape(example_ids, [-1]),
        "epoch": epoch,
    }
    if not targets:
        columns = flat["uid"], flat["req_time"], labels, preds, flat["sample_rate"]
        return write_deep_insight(client, *columns, target=target or "ctr_head", **rest)
    keys = [*dict.fromkeys([*extra_fields_keys, "uid"])]
    return write_deep_insight_v2(
        client,
        req_times=flat["req_time"],
        labels=_stacked(labels_list),
        preds=_stacked(preds_list),
        sample_rates=_stacked(sample_rates_list or [flat["sample_rate"]] * len(targets)),
        extra_fields_values=[flat[key] for key in keys],
        extra_fields_keys=keys,
        targets=targets,
        **rest,
    )


def _flat_columns(features: Mapping[str, Any], names: Sequence[str]) -> dict[str, tf.Tensor]:
    if missing := [name for name in names if name not in features]:
        raise ValueError(f"`features` must contain {missing}. Received: {sorted(features)}")
    return {name: tf.reshape(features[name], [-1]) for name in names}


def _stacked(columns: Sequence[Any] | None) -> tf.Tensor:
    return tf.stack([tf.reshape(one, [-1]) for one in columns or () if one is not None])
