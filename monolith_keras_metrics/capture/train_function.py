"""A model's train or test function while it is recorded.

A model has at most one such function per mode, for any number of callbacks. Each callback attaches
a `Recorder` to it, and the step is traced once with the columns of all recorders. A recorder
records the steps of the `fit` or `evaluate` call in which it was attached. Recorders of a failed
call are detached at the next call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import tensorflow as tf

from monolith_keras_metrics.capture.blocks import Block
from monolith_keras_metrics.capture.captured import StepCall
from monolith_keras_metrics.capture.fit_scope import FitScope, innermost_call
from monolith_keras_metrics.capture.input_columns import InputColumns
from monolith_keras_metrics.capture.keras_step import Columns, Step, make_step_function
from monolith_keras_metrics.capture.model_inputs import ModelInputs
from monolith_keras_metrics.capture.outputs import outputs_of
from monolith_keras_metrics.capture.targets import Pairs, TargetNames, label_columns, pair_targets
from monolith_keras_metrics.pipeline.client import DeepInsightClient
from monolith_keras_metrics.records.batch import Batch, Layout


@dataclasses.dataclass(frozen=True)
class Recording:
    """The settings of one callback: the columns, targets and users to record.

    Attributes:
        inputs: The bookkeeping columns of the dataset's `x`.
        model_name: Name of the model.
        sample_ratio: Share of users to record.
        targets: The outputs to record, and the names of their targets.
        labels: Columns of `x` with the labels; None for `y`.
        missing_label: The label value that marks a missing label, or None.
        epoch: Returns the current epoch; None outside of an epoch.
    """

    inputs: InputColumns
    model_name: str
    sample_ratio: float
    targets: TargetNames
    labels: str | Mapping[str, str] | None
    missing_label: float | None = None
    epoch: Callable[[], int | None] = lambda: None

    def pairs(self, model: Any, call: StepCall) -> Pairs:
        """Return the labels and predictions of a step.

        Args:
            model: The model.
            call: The step's call of `compute_metrics` or `compute_loss`.
        """
        y = call.y if self.labels is None else label_columns(call.x, self.labels)
        outputs = outputs_of(model, y, call.y_pred, call.sample_weight)
        return pair_targets(outputs, self.targets, self.missing_label)

    def layout(self, pairs: Pairs, mode: str | None = None) -> Layout:
        """Return the layout of batches with these targets."""
        return Layout(
            self.model_name,
            pairs.names,
            (*self.inputs.extra_fields, *pairs.class_fields),
            self.sample_ratio,
            mode,
            any_time_unit=True,
            epochs=True,
            from_logits=pairs.from_logits,
        )


class Recorder:
    """The recorder of one callback and one mode.

    Args:
        recording: The settings of the callback.
        mode: `"train"` or `"test"`.
        recorded: Whether to record this mode. If not, bookkeeping columns are only removed.
        on_exception: Called when training ends with an exception.
    """

    def __init__(
        self,
        recording: Recording,
        mode: str,
        *,
        recorded: bool,
        on_exception: Callable[[], None],
    ) -> None:
        self.recording = recording
        self.mode = mode
        self.recorded = recorded
        self.on_exception = on_exception
        self.client: DeepInsightClient | None = None
        self._scope: FitScope | None = None

    def begin(self, client: DeepInsightClient | None, scope: FitScope) -> None:
        """Start recording the steps of a call.

        Args:
            client: The client for the columns; None to only remove them.
            scope: The call.
        """
        self.client = client if self.recorded else None
        self._scope = scope

    def end(self) -> None:
        """Stop recording, and release the client and the call."""
        self.client = self._scope = None

    def is_over(self) -> bool:
        """Return True if the call has ended."""
        return self._scope is None or self._scope.is_over()

    def is_of(self, call: FrameType | None) -> bool:
        """Return True if this records the steps of `call`, which has not ended."""
        return self._scope is not None and self._scope.contains(call)

    def batch(self, layout: Layout, bookkeeping: Mapping[str, Any], block: Block) -> Batch:
        """Return a batch of a step's columns."""
        inputs = self.recording.inputs
        uid = bookkeeping[inputs.uid]
        return Batch(
            layout=layout,
            rows=uid.shape[0],
            uid=uid,
            req_time=bookkeeping[inputs.req_time],
            train_time=int(time.time()),
            labels=block.labels,
            predictions=block.predictions,
            sample_rates=(
                (bookkeeping[inputs.sample_rate],) if inputs.sample_rate in bookkeeping else ()
            ),
            extras=[*(bookkeeping[name] for name in inputs.extra_fields), *block.classes],
            epoch=self.recording.epoch(),
            example_id=None if inputs.example_id is None else bookkeeping[inputs.example_id],
        )


