"""A model's train or test function while it is recorded."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from monolith_keras_metrics.client import DeepInsightClient
from monolith_keras_metrics.model_inputs import InputColumns
from monolith_keras_metrics.record import Batch, Layout
from monolith_keras_metrics.step_function import Columns, make_step_function
from monolith_keras_metrics.targets import Pairs, TargetNames, label_columns, pair_targets


@dataclasses.dataclass(frozen=True)
class Recording:
    """What is recorded of each step.

    Attributes:
        inputs: The bookkeeping columns of the dataset's `x`.
        model_name: Name of the model.
        sample_ratio: Share of users.
        targets: Which outputs, under which names.
        labels: Columns of `x` with the labels; None for `y`.
        epoch: Returns the running pass over the data; None outside of one.
    """

    inputs: InputColumns
    model_name: str
    sample_ratio: float
    targets: TargetNames
    labels: str | Mapping[str, str] | None
    epoch: Callable[[], int | None] = lambda: None

    def layout(self, targets: tuple[str, ...], mode: str | None = None) -> Layout:
        """The layout of batches with these targets."""
        return Layout(
            self.model_name,
            targets,
            self.inputs.extra_fields,
            self.sample_ratio,
            mode,
            any_time_unit=True,
            epochs=True,
        )


class RecordingFunction:
    """Stands in for a model's train or test function, and hands each step's columns over.

    Args:
        model: The model.
        mode: `"train"` or `"test"`.
        plain: The model's own function.
        recording: What is recorded.
        recorded: Whether this mode is; else bookkeeping columns are only taken out.
        on_exception: Called when training ends with an exception.
    """

    def __init__(
        self,
        model: Any,
        mode: str,
        plain: Callable[[Any], Any],
        recording: Recording,
        *,
        recorded: bool,
        on_exception: Callable[[], None],
    ) -> None:
        self.model = model
        self.plain = plain
        self._mode = mode
        self._recording = recording
        self._recorded = recorded
        self._on_exception = on_exception
        self._layout: Layout | None = None
        self._client: DeepInsightClient | None = None
        self._over: Callable[[], bool] | None = None
        self._active = False
        self._history: Any = None
        self._function = make_step_function(
            model,
            getattr(model, f"{mode}_step"),
            self._take_columns,
            self._pair_targets,
            getattr(model, f"_{mode}_counter", None),
        )

    def begin(self, client: DeepInsightClient | None, over: Callable[[], bool] | None) -> None:
        """Begins to hand columns over.

        Args:
            client: Where to; None only takes them out.
            over: Tells whether what began this has ended; None where nothing tells.
        """
        self._client = client
        self._over = over
        self._history = getattr(self.model, "history", None)
        self._active = True

    def _is_over(self) -> bool:
        if self._over is not None:
            return self._over()
        # Each fit has its own history.
        return self._mode == "train" and getattr(self.model, "history", None) is not self._history

    def end(self) -> None:
        """Becomes the plain function."""
        self._client = self._over = None
        self._active = False

    def __call__(self, iterator: Any) -> Any:
        """Runs the next steps of `iterator`, records them, and returns the last one's logs."""
        if not self._active:
            return self.plain(iterator)
        # A callback is not told of an exception that ended its fit; this is another call then.
        if self._is_over():
            self._on_exception()
            return self.plain(iterator)
        logs = None
        try:
            for step_logs, columns in self._function(iterator):
                logs = step_logs
                if self._client is not None:
                    self._client.write(self._batch(columns))
        except (StopIteration, tf.errors.OutOfRangeError):
            raise  # the end of the data
        except BaseException:
            self._on_exception()
            raise
        return logs

    def _batch(self, columns: Columns) -> Batch:
        inputs, bookkeeping = self._recording.inputs, columns.bookkeeping
        uid = bookkeeping[inputs.uid]
        assert self._layout is not None  # known since the step was traced
        return Batch(
            layout=self._layout,
            rows=uid.shape[0],
            uid=uid,
            req_time=bookkeeping[inputs.req_time],
            train_time=int(time.time()),
            labels=columns.labels,
            predictions=columns.predictions,
            sample_rates=(
                (bookkeeping[inputs.sample_rate],) if inputs.sample_rate in bookkeeping else ()
            ),
            extras=[bookkeeping[name] for name in inputs.extra_fields],
            epoch=self._recording.epoch(),
            example_id=None if inputs.example_id is None else bookkeeping[inputs.example_id],
        )

    def _take_columns(self, data: Any) -> tuple[dict[str, Any], Any]:
        return self._recording.inputs.take(self.model, data, required=self._recorded)

    def _pair_targets(self, x: Any, y: Any, y_pred: Any) -> Pairs:
        """Called when a step is traced: the names of the targets are known from then on."""
        if not self._recorded:
            return Pairs((), (), ())
        if self._recording.labels is not None:
            y = label_columns(x, self._recording.labels)
        names = getattr(self.model, "output_names", None)
        pairs = pair_targets(y, y_pred, names, self._recording.targets)
        self._layout = self._recording.layout(pairs.names, self._mode)
        return pairs
