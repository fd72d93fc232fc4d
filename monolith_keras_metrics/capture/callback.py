"""`DeepInsightCallback`: records what `fit` trains on and predicts.

Keras creates `model.train_function` before `on_train_begin` and reads it at each step. While
training runs, the callback replaces it with a function that records (see `train_function`). It
restores Keras's function afterwards, and changes nothing else in the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from monolith_keras_metrics.capture.compat import check_backend, check_keras, keras
from monolith_keras_metrics.capture.input_columns import InputColumns
from monolith_keras_metrics.capture.model_inputs import ModelInputs
from monolith_keras_metrics.capture.recording import Recording
from monolith_keras_metrics.capture.session import Session
from monolith_keras_metrics.capture.targets import TargetNames
from monolith_keras_metrics.capture.train_function import Recorder, stop_all_on_error
from monolith_keras_metrics.pipeline.ledger import Stats
from monolith_keras_metrics.pipeline.options import (
    OptionValues,
    make_options,
    signature_with_options,
)
from monolith_keras_metrics.sinks import Sinks, parse_all

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from monolith_keras_metrics.capture.epoch_logs import EpochLogs

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
        log_measures: If True, `logs` get `deep_insight_auc` and `deep_insight_calibration` of each
            epoch's records at its end, for all callbacks, wherever they stand: `History`,
            `CSVLogger`, `EarlyStopping`, …. With several targets: `deep_insight_TARGET_auc`. A list
            names other measures of `insight.MEASURES`. See the documentation (Ways to train).
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
        log_measures: bool | Sequence[str] = False,
        **options: Unpack[OptionValues],
    ) -> None:
        super().__init__()
        check_backend()
        if isinstance(modes, str) or not modes or not set(modes) <= set(_MODES):
            raise ValueError(
                f"`modes` must be a list with one or more of {_MODES}. Received: modes={modes!r}"
            )
        options.setdefault("counter_tags", {"model": model_name})
        own = inspect.signature(DeepInsightCallback.__init__).parameters.values()
        names = [one.name for one in own if one.kind is one.KEYWORD_ONLY]
        self._options = make_options(None, names, **options)
        self._destinations = parse_all(sink)
        self._epoch: int | None = None
        self._recording = Recording(
            InputColumns(uid, req_time, sample_rate, extra_fields, example_id),
            model_name,
            sample_ratio,
            targets,
            labels,
            missing_label,
            lambda: self._epoch,
        )
        self._recorders = {
            mode: Recorder(self._recording, mode, recorded=mode in modes, on_exception=self._abort)
            for mode in _MODES
        }
        self._measured = _measure_names(log_measures)
        self._epoch_logs: EpochLogs | None = None
        self._session: Session | None = None
        self._last_stats: Stats | None = None

    @property
    def stats(self) -> Stats | None:
        """Return the counts of the running training, or of the last one; None before the first."""
        session = self._session
        return self._last_stats if session is None else session.client.stats()

    def flush(self) -> None:
        """Block until all records so far are durable."""
        if self._session is not None:
            self._session.client.flush()

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
        return ModelInputs(model, self._recording.inputs.names).function()

    def set_model(self, model: Any) -> None:
        """Set the model, after checking that it was built with `tf.keras`."""
        check_keras(model)
        super().set_model(model)
        self._recorders["test"].install_early(model)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Open the sink and start recording."""
        fit = self._training()
        if fit is not None and not fit.is_over():
            raise RuntimeError(
                "A DeepInsightCallback cannot record a call of fit inside another call of fit. "
                "Received: an object that still records the outer call. Create one "
                "DeepInsightCallback per call"
            )
        with stop_all_on_error(self.model):
            self._open("train")
            self._recorders["test"].install_early(self.model)
            self._begin("train")
            self._log_epochs()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Write pending records, and restore the model's functions."""
        with stop_all_on_error(self.model):
            self._end()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Set the epoch of the records that follow, validation included."""
        self._epoch = epoch
        if self._epoch_logs is not None:
            self._epoch_logs.begin_epoch()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the measures of the epoch's records to `logs`, unless they are there already."""
        if self._epoch_logs is not None:
            self._epoch_logs.on_epoch_end(epoch, logs)

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Start removing columns, and start recording if `modes` has `"test"`."""
        with stop_all_on_error(self.model):
            fit = self._training()
            if fit is not None and fit.is_over():
                self._abort()  # an exception ended that training, so this is a new call
            if self._session is None and self._recorders["test"].recorded:
                self._open("test")
            self._begin("test")

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Restore the model's test function."""
        with stop_all_on_error(self.model):
            # In legacy Keras, the next validation reads the test function before `on_test_begin`.
            is_training = self._training() is not None
            self._recorders["test"].end(hold=is_training)
            if not is_training:
                self._close()

    def _training(self) -> Session | None:
        """Return the session that a call of `fit` opened, if it is open."""
        session = self._session
        return session if session is not None and session.mode == "train" else None

    def _open(self, mode: str) -> None:
        self._abort()  # an earlier training may have ended with an exception
        self._session = Session(self.model, mode, self._destinations, self._options)

    def _begin(self, mode: str) -> None:
        session = self._session
        self._recorders[mode].begin(self.model, None if session is None else session.client)

    def _log_epochs(self) -> None:
        """Start adding up records, if their measures are to be in `logs`."""
        if self._measured and self._session is not None:
            from monolith_keras_metrics.capture.epoch_logs import EpochLogs

            self._epoch_logs = EpochLogs(self._measured, self._session.client, self._recorders)
            self._epoch_logs.go_first()

    def _abort(self) -> None:
        """Stop recording and restore the model, after training raised an exception."""
        self._end(raising=False)

    def _end(self, *, raising: bool = True) -> None:
        self._epoch = None
        if self._epoch_logs is not None:
            self._epoch_logs.leave()
            self._epoch_logs = None
        for recorder in self._recorders.values():
            recorder.end()
        self._close(raising=raising)

    def _close(self, *, raising: bool = True) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        try:
            session.close(raising=raising)
        finally:
            self._last_stats = session.client.stats()
            if (getattr(self, "params", None) or {}).get("verbose", 1):
                print(session.summary())


def _measure_names(log_measures: bool | Sequence[str]) -> Sequence[str]:
    """Return the names of the measures for `logs`, after a check."""
    if log_measures is False:
        return ()  # without importing what measures
    from monolith_keras_metrics.capture.epoch_measures import measure_names

    return measure_names(log_measures)


DeepInsightCallback.__signature__ = signature_with_options(DeepInsightCallback)