class RecordingFunction:
    """A replacement for a model's train or test function that submits each step's columns.

    Args:
        model: The model.
        mode: `"train"` or `"test"`.
        plain: The model's original function.
    """

    def __init__(self, model: Any, mode: str, plain: Callable[[Any], Any]) -> None:
        self.model = model
        self.plain = plain
        self._mode = mode
        self._attached: list[Recorder] = []
        self._holders: list[Recorder] = []
        self._steps: dict[tuple[Recorder, ...], _Steps] = {}

    def hold(self, recorder: Recorder) -> None:
        """Keep this function installed until the recorder is released, even if it is detached."""
        if recorder not in self._holders:
            self._holders.append(recorder)

    def attach(self, recorder: Recorder, client: DeepInsightClient | None, scope: FitScope) -> None:
        """Start recording with a recorder.

        Args:
            recorder: The recorder.
            client: The client for its columns; None to only remove them.
            scope: The call to record.
        """
        others = [one for one in self._attached if one is not recorder]
        recorder.begin(client, scope)
        if recorder not in self._attached:
            self._attached.append(recorder)
        for other in others:
            if other.is_over():
                other.on_exception()

    def detach(self, recorder: Recorder) -> None:
        """Stop recording with a recorder."""
        if recorder in self._attached:
            self._attached.remove(recorder)
            recorder.end()
        self._leave()

    def release(self, recorder: Recorder) -> None:
        """Undo `hold` for a recorder."""
        if recorder in self._holders:
            self._holders.remove(recorder)
        self._leave()

    def end_call(self) -> None:
        """Call `on_exception` of all recorders of the current Keras call, which has failed."""
        call = innermost_call()
        with contextlib.ExitStack() as stack:
            for recorder in self._attached[::-1]:
                if recorder.is_of(call):
                    stack.callback(recorder.on_exception)

    def __call__(self, iterator: Any) -> Any:
        """Run and record the next steps of `iterator`, and return the logs of the last one."""
        recorders = self._of_this_call()
        if not recorders:
            return self.plain(iterator)
        if recorders not in self._steps:
            if len(self._steps) == _KEPT:
                del self._steps[next(iter(self._steps))]
            self._steps[recorders] = _Steps(self.model, self._mode, recorders)
        try:
            return self._steps[recorders].run(iterator)
        except (StopIteration, tf.errors.OutOfRangeError):
            raise  # the end of the data
        except BaseException:
            with contextlib.ExitStack() as stack:
                for recorder in recorders[::-1]:
                    stack.callback(recorder.on_exception)
            raise

    def _of_this_call(self) -> tuple[Recorder, ...]:
        """Return the recorders of the current Keras call, and end those of failed calls."""
        call = innermost_call()
        these = []
        for recorder in self._attached[:]:
            if recorder.is_of(call):
                these.append(recorder)
            # Keras does not notify a callback of an exception that ended its call.
            elif recorder.is_over():
                recorder.on_exception()
        return tuple(these)

    def _leave(self) -> None:
        """Restore the model's original function if no recorder needs this one."""
        attribute = f"{self._mode}_function"
        unused = not self._attached and not self._holders
        if unused and getattr(self.model, attribute) is self:
            setattr(self.model, attribute, self.plain)


_KEPT = 4  # number of recorder sets whose traced steps are cached


class _Steps:
    """A model's steps, traced with the columns of a set of recorders."""

    def __init__(self, model: Any, mode: str, recorders: tuple[Recorder, ...]) -> None:
        self._model = model
        self._mode = mode
        self._recorders = recorders
        self._layouts: list[Layout | None] = []  # known when the step is traced
        self._inputs = ModelInputs(model)
        self._names = frozenset().union(*(one.recording.inputs.names for one in recorders))
        self._function = make_step_function(
            model,
            getattr(model, f"{mode}_step"),
            self._take_columns,
            self._run_step,
            self._pair_targets if any(one.recorded for one in recorders) else None,
            outputs=any(one.recorded and one.recording.labels is not None for one in recorders),
            counter=getattr(model, f"_{mode}_counter", None),
        )

    def run(self, iterator: Any) -> Any:
        """Run steps, submit their columns, and return the logs of the last one."""
        logs = None
        for step_logs, columns in self._checked(iterator):
            logs = step_logs
            for recorder, layout, block in zip(
                self._recorders, self._layouts, columns.blocks, strict=False
            ):
                if recorder.client is not None and layout is not None:
                    recorder.client.write(recorder.batch(layout, columns.bookkeeping, block))
        return logs

    def _checked(self, iterator: Any) -> Iterator[tuple[Any, Columns]]:
        """Yield the results of steps; raise an error with a remedy if the model takes no dict."""
        try:
            yield from self._function(iterator)
        except (StopIteration, tf.errors.OutOfRangeError):
            raise  # the end of the data
        except Exception as error:
            self._inputs.check_call(error)
            raise

    def _take_columns(self, data: Any) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for recorder in self._recorders:
            if recorder.recorded:
                columns |= recorder.recording.inputs.of(data)
        if self._mode == "train":
            self._inputs.warn_of_positions(data)
        return columns

    def _run_step(self, make_step: Callable[[], Step], data: Any) -> Any:
        return self._inputs.run(make_step, data, self._names)

    def _pair_targets(self, call: StepCall) -> tuple[Pairs, ...]:
        """Return the pairs of a call, and set the layouts. Runs when a step is traced."""
        pairs = tuple(
            one.recording.pairs(self._model, call) if one.recorded else Pairs()
            for one in self._recorders
        )
        self._layouts = [
            one.recording.layout(of_one, self._mode) if one.recorded else None
            for one, of_one in zip(self._recorders, pairs, strict=True)
        ]
        return pairs
