"""`DeepInsightCallback`: records what `fit` trains on and predicts.

Keras creates `model.train_function` before `on_train_begin` and reads it at each step. While
training runs, the callback replaces it with a function that records (see `train_function`). It
restores Keras's function afterwards, and changes nothing else in the model.
"""

from __future__ import annotations

import contextlib
import inspect
import numbers
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from monolith_keras_metrics.capture.compat import check_keras, is_legacy, keras
from monolith_keras_metrics.capture.fit_scope import FitScope
from monolith_keras_metrics.capture.input_columns import InputColumns
from monolith_keras_metrics.capture.model_inputs import ModelInputs
from monolith_keras_metrics.capture.targets import Pairs, TargetNames, check_target_names
from monolith_keras_metrics.capture.train_function import Recorder, Recording, RecordingFunction
from monolith_keras_metrics.ops.strategy import check_strategy
from monolith_keras_metrics.pipeline.client import DeepInsightClient
from monolith_keras_metrics.pipeline.ledger import Stats
from monolith_keras_metrics.pipeline.options import (
    OptionValues,
    make_options,
    signature_with_options,
)
from monolith_keras_metrics.sinks import Destination, Sinks, parse_all

if TYPE_CHECKING:
    from typing_extensions import Unpack

_MODES = ("train", "test")


