"""`MetricsCallback`: throughput, loss and metrics of a training, to the metrics client.

A step costs one call, which keeps two references and looks at the clock. Keras has the step's logs
as numbers by then, whether a callback wants them or not; legacy Keras hands over tensors, which are
not waited for. Examples are those that Keras's own loss has counted, so datasets of unknown size,
short batches, `steps_per_execution` and strategies need nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from monolith_keras_metrics import cli, counters, task_context
from monolith_keras_metrics.capture.compat import check_backend, check_keras, keras
from monolith_keras_metrics.capture.fit_scope import FitScope
from monolith_keras_metrics.capture.store_emitter import Look, StoreEmitter
from monolith_keras_metrics.threads import WarnOnce

_LAST_SECONDS = 1.0  # that the end of training waits for the last stores, if a back end hangs


class MetricsCallback(keras.callbacks.Callback):
    """Emit throughput, loss and every metric that Keras reports, as stores of `cli.get_cli()`.

    - `training.steps_per_second`, `training.examples_per_second`: since the last time, validation
      left out; 0 once training has ended.
    - `training.step_loss`: the mean loss of the examples since the last time.
    - `training.loss` and `training.METRIC`: as Keras reports them, means of the epoch so far.
    - `training.val_loss`, `training.val_METRIC`, and whatever else callbacks have added to `logs`:
      at each epoch's end.

    Tags are `model` and `worker`. Nothing is emitted, and no thread runs, while no back end is set.

    Args:
        model_name: The tag `model`.
        seconds: Interval between emissions within an epoch, in seconds.
        batch_size: The number of examples of a step, for a model with a custom `train_step`. Other
            models count their examples.
        clock: Returns monotonic seconds.

    Raises:
        TypeError, ValueError: If an argument is invalid.

    Example:
    ```python
    model.fit(dataset, callbacks=[MetricsCallback("ctr")])
    ```
    """

    _supports_tf_logs = True  # else legacy Keras waits for the logs at each step
    async_safe = True  # else Keras may not call callbacks in a thread

    def __init__(
        self,
        model_name: str,
        *,
        seconds: float = 5.0,
        batch_size: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        check_backend("MetricsCallback")
        if not isinstance(model_name, str) or not model_name:
            raise TypeError(
                f"`model_name` must be a non-empty string. Received: model_name={model_name!r}"
            )
        _check_positive("seconds", seconds)
        if batch_size is not None:
            _check_positive("batch_size", batch_size)
        self._model_name = model_name
        self._seconds = seconds
        self._batch_size = batch_size
        self._clock = clock
        self._scope: FitScope | None = None
        self._emitter: StoreEmitter | None = None
        self._epoch = 0
        self._since: float | None = None  # the last look; None while the epoch is not training
        self._at = 0.0  # the end of the last step
        self._last: Look | None = None  # of the epoch
        self._due = math.inf
        self._steps = 0  # of the epoch
        self._logs: Mapping[str, Any] | None = None  # of the last step
        self._warn_once = WarnOnce()

    def set_model(self, model: Any) -> None:
        """Set the model, after checking that it was built with `tf.keras`."""
        check_keras(model)
        super().set_model(model)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Start a training."""
        self._end()  # an earlier one may have ended with an exception
        counters.use_environment()
        self._scope = FitScope(self.model)
        tags = {"worker": str(task_context.get().worker_number), "model": self._model_name}
        self._emitter = StoreEmitter(tags, self._seconds, self._batch_size, self._scope.is_over)
        self._due = self._clock() + self._seconds

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Start an epoch."""
        self._epoch, self._steps, self._logs, self._last = epoch, 0, None, None
        self._since = self._at = self._clock()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Note how far the epoch is, and emit if it is time to."""
        self._steps, self._logs, self._at = batch + 1, logs, self._clock()
        if self._at >= self._due:
            self._look(logs)

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Stop the clock, and look at the count of examples, which validation resets."""
        self._look(None)
        self._since = None

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Emit what Keras reports of the epoch."""
        self._look(dict(logs or {}))
        self._since = None

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Emit rates of 0."""
        self._end()

    def _look(self, logs: Mapping[str, Any] | None) -> None:
        """Note where training is; have it emitted with logs, or with those of the next look."""
        self._due = self._clock() + self._seconds
        if self._emitter is None or not cli.has_backend():
            return
        look = self._last or Look(self._epoch, 0.0, self._steps)
        if self._since is not None:
            count = self._count()
            loss = None if count is None else (self._logs or {}).get("loss")
            look = Look(self._epoch, self._at - self._since, self._steps, count, loss)
            self._last = look._replace(seconds=0.0)
            self._since = self._at
        self._emitter.add(look._replace(logs=logs))

    def _count(self) -> Any:
        """Return how many examples Keras has counted in this epoch, without waiting for it.

        Returns:
            A scalar tensor; None if that is not known.
        """
        try:
            step = str(getattr(self.model.train_step, "__module__", ""))
            if step.partition(".")[0] not in ("keras", "tf_keras"):
                return None  # it may weigh the loss as it likes
            for metric in self.model.metrics:
                if metric.name == "loss" and isinstance(metric, keras.metrics.Mean):
                    return tf.convert_to_tensor(metric.count)
        except Exception as error:  # a Keras that is different must cost the rate only
            self._warn_once(
                "count",
                "examples a second are not emitted: they cannot be counted. %s: %s",
                type(error).__name__,
                error,
            )
        return None

    def _end(self) -> None:
        self._due, self._since = math.inf, None
        scope, self._scope = self._scope, None
        emitter, self._emitter = self._emitter, None
        if scope is not None:
            scope.end()
        if emitter is not None:
            emitter.finish(_LAST_SECONDS)


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"`{name}` must be a number above 0. Received: {name}={value!r}")
