"""Labels and predictions of a step, captured from the calls of the model's methods.

Keras's steps and most custom steps end with `compute_metrics(x, y, y_pred, sample_weight)`. Custom
steps that compute their own metrics still call `compute_loss`. If neither call gets predictions
and the user has named the column of labels, the predictions are the output of the model's only
call.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from monolith_keras_metrics.capture.blocks import Block
from monolith_keras_metrics.capture.targets import Pairs


class StepCall(NamedTuple):
    """The arguments of a step's call of `compute_metrics` or `compute_loss`.

    Attributes:
        x: Inputs of the model.
        y: Labels, as in the dataset.
        y_pred: Predictions, in the structure of the model's outputs.
        sample_weight: Weights of the examples, or None.
    """

    x: Any
    y: Any
    y_pred: Any
    sample_weight: Any


PairTargets = Callable[[StepCall], tuple[Pairs, ...]]  # one `Pairs` per recorder
Blocks = tuple[Block, ...]  # one per recorder


class Captured(threading.local):
    """The calls of the model's methods in one step, kept apart for each replica's thread."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Discard what an earlier step passed."""
        self.calls: dict[str, list[StepCall]] = {"compute_metrics": [], "compute_loss": []}
        self.outputs: list[Any] = []
        self.depth = 0  # of the calls of the model that are running

    def paired(self, pair_targets: PairTargets, x: Any) -> Blocks:
        """Return the labels and predictions of the captured calls.

        Args:
            pair_targets: Pairs the labels and predictions of one call.
            x: The step's `x`.

        Returns:
            A block for each recorder.
        """
        calls = self.calls["compute_metrics"] or _of_different_labels(self.calls["compute_loss"])
        # Keras first calls an unbuilt model in a separate graph.
        outputs = [one for one in self.outputs if all(map(_is_reachable, tf.nest.flatten(one)))]
        if not calls and len(outputs) == 1:
            calls = [StepCall(x, None, outputs[0], None)]
        calls = [call if call.x is not None else call._replace(x=x) for call in calls]
        if not calls:
            raise ValueError(
                "The model's train_step (or test_step) must call "
                "self.compute_metrics(x, y, y_pred) or self.compute_loss(x, y, y_pred), from which "
                "DeepInsightCallback reads labels and predictions. Received: no such call. End the "
                "step with `return self.compute_metrics(x, y, y_pred, sample_weight)`; or, if "
                "labels are a column of `x`, name it with DeepInsightCallback(labels=…); or record "
                "with DeepInsightLayer or write_deep_insight_v2 instead of the callback"
            )
        pairs = [pair_targets(call) for call in calls]
        for tensor in tf.nest.flatten([one.block for of_call in pairs for one in of_call]):
            if isinstance(tensor, tf.Tensor) and not _is_reachable(tensor):
                raise ValueError(
                    "compute_metrics must be called outside of loops and branches of the graph, "
                    "because labels and predictions cannot leave them. Received: a call inside a "
                    "loop or branch. Move the call out of it, or record inside it with "
                    "write_deep_insight_v2"
                )
        # A step that splits its batch calls compute_metrics for each part.
        return tuple(
            _rows_joined([one.block for one in parts]) for parts in zip(*pairs, strict=True)
        )


@contextlib.contextmanager
def captured_calls(model: Any, *, outputs: bool) -> Iterator[Captured]:
    """Capture the arguments of the model's methods while a step is traced or run.

    Args:
        model: The model.
        outputs: Whether to capture the outputs of the model's `call`, too.
    """
    captured = Captured()
    with contextlib.ExitStack() as stack:
        for name in ("compute_metrics", "compute_loss"):
            stack.enter_context(
                replaced_method(model, name, functools.partial(_capture_arguments, captured, name))
            )
        if outputs:
            output = functools.partial(_capture_output, captured)
            stack.enter_context(replaced_method(model, "call", output))
        yield captured


def _capture_arguments(
    captured: Captured, name: str, original: Callable[..., Any]
) -> Callable[..., Any]:
    """Wrap `compute_metrics` or `compute_loss` to capture its arguments."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(TypeError):  # the call below raises the same error
            given = signature.bind(*args, **kwargs).arguments
            if given.get("y_pred") is not None:
                call = StepCall(*(given.get(field) for field in StepCall._fields))
                captured.calls[name].append(call)
        return original(*args, **kwargs)

    return method


def _capture_output(captured: Captured, original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `call` to capture its output."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        captured.depth += 1
        try:
            output = original(*args, **kwargs)
        finally:
            captured.depth -= 1
        if captured.depth == 0:  # not a call inside the model's call
            captured.outputs.append(output)
        return output

    return call


@contextlib.contextmanager
def replaced_method(model: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Replace one of the model's methods with a wrapper while the context is open."""
    # The instance's dict bypasses Keras's __setattr__, so that nothing is tracked or saved.
    attributes = vars(model)
    before = attributes.get(name)
    attributes[name] = wrap(getattr(model, name))
    try:
        yield
    finally:
        if before is None:
            del attributes[name]
        else:
            attributes[name] = before


def _of_different_labels(calls: list[StepCall]) -> list[StepCall]:
    """Return the calls without repeated losses of the same labels, which are the same examples."""
    seen: list[list[int]] = []
    kept = []
    for call in calls:
        labels = [id(tensor) for tensor in tf.nest.flatten(call.y)]
        if call.y is None or labels not in seen:
            kept.append(call)
            seen.append(labels)
    return kept


def _rows_joined(blocks: list[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    joined: Block = tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), *blocks)
    return joined


def _is_reachable(tensor: Any) -> bool:
    """Return True if the tensor has a value or belongs to the current graph."""
    if not isinstance(tensor, tf.Tensor):
        return False
    if not tf.is_symbolic_tensor(tensor):
        return True
    return not tf.executing_eagerly() and tensor.graph is tf.compat.v1.get_default_graph()
