"""`DeepInsightCallback`: records what `fit` trains on and predicts.

Where the columns come from: Keras makes `model.train_function` before `on_train_begin` and reads
it at each step. While training runs, the callback puts its own in that place (see
`recording`), and puts Keras's back afterwards; nothing else of the model is touched.
"""

from __future__ import annotations

import contextlib
import inspect
import numbers
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from monolith_keras_metrics.capture.compat import check_keras, is_legacy, keras
from monolith_keras_metrics.capture.fit_scope import EndOfCaller, end_of_caller
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
    """Writes down, for a sample of users, each example that a model trains on.

    A record is the example's uid, time, label and prediction for each target, and extra fields.
    The predictions are those that the training step computes anyway. Records are written in the
    background; `fit` goes on.

    The dataset's `x` is a dict. `uid`, `req_time`, `sample_rate` and `extra_fields` name columns of
    it, of shape `(batch,)` or `(batch, 1)`. Columns that the model has no input for are taken out
    before the model sees them.

    Args:
        sink: Where to write: a folder (Parquet), `"jsonl:PATH"`, `"tfrecord:PATH"`,
            `"kafka://HOST:PORT/TOPIC"`, an object with the methods of `sinks.Sink`, or a list of
            these. A relative folder is resolved when the callback is made.
        model_name: Name of the model in the records.
        uid: Column of user ids, integers or text (which is recorded as `ids.hashed_ids` of it).
        req_time: Column of the times of the requests, integers, Unix seconds. Milli-, micro- and
            nanoseconds, which their size tells, are converted, with a warning.
        sample_rate: Column of the rates at which examples were kept before training, floats. Where
            the dataset has no such column, the rate is 1.
        extra_fields: Columns to record as they are: floats, integers, booleans (as 0 and 1) or
            strings.
        example_id: Column of what names an example in every training that sees it, integers or
            text, so that two models' predictions of it can be compared.
        targets: Names of the targets. None: each output is one, under its own name. A list: the
            outputs to record, or, for a model of one output with K columns, the names of these. A
            dict: from outputs to the name of their target, or to the names of their columns'.
        labels: Where the loss is computed in the model's `call` and `fit` gets no `y`: the column
            of `x` with the labels, or a dict from outputs to such columns. None: `y`.
        missing_label: The label that stands for "not known", -1 for instance. Such a label is null
            in the record, and so is one whose weight is 0 where `fit` gets sample weights for
            single outputs (a dict or list of them). None: every label is one.
        sample_ratio: Share of users to record, from 0 to 1; always the same users.
        modes: `"train"` records `fit`, `"test"` records `evaluate` and validation.
        **options: How records are written, where that differs from the defaults of `Options`:
            `overflow`, `flush_seconds`, `on_error`, `exit_timeout`, `spool`, `uid_hash_key`, ….

    Raises:
        TypeError, ValueError: If an argument makes no sense; from `fit`, before the first step is
            trained, if a column, an output or a label is missing or has a wrong dtype or shape.
        OSError: From `fit`, before training, if the sink cannot be written to.

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
            raise TypeError(f"`extra_fields` must be a list of names. Received: {extra_fields!r}")
        if missing_label is not None and not _is_number(missing_label):
            raise TypeError(
                "`missing_label` must be the number that stands for a missing label, or None. "
                f"Received: missing_label={missing_label!r}"
            )
        if isinstance(modes, str) or not modes or not set(modes) <= set(_MODES):
            raise ValueError(f"`modes` must be some of {_MODES}. Received: modes={modes!r}")
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
        self._recording.layout(Pairs(("any",)))  # says what is wrong with these arguments
        self._modes = frozenset(modes)
        self._functions: dict[str, RecordingFunction] = {}
        self._recorders = {
            mode: Recorder(self._recording, mode, recorded=mode in modes, on_exception=self._abort)
            for mode in _MODES
        }
        self._client: DeepInsightClient | None = None
        self._opened_for: str | None = None
        self._over: EndOfCaller | None = None
        self._training = False
        self._last_stats: Stats | None = None

    @property
    def stats(self) -> Stats | None:
        """Counts of the running training, or of the last one; None before the first."""
        return self._client.stats() if self._client is not None else self._last_stats

    def flush(self) -> None:
        """Waits until what was recorded so far is durable."""
        if self._client is not None:
            self._client.flush()

    def model_inputs(self, model: Any) -> Callable[..., Any]:
        """Return a function that takes out what is no input of the model.

        `evaluate` and `predict` without this callback need it: Keras pairs a dict of inputs with
        the columns of `x` by their position, and computes wrong numbers where there are more.

        Args:
            model: The model.

        Returns:
            A function of `x`, `(x, y)` or `(x, y, sample_weight)`, where `x` is a dict of tensors
            or arrays. It returns the same with `x` as the model takes it, and can be mapped over a
            `tf.data.Dataset`. A list of inputs becomes a tuple.

        Raises:
            TypeError: If this is a model of the other Keras than `tf.keras` is. The function
                raises a ValueError if the model has an input without a column.

        Example:
        ```python
        model.evaluate(dataset.map(recorder.model_inputs(model)))
        model.predict(recorder.model_inputs(model)(x))
        ```
        """
        check_keras(model)
        return ModelInputs(model).function(self._recording.inputs.names)

    def set_model(self, model: Any) -> None:
        """Sets the model."""
        check_keras(model)
        super().set_model(model)
        self._install_early()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Opens the sink and begins to record."""
        self._check_free()
        with self._others_ended():
            self._epoch = None
            self._open("train")
            self._training = True
            self._install_early()
            self._begin("train")

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Writes what waits, and leaves the model as it was."""
        with self._others_ended():
            self._training = False
            self._epoch = None
            for mode in _MODES:
                self._end(mode)
            self._close("train")

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Notes which pass over the data begins; validation within it is of the same."""
        self._epoch = epoch

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Begins to take out columns, and to record where `modes` has `"test"`."""
        with self._others_ended():
            if self._training and self._over is not None and self._over():
                self._abort()  # that training ended with an exception: this is no part of it
            if self._client is None and "test" in self._modes:
                self._open("test")
            self._begin("test")

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Leaves the model's test function as it was."""
        with self._others_ended():
            self._end("test")
            self._close("test")

    def _check_free(self) -> None:
        """Raises for a `fit` within one that this records: its steps would go on unrecorded."""
        if self._training and self._over is not None and not self._over():
            raise RuntimeError(
                "This DeepInsightCallback still records a call of fit, within which another one "
                "began with the same object. Give each fit a DeepInsightCallback of its own"
            )

    @contextlib.contextmanager
    def _others_ended(self) -> Iterator[None]:
        """Ends what others record of this call where it fails: Keras tells them nothing."""
        try:
            yield
        except BaseException:
            for mode in _MODES:
                function = getattr(self.model, f"{mode}_function", None)
                if isinstance(function, RecordingFunction):
                    function.end_call()
            raise

    def _open(self, mode: str) -> None:
        self._abort()  # what an earlier training that ended with an exception may have left
        self._client = DeepInsightClient(self._destinations, self._options)
        self._opened_for = mode
        # If `fit` ends with an exception outside of a step, nobody tells.
        self._over = end_of_caller()
        self._client.handle_signals(self._over)
        self._client.close_when(self._over)

    def _close(self, mode: str, *, raising: bool = True) -> None:
        if self._client is None or self._opened_for != mode:
            return
        client, self._client, self._opened_for = self._client, None, None
        self._over = None
        try:
            if raising:
                client.close()
            else:
                client.close(raising=False)
        finally:
            self._last_stats = client.stats()
            if (getattr(self, "params", None) or {}).get("verbose", 1):
                print(_summary(self._last_stats, self._destinations, client.spool_folder))

    def _running_epoch(self) -> int | None:
        return self._epoch

    def _abort(self) -> None:
        """Ends what runs, with the model as it was: training ended with an exception."""
        self._training = False
        self._epoch = None
        for mode in _MODES:
            self._end(mode)
        if self._opened_for is not None:
            self._close(self._opened_for, raising=False)

    def _begin(self, mode: str) -> None:
        check_strategy(self.model.distribute_strategy)
        self._install(mode).attach(self._recorders[mode], self._client, end_of_caller())

    def _install_early(self) -> None:
        """Legacy Keras reads the test function before it calls `on_test_begin`."""
        if is_legacy(self.model):
            self.model.make_test_function()
            self._install("test").hold(self._recorders["test"])

    def _install(self, mode: str) -> RecordingFunction:
        """Returns the function that records, in the place of the model's own."""
        attribute = f"{mode}_function"
        current = getattr(self.model, attribute)
        if isinstance(current, RecordingFunction):  # of another callback, or left by an exception
            function: RecordingFunction | None = current
        else:
            function = self._functions.get(mode)
            # Keras makes a new plain function when the model is compiled, and only then.
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
        text += f", and {stats.recovered:,} that an earlier run had left"
    if stats.spooled:
        text += f"; {stats.spooled:,} wait in {spool} for the next run"
    late = stats.waiting - stats.spooled
    if lost := stats.failed + stats.dropped + late:
        text += (
            f"; {lost:,} LOST ({stats.failed:,} failed, {stats.dropped:,} dropped, {late:,} not "
            "delivered in time)"
        )
    if stats.recovered_failed:
        text += f"; {stats.recovered_failed:,} of an earlier run LOST"
    return text
