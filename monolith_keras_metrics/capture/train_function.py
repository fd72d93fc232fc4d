"""A model's train or test function while it is recorded.

A model has at most one such function for each mode, whatever the number of callbacks: each
attaches a `Recorder` to it, and the step is traced once with the columns of all. A recorder takes
part in the steps of the call of `fit` or `evaluate` that it was attached in; those of a call that
has failed are found, and detached, at the next one.
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
from monolith_keras_metrics.capture.fit_scope import EndOfCaller, innermost_call
from monolith_keras_metrics.capture.input_columns import InputColumns
from monolith_keras_metrics.capture.keras_step import Columns, Step, make_step_function
from monolith_keras_metrics.capture.model_inputs import ModelInputs
from monolith_keras_metrics.capture.outputs import outputs_of
from monolith_keras_metrics.capture.targets import Pairs, TargetNames, label_columns, pair_targets
from monolith_keras_metrics.pipeline.client import DeepInsightClient
from monolith_keras_metrics.records.batch import Batch, Layout


@dataclasses.dataclass(frozen=True)
class Recording:
    """What is recorded of each step.

    Attributes:
        inputs: The bookkeeping columns of the dataset's `x`.
        model_name: Name of the model.
        sample_ratio: Share of users.
        targets: Which outputs, under which names.
        labels: Columns of `x` with the labels; None for `y`.
        missing_label: The label that stands for none; None if there is no such.
        epoch: Returns the running pass over the data; None outside of one.
    """

    inputs: InputColumns
    model_name: str
    sample_ratio: float
    targets: TargetNames
    labels: str | Mapping[str, str] | None
    missing_label: float | None = None
    epoch: Callable[[], int | None] = lambda: None

    def pairs(self, model: Any, call: StepCall) -> Pairs:
        """Pairs labels and predictions of a step.

        Args:
            model: The model.
            call: What the step passed to `compute_metrics` or `compute_loss`.
        """
        y = call.y if self.labels is None else label_columns(call.x, self.labels)
        outputs = outputs_of(model, y, call.y_pred, call.sample_weight)
        return pair_targets(outputs, self.targets, self.missing_label)

    def layout(self, pairs: Pairs, mode: str | None = None) -> Layout:
        """The layout of batches with these targets."""
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
    """One callback's part in what is recorded of a mode.

    Args:
        recording: What is recorded.
        mode: `"train"` or `"test"`.
        recorded: Whether this mode is; else bookkeeping columns are only taken out.
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
        self._over: EndOfCaller | None = None
        self._model: Any = None
        self._history: Any = None

    def begin(self, model: Any, client: DeepInsightClient | None, over: EndOfCaller | None) -> None:
        """Begins to take part in the steps of a call.

        Args:
            model: The model.
            client: Where columns go; None only takes them out.
            over: The end of the call; None where nothing tells.
        """
        self.client = client if self.recorded else None
        self._over = over
        self._model, self._history = model, getattr(model, "history", None)

    def end(self) -> None:
        """Takes no more part."""
        self.client = self._over = self._model = self._history = None

    def is_over(self) -> bool:
        """Return True if the call has ended."""
        if self._over is not None:
            return self._over()
        # Each fit has its own history.
        history = getattr(self._model, "history", None)
        return self.mode == "train" and history is not self._history

    def is_of(self, call: FrameType | None) -> bool:
        """Return True if this takes part in the steps of `call`, which has not ended."""
        if self._over is None:
            return not self.is_over()
        return self._over.is_end_of(call)

    def batch(self, layout: Layout, bookkeeping: Mapping[str, Any], block: Block) -> Batch:
        """Makes a batch of a step's columns."""
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
    """Stands in for a model's train or test function, and hands each step's columns over.

    Args:
        model: The model.
        mode: `"train"` or `"test"`.
        plain: The model's own function.
    """

    def __init__(self, model: Any, mode: str, plain: Callable[[Any], Any]) -> None:
        self.model = model
        self.plain = plain
        self._mode = mode
        self._attached: list[Recorder] = []
        self._holders: list[Recorder] = []
        self._steps: dict[tuple[Recorder, ...], _Steps] = {}

    def hold(self, recorder: Recorder) -> None:
        """Stays in its place until this recorder is released, whether it is attached or not."""
        if recorder not in self._holders:
            self._holders.append(recorder)

    def attach(
        self, recorder: Recorder, client: DeepInsightClient | None, over: EndOfCaller | None
    ) -> None:
        """Begins to record with a recorder.

        Args:
            recorder: The recorder.
            client: Where its columns go; None only takes them out.
            over: Tells whether what began this has ended; None where nothing tells.
        """
        others = [one for one in self._attached if one is not recorder]
        recorder.begin(self.model, client, over)
        if recorder not in self._attached:
            self._attached.append(recorder)
        for other in others:
            if other.is_over():
                other.on_exception()

    def detach(self, recorder: Recorder) -> None:
        """Ends recording with a recorder."""
        if recorder in self._attached:
            self._attached.remove(recorder)
            recorder.end()
        self._leave()

    def release(self, recorder: Recorder) -> None:
        """Ends `hold`."""
        if recorder in self._holders:
            self._holders.remove(recorder)
        self._leave()

    def end_call(self) -> None:
        """Ends what else is recorded of the call of Keras that we are in, which has failed."""
        call = innermost_call()
        with contextlib.ExitStack() as stack:
            for recorder in self._attached[::-1]:
                if recorder.is_of(call):
                    stack.callback(recorder.on_exception)

    def __call__(self, iterator: Any) -> Any:
        """Runs the next steps of `iterator`, records them, and returns the last one's logs."""
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
        """The recorders of the call of Keras that we are in, without those that were left over."""
        call = innermost_call()
        these = []
        for recorder in self._attached[:]:
            if recorder.is_of(call):
                these.append(recorder)
            # A callback is not told of an exception that ended its fit; this is another call then.
            elif recorder.is_over():
                recorder.on_exception()
        return tuple(these)

    def _leave(self) -> None:
        """Puts the model's own function back where nobody needs this one."""
        attribute = f"{self._mode}_function"
        unused = not self._attached and not self._holders
        if unused and getattr(self.model, attribute) is self:
            setattr(self.model, attribute, self.plain)


_KEPT = 4  # sets of recorders whose traced steps are kept


class _Steps:
    """A model's steps with what some recorders record of them."""

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
        """Runs steps, hands their columns over, and returns the last one's logs."""
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
        """Runs steps; raises an error of the user's own terms if the model takes no dict."""
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
        """Called when a step is traced: the names of the targets are known from then on."""
        pairs = tuple(
            one.recording.pairs(self._model, call) if one.recorded else Pairs()
            for one in self._recorders
        )
        self._layouts = [
            one.recording.layout(of_one, self._mode) if one.recorded else None
            for one, of_one in zip(self._recorders, pairs, strict=True)
        ]
        return pairs
