"""Labels and predictions of a step, noted where the step passes them to the model's own methods.

A step of Keras's own ends with `compute_metrics(x, y, y_pred, sample_weight)`, and so do most that
users write. Those that compute their metrics themselves call `compute_loss` at least. Where
neither is given predictions, and the user has named the column of labels, the output of the
model's one call is what it predicts.
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
    """What a step passed to `compute_metrics` or `compute_loss`.

    Attributes:
        x: What the model got.
        y: Labels, as the dataset has them.
        y_pred: Predictions, in the structure of the model's outputs.
        sample_weight: Weights of the examples, or None.
    """

    x: Any
    y: Any
    y_pred: Any
    sample_weight: Any


PairTargets = Callable[[StepCall], tuple[Pairs, ...]]  # for each of the recorders
Blocks = tuple[Block, ...]  # of each of the recorders


class Captured(threading.local):
    """What one step passed to the model's methods; replicas run in threads of their own."""

    def __init__(self) -> None:
        self.metrics: list[StepCall] = []
        self.losses: list[StepCall] = []
        self.outputs: list[Any] = []
        self._depth = 0

    def begin(self) -> None:
        """Forgets an earlier step."""
        self.metrics, self.losses, self.outputs, self._depth = [], [], [], 0

    def paired(self, pair_targets: PairTargets, x: Any) -> Blocks:
        """Pairs what was noted.

        Args:
            pair_targets: Pairs the labels and predictions of one call.
            x: What the step got as `x`.

        Returns:
            A block for each of the recorders.
        """
        calls = self.metrics or _of_different_labels(self.losses)
        # Keras calls an unbuilt model in a graph of its own first.
        outputs = [one for one in self.outputs if all(map(_is_reachable, tf.nest.flatten(one)))]
        if not calls and len(outputs) == 1:
            calls = [StepCall(x, None, outputs[0], None)]
        calls = [call if call.x is not None else call._replace(x=x) for call in calls]
        if not calls:
            raise ValueError(
                "The model's train_step (or test_step) called neither "
                "self.compute_metrics(x, y, y_pred) nor self.compute_loss(x, y, y_pred), which is "
                "where DeepInsightCallback sees labels and predictions. End the step with "
                "`return self.compute_metrics(x, y, y_pred, sample_weight)`; or, if labels are a "
                "column of `x`, name it with DeepInsightCallback(labels=…); or record with "
                "DeepInsightLayer or write_deep_insight_v2 instead of the callback"
            )
        pairs = [pair_targets(call) for call in calls]
        for tensor in tf.nest.flatten([one.block for of_call in pairs for one in of_call]):
            _check_reachable(tensor)
        # A step that works through its batch in pieces calls compute_metrics for each of them.
        return tuple(
            _rows_joined([one.block for one in parts]) for parts in zip(*pairs, strict=True)
        )

    @contextlib.contextmanager
    def output(self) -> Iterator[list[Any]]:
        """Notes what is appended to the list, unless this is a call of the model in its own."""
        self._depth += 1
        noted: list[Any] = []
        try:
            yield noted
        finally:
            self._depth -= 1
        if self._depth == 0:
            self.outputs += noted


@contextlib.contextmanager
def captured_calls(model: Any, *, outputs: bool) -> Iterator[Captured]:
    """Has the model's methods note what they get, for as long as a step is traced or run.

    Args:
        model: The model.
        outputs: Whether to note what its `call` returns, too.
    """
    captured = Captured()
    with contextlib.ExitStack() as stack:
        for name in ("compute_metrics", "compute_loss"):
            stack.enter_context(
                replaced_method(model, name, functools.partial(_noting, captured, name))
            )
        if outputs:
            output = functools.partial(_noting_output, captured)
            stack.enter_context(replaced_method(model, "call", output))
        yield captured


def _noting(captured: Captured, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `compute_metrics` or `compute_loss`."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(TypeError):  # the call itself tells what is wrong with it
            given = signature.bind(*args, **kwargs).arguments
            if given.get("y_pred") is not None:
                call = StepCall(*(given.get(field) for field in StepCall._fields))
                (captured.metrics if name == "compute_metrics" else captured.losses).append(call)
        return original(*args, **kwargs)

    return method


def _noting_output(captured: Captured, original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `call`."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        with captured.output() as noted:
            noted.append(original(*args, **kwargs))
        return noted[0]

    return call


@contextlib.contextmanager
def replaced_method(model: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Puts a wrapper in the place of one of the model's methods."""
    # Into the instance's dict, past Keras's __setattr__: nothing is to be tracked or saved.
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
    """Leaves out further losses of the same labels: a second look at the same examples."""
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


def _check_reachable(tensor: Any) -> None:
    if isinstance(tensor, tf.Tensor) and not _is_reachable(tensor):
        raise ValueError(
            "compute_metrics was called inside a loop or a branch of the graph, which labels and "
            "predictions cannot leave. Call it outside of it, or record with "
            "write_deep_insight_v2 in there"
        )


def _is_reachable(tensor: Any) -> bool:
    """Return True for a tensor with a value, or one of this graph."""
    if not isinstance(tensor, tf.Tensor):
        return False
    if not tf.is_symbolic_tensor(tensor):
        return True
    return not tf.executing_eagerly() and tensor.graph is tf.compat.v1.get_default_graph()