class DeepInsightCallback(keras.callbacks.Callback):
    """Record each example that a model trains on, for a sample of users.

    A record contains the example's uid and time, the label and prediction for each target, and
    extra fields. The predictions are those of the training step: there is no second forward pass.
    Records are written in the background while `fit` continues.

    The dataset's `x` is a dict. `uid`, `req_time`, `sample_rate` and `extra_fields` name columns in
    this dict, each of shape `(batch,)` or `(batch, 1)`. Columns that are not inputs of the model
    are removed before the model sees them.

    Args:
        sink: Where to write: a folder (Parquet), `"jsonl:PATH"`, `"tfrecord:PATH"`,
            `"kafka://HOST:PORT/TOPIC"`, an object with the methods of `sinks.Sink`, or a list of
            these. A relative folder is resolved when the callback is created.
        model_name: Name of the model in the records.
        uid: Column of user ids, integers or text (recorded as its hash, see `ids.hashed_ids`).
        req_time: Column of request times, integers, Unix seconds. Values large enough to be
            milli-, micro- or nanoseconds are converted, with a warning.
        sample_rate: Column of the rates at which examples were kept before training, floats. The
            rate is 1 if the dataset has no such column.
        extra_fields: Columns to record unchanged: floats, integers, booleans (as 0 and 1) or
            strings.
        example_id: Column of ids that identify an example across trainings, integers or text. It
            lets you compare two models' predictions for the same example.
        targets: Names of the targets. None: each output is a target under its own name. A list:
            the outputs to record, or the names of the K columns of a model's only output. A dict:
            from each output to the name of its target, or to the names of its columns.
        labels: Column of `x` with the labels, or a dict from outputs to such columns. Set it if the
            model's `call` computes the loss and `fit` gets no `y`. None: the labels are `y`.
        missing_label: The label value that means "not known", such as -1. These labels are null
            in the record. So are labels with weight 0, if `fit` gets sample weights for single
            outputs (in a dict or list). None: no value is special.
        sample_ratio: Share of users to record, from 0 to 1; always the same users.
        modes: `"train"` records `fit`, `"test"` records `evaluate` and validation.
        **options: Fields of `Options` that control how records are written: `overflow`,
            `flush_seconds`, `on_error`, `exit_timeout`, `spool`, `uid_hash_key`, ….

    Raises:
        TypeError, ValueError: If an argument is invalid; from `fit`, before the first training
            step, if a column, an output or a label is missing or has a wrong dtype or shape.
        OSError: From `fit`, before training, if the sink is not writable.

    Example:
    ```python
    model.fit(
        dataset,  # x: {"features": …, "uid": …, "req_time": …}, y
        callbacks=[DeepInsightCallback("runs/ctr", model_name="ctr", sample_ratio=0.01)],
    )
    polars.read_parquet("runs/ctr/*.parquet")
    ```
    """

    __signature__: ClassVar[inspect.Signature]

    def __init__(
        self,
        sink: Sinks,
        *,
        model_name: str,
        uid: str = "uid",
        req_time: str = "req_time",
        sample_rate: str = "sample_rate",
        extra_fields: Sequence[str] = (),
        example_id: str | None = None,
        targets: TargetNames = None,
        labels: str | Mapping[str, str] | None = None,
        missing_label: float | None = None,
        sample_ratio: float = 0.01,
        modes: Sequence[str] = ("train",),
        **options: Unpack[OptionValues],
    ) -> None:
        super().__init__()
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                "DeepInsightCallback needs Keras's TensorFlow backend (KERAS_BACKEND=tensorflow). "
                f"Received: {keras.backend.backend()!r}"
            )
        check_target_names(targets)
        if isinstance(extra_fields, str):
            raise TypeError(
                f"`extra_fields` must be a list of names. Received: extra_fields={extra_fields!r}"
            )
        if missing_label is not None and not _is_number(missing_label):
            raise TypeError(
                "`missing_label` must be the number that marks a missing label, or None. "
                f"Received: missing_label={missing_label!r}"
            )
        if isinstance(modes, str) or not modes or not set(modes) <= set(_MODES):
            raise ValueError(
                f"`modes` must be a list with one or more of {_MODES}. Received: modes={modes!r}"
            )
        options.setdefault("counter_tags", {"model_name": model_name})
        own = inspect.signature(DeepInsightCallback.__init__).parameters.values()
        names = [one.name for one in own if one.kind is one.KEYWORD_ONLY]
        self._options = make_options(None, names, **options)
        self._destinations = parse_all(sink)
        inputs = InputColumns(uid, req_time, sample_rate, tuple(extra_fields), example_id)
        self._epoch: int | None = None
        self._recording = Recording(
            inputs,
            model_name,
            sample_ratio,
            targets,
            labels,
            None if missing_label is None else float(missing_label),
            self._running_epoch,
        )
        self._recording.layout(Pairs(("any",)))  # raises if these arguments are invalid
        self._modes = frozenset(modes)
        self._functions: dict[str, RecordingFunction] = {}
        self._recorders = {
            mode: Recorder(self._recording, mode, recorded=mode in modes, on_exception=self._abort)
            for mode in _MODES
        }
        self._client: DeepInsightClient | None = None
        self._opened_for: str | None = None
        self._scope: FitScope | None = None
        self._training = False
        self._last_stats: Stats | None = None

    @property
    def stats(self) -> Stats | None:
        """Return the counts of the running training, or of the last one; None before the first."""
        return self._client.stats() if self._client is not None else self._last_stats

    def flush(self) -> None:
        """Block until all records so far are durable."""
        if self._client is not None:
            self._client.flush()

    def model_inputs(self, model: Any) -> Callable[..., Any]:
        """Return a function that removes columns that are not inputs of the model.

        Use it for `evaluate` and `predict` without this callback: Keras pairs a dict of inputs with
        the columns of `x` by position, so extra columns lead to wrong results.

        Args:
            model: The model.

        Returns:
            A function of `x`, `(x, y)` or `(x, y, sample_weight)`, where `x` is a dict of tensors
            or arrays. It returns the same with `x` as the model expects it, and can be mapped over
            a `tf.data.Dataset`. A list of inputs becomes a tuple.

        Raises:
            TypeError: If the model was built with a different Keras than `tf.keras`. The returned
                function raises a ValueError if an input of the model has no column.

        Example:
        ```python
        model.evaluate(dataset.map(recorder.model_inputs(model)))
        model.predict(recorder.model_inputs(model)(x))
        ```
        """
        check_keras(model)
        return ModelInputs(model).function(self._recording.inputs.names)

    def set_model(self, model: Any) -> None:
        """Set the model, after checking that it was built with `tf.keras`."""
        check_keras(model)
        super().set_model(model)
        self._install_early()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Open the sink and start recording."""
        self._check_not_nested()
        with self._stop_others_on_error():
            self._epoch = None
            self._open("train")
            self._training = True
            self._install_early()
            self._begin("train")

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Write pending records, and restore the model's functions."""
        with self._stop_others_on_error():
            self._training = False
            self._epoch = None
            for mode in _MODES:
                self._end(mode)
            self._close("train")

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Set the epoch of the records that follow, validation included."""
        self._epoch = epoch

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Start removing columns, and start recording if `modes` has `"test"`."""
        with self._stop_others_on_error():
            if self._training and self._scope is not None and self._scope.is_over():
                self._abort()  # an exception ended that training, so this is a new call
            if self._client is None and "test" in self._modes:
                self._open("test")
            self._begin("test")

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Restore the model's test function."""
        with self._stop_others_on_error():
            self._end("test")
            self._close("test")

    def _check_not_nested(self) -> None:
        """Raise if `fit` was called within a `fit` that this callback records."""
        if self._training and self._scope is not None and not self._scope.is_over():
            raise RuntimeError(
                "A DeepInsightCallback cannot record a call of fit inside another call of fit. "
                "Received: an object that still records the outer call. Create one "
                "DeepInsightCallback per call"
            )

    @contextlib.contextmanager
    def _stop_others_on_error(self) -> Iterator[None]:
        """Stop other callbacks' recorders if this call fails: Keras does not notify them."""
        try:
            yield
        except BaseException:
            for mode in _MODES:
                function = getattr(self.model, f"{mode}_function", None)
                if isinstance(function, RecordingFunction):
                    function.end_call()
            raise

    def _open(self, mode: str) -> None:
        self._abort()  # an earlier training may have ended with an exception
        self._client = DeepInsightClient(self._destinations, self._options)
        self._opened_for = mode
        # Keras does not notify callbacks if `fit` raises outside a step.
        self._scope = FitScope(self.model)
        self._client.handle_signals(self._scope.is_over)
        self._client.close_when(self._scope.is_over)

    def _close(self, mode: str, *, raising: bool = True) -> None:
        if self._client is None or self._opened_for != mode:
            return
        client, self._client, self._opened_for = self._client, None, None
        try:
            client.close(raising=raising)
        finally:
            if self._scope is not None:
                self._scope.end()
            self._scope = None
            self._last_stats = client.stats()
            if (getattr(self, "params", None) or {}).get("verbose", 1):
                print(_summary(self._last_stats, self._destinations, client.spool_folder))

    def _running_epoch(self) -> int | None:
        return self._epoch

    def _abort(self) -> None:
        """Stop recording and restore the model, after training raised an exception."""
        self._training = False
        self._epoch = None
        for mode in _MODES:
            self._end(mode)
        if self._opened_for is not None:
            self._close(self._opened_for, raising=False)

    def _begin(self, mode: str) -> None:
        check_strategy(self.model.distribute_strategy)
        self._install(mode).attach(self._recorders[mode], self._client, FitScope(self.model))

    def _install_early(self) -> None:
        """Install the test function for legacy Keras, which reads it before `on_test_begin`."""
        if is_legacy(self.model):
            self.model.make_test_function()
            self._install("test").hold(self._recorders["test"])

    def _install(self, mode: str) -> RecordingFunction:
        """Replace the model's function with one that records, and return that one."""
        attribute = f"{mode}_function"
        current = getattr(self.model, attribute)
        if isinstance(current, RecordingFunction):  # another callback's, or left by an exception
            function: RecordingFunction | None = current
        else:
            function = self._functions.get(mode)
            # Keras creates a new plain function only when the model is compiled.
            if (
                function is None
                or function.plain is not current
                or function.model is not self.model
            ):
                function = RecordingFunction(self.model, mode, current)
            setattr(self.model, attribute, function)
        assert function is not None
        self._functions[mode] = function
        return function

    def _end(self, mode: str) -> None:
        function = self._functions.get(mode)
        if function is None:
            return
        function.detach(self._recorders[mode])
        # In legacy Keras, the next validation reads the test function before `on_test_begin`.
        if mode != "test" or not self._training:
            function.release(self._recorders[mode])


DeepInsightCallback.__signature__ = signature_with_options(DeepInsightCallback)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _summary(
    stats: Stats, destinations: Sequence[Destination], spool: os.PathLike[str] | None
) -> str:
    text = f"Deep insight: {stats.written:,} of {stats.accepted:,} examples written"
    if destinations:
        text += f" to {', '.join(map(str, destinations))}"
    if stats.recovered:
        text += f", and {stats.recovered:,} recovered from earlier runs"
    if stats.spooled:
        text += f"; {stats.spooled:,} in {spool} for the next run to deliver"
    late = stats.waiting - stats.spooled
    if lost := stats.failed + stats.dropped + late:
        text += (
            f"; {lost:,} LOST ({stats.failed:,} failed, {stats.dropped:,} dropped, {late:,} not "
            "delivered in time)"
        )
    if stats.recovered_failed:
        text += f"; {stats.recovered_failed:,} from earlier runs LOST"
    return text
