"""A model's train or test function while it is recorded.

A model has at most one such function per mode, for any number of callbacks. Each callback attaches
a `Recorder` to it, and the step is traced once with the columns of all recorders. A recorder
records the steps of the `fit` or `evaluate` call in which it was attached. Recorders of a failed
call are detached at the next call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import tensorflow as tf

from monolith_keras_metrics.capture.captured import StepCall
from monolith_keras_metrics.capture.compat import is_legacy
from monolith_keras_metrics.capture.fit_scope import FitScope, innermost_call
from monolith_keras_metrics.capture.keras_step import Columns, make_step_function
from monolith_keras_metrics.capture.model_inputs import ModelInputs
from monolith_keras_metrics.capture.recording import Recording
from monolith_keras_metrics.capture.targets import Pairs
from monolith_keras_metrics.ops.strategy import check_strategy
from monolith_keras_metrics.pipeline.client import DeepInsightClient
from monolith_keras_metrics.records.batch import Layout


@dataclasses.dataclass(eq=False)
class Recorder:
    """The recorder of one callback and one mode.

    Attributes:
        recording: The settings of the callback.
        mode: `"train"` or `"test"`.
        recorded: Whether to record this mode. If not, bookkeeping columns are only removed.
        on_exception: Called when training ends with an exception.
        client: The client for the columns of the current call; None to only remove them.
        layout: The layout of the current call's last batch; None before the first.
    """

    recording: Recording
    mode: str
    recorded: bool
    on_exception: Callable[[], None]
    client: DeepInsightClient | None = dataclasses.field(default=None, init=False)
    layout: Layout | None = dataclasses.field(default=None, init=False)
    _scope: FitScope | None = dataclasses.field(default=None, init=False)
    # Kept, since it has the traced steps.
    _function: RecordingFunction | None = dataclasses.field(default=None, init=False)

    def begin(self, model: Any, client: DeepInsightClient | None) -> None:
        """Start recording the current Keras call, and install the function that does.

        Args:
            model: The model.
            client: The client for the columns; None to only remove them.
        """
        check_strategy(model.distribute_strategy)
        function = self._install(model)
        self.client = client if self.recorded else None
        self.layout = None
        self._scope = FitScope(model)
        function.attach(self)

    def install_early(self, model: Any) -> None:
        """Install the function for legacy Keras, which reads it before `on_test_begin`."""
        if is_legacy(model):
            model.make_test_function()
            self._install(model).hold(self)

    def end(self, *, hold: bool = False) -> None:
        """Stop recording, and restore the model's function unless it is still needed.

        Args:
            hold: Whether to leave the function installed if `install_early` installed it.
        """
        self.client = self._scope = None
        if self._function is not None:
            self._function.detach(self, hold=hold)

    def is_over(self) -> bool:
        """Return True if the call has ended."""
        return self._scope is None or self._scope.is_over()

    def is_of(self, call: FrameType | None) -> bool:
        """Return True if this records the steps of `call`, which has not ended."""
        return self._scope is not None and self._scope.contains(call)

    def _install(self, model: Any) -> RecordingFunction:
        """Replace the model's function with one that records, and return that one."""
        attribute = f"{self.mode}_function"
        current, function = getattr(model, attribute), self._function
        if isinstance(current, RecordingFunction):  # another callback's, or left by an exception
            function = current
        # Keras creates a new plain function only when the model is compiled.
        elif function is None or function.plain is not current or function.model is not model:
            function = RecordingFunction(model, self.mode, current)
        setattr(model, attribute, function)
        self._function = function
        return function


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
        self._holders: set[Recorder] = set()
        # Traced steps are kept for the last few sets of recorders.
        self._steps_of = functools.lru_cache(maxsize=4)(functools.partial(_Steps, model, mode))

    def hold(self, recorder: Recorder) -> None:
        """Keep this function installed while the recorder is detached."""
        self._holders.add(recorder)

    def attach(self, recorder: Recorder) -> None:
        """Record with a recorder from now on, and end those of failed calls."""
        if recorder not in self._attached:
            self._attached.append(recorder)
        self.of_this_call()

    def detach(self, recorder: Recorder, *, hold: bool) -> None:
        """Stop recording with a recorder; undo its `hold`, unless `hold` is true."""
        if recorder in self._attached:
            self._attached.remove(recorder)
        if not hold:
            self._holders.discard(recorder)
        attribute = f"{self._mode}_function"
        is_used = self._attached or self._holders
        if not is_used and getattr(self.model, attribute) is self:
            setattr(self.model, attribute, self.plain)

    def __call__(self, iterator: Any) -> Any:
        """Run and record the next steps of `iterator`, and return the logs of the last one."""
        recorders = self.of_this_call()
        if not recorders:
            return self.plain(iterator)
        steps = self._steps_of(recorders)
        try:
            return steps.run(iterator)
        except (StopIteration, tf.errors.OutOfRangeError):
            raise  # the end of the data
        except BaseException:
            _stop(recorders)
            raise

    def of_this_call(self) -> tuple[Recorder, ...]:
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


@contextlib.contextmanager
def stop_all_on_error(model: Any) -> Iterator[None]:
    """Stop all recorders of the current Keras call if the block raises.

    Keras does not notify other callbacks if one of them raises.
    """
    try:
        yield
    except BaseException:
        for mode in ("train", "test"):
            function = getattr(model, f"{mode}_function", None)
            if isinstance(function, RecordingFunction):
                _stop(function.of_this_call())
        raise


def _stop(recorders: Sequence[Recorder]) -> None:
    """Call `on_exception` of each recorder, in order, even if one raises."""
    with contextlib.ExitStack() as stack:
        for recorder in reversed(recorders):
            stack.callback(recorder.on_exception)


class _Steps:
    """A model's steps, traced with the columns of a set of recorders."""

    def __init__(self, model: Any, mode: str, recorders: tuple[Recorder, ...]) -> None:
        self._model = model
        self._mode = mode
        self._recorders = [one for one in recorders if one.recorded]
        self._layouts: list[Layout] = []  # known when the step is traced
        names = frozenset().union(*(one.recording.inputs.names for one in recorders))
        self._inputs = ModelInputs(model, names)
        self._function = make_step_function(
            model,
            getattr(model, f"{mode}_step"),
            self._take_columns,
            self._inputs.run,
            self._pair_targets if self._recorders else None,
            outputs=any(one.recording.labels is not None for one in self._recorders),
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
                if recorder.client is not None:
                    recorder.layout = layout
                    batch = recorder.recording.batch(layout, columns.bookkeeping, block)
                    recorder.client.write(batch)
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
            columns |= recorder.recording.inputs.of(data)
        if self._mode == "train":
            self._inputs.warn_of_positions(data)
        return columns

    def _pair_targets(self, call: StepCall) -> tuple[Pairs, ...]:
        """Return the pairs of a call, and set the layouts. Runs when a step is traced."""
        pairs = tuple(one.recording.pairs(self._model, call) for one in self._recorders)
        self._layouts = [
            one.recording.layout(of_one, self._mode)
            for one, of_one in zip(self._recorders, pairs, strict=True)
        ]
        return pairs
