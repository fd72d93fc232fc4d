"""A model's outputs, each with the label, the weight and the loss that Keras pairs with it.

Keras decides which label belongs to which output, and its rules differ between versions. Its
compiled loss is therefore created again, from losses that only capture their arguments (see
`_captured_losses`). If there is no compiled loss, or it does not match what the step passed, labels
are paired by their position in the structure, by the outputs' names, or in the order of Keras's
flattening, which sorts the keys of a dict.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from absl import logging

from monolith_keras_metrics.capture.compat import is_legacy, keras

_Path: TypeAlias = "tuple[Any, ...]"  # keys and indices


@dataclasses.dataclass
class Output:
    """One output of a model, in one step.

    Attributes:
        name: Name of the output.
        prediction: The model's prediction.
        label: The label, or None.
        weight: The example weights for this output only, or None.
        loss: The compiled loss of this output, as passed to `compile`, or None if unknown.
    """

    name: str
    prediction: Any
    label: Any = None
    weight: Any = None
    loss: Any = None


def outputs_of(model: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> list[Output]:
    """Return a model's outputs in their order, with their labels, weights and losses.

    Args:
        model: The model.
        y: Labels that the step passes on: a tensor, or any structure of tensors.
        y_pred: The model's outputs, in any structure.
        sample_weight: Weights. A structure has weights for single outputs. A tensor applies to all
            outputs, and is ignored here.

    Returns:
        The outputs. The label is None for those without one.

    Raises:
        ValueError: If there are no labels, or they cannot be paired with the outputs.
    """
    names = _named_paths(y_pred, _output_names(model))
    outputs = {path: Output(names[path], value) for path, value in _leaves(y_pred)}
    is_nested = isinstance(sample_weight, (Mapping, list, tuple))
    weights = sample_weight if is_nested else None
    _pair_as_keras(model, outputs, y, y_pred, weights)
    labels: dict[_Path, Any] = {}
    try:
        labels = _paired_by_position("labels", y, y_pred, outputs)
    except ValueError:
        if all(one.label is None for one in outputs.values()):
            raise
    for path, label in labels.items():
        if outputs[path].label is None:
            outputs[path].label = label
    if weights is not None and not any(one.weight is not None for one in outputs.values()):
        try:
            paired = _paired_by_position("sample weights", weights, y_pred, outputs)
            for path, weight in paired.items():
                outputs[path].weight = weight
        except ValueError as error:
            logging.warning("Deep insight: sample weights do not mask labels in records. %s", error)
    return list(outputs.values())


def _pair_as_keras(
    model: Any, outputs: Mapping[_Path, Output], y: Any, y_pred: Any, weights: Any
) -> None:
    """Set the outputs' labels, weights and losses as Keras pairs them, as far as it does."""
    if is_legacy(model):
        losses = getattr(getattr(model, "compiled_loss", None), "_losses", None)
        ordered = [outputs[path] for path, _ in _leaves(y_pred, in_order=True)]
        if isinstance(losses, list) and len(losses) == len(ordered):
            for output, loss in zip(ordered, losses, strict=True):
                output.loss = loss
        return
    compiled = getattr(model, "_compile_loss", None)
    if compiled is None or y is None:
        return
    by_marker: dict[int, Any] = {}

    def mark(leaf: Any) -> Any:
        if leaf is None:
            return None
        marker = np.zeros((1, 1), np.float32)
        by_marker[id(marker)] = (marker, leaf)
        return marker

    markers = [tf.nest.map_structure(mark, structure) for structure in (y, y_pred, weights)]
    of_prediction = {id(marker): outputs[path] for path, marker in _leaves(markers[1])}
    for label, prediction, weight, loss in _captured_losses(compiled, *markers):
        if id(prediction) not in of_prediction:
            continue  # one loss over several outputs
        output = of_prediction[id(prediction)]
        output.loss = loss
        if id(label) in by_marker:
            output.label = by_marker[id(label)][1]
        if id(weight) in by_marker:
            output.weight = by_marker[id(weight)][1]


def _captured_losses(
    compiled: Any, y: Any, y_pred: Any, weights: Any
) -> list[tuple[Any, Any, Any, Any]]:
    """Return the label, prediction and weight that Keras passes to each loss, and the loss.

    Args:
        compiled: The model's `CompileLoss`.
        y: Placeholders for the labels.
        y_pred: Placeholders for the predictions.
        weights: Placeholders for the weights, or None.
    """
    captured: list[tuple[Any, Any, Any, Any]] = []

    class CapturingLoss(keras.losses.Loss):
        def __init__(self, loss: Any) -> None:
            super().__init__()
            self.captured_for = loss

        def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
            captured.append((y_true, y_pred, sample_weight, self.captured_for))
            return 0.0

    def call_losses() -> None:
        try:
            losses = tf.nest.map_structure(
                lambda loss: None if loss is None else CapturingLoss(loss), compiled._user_loss
            )
            type(compiled)(losses, output_names=compiled.output_names)(y, y_pred, weights)
        except Exception as error:
            # The step passes different arguments to compute_metrics and to the compiled loss.
            logging.debug("Deep insight: Keras's loss does not pair labels and outputs: %r", error)
            captured.clear()

    # In a separate thread, Keras does not create variables for its mean losses in the graph or
    # replica that is being traced here.
    thread = threading.Thread(target=call_losses, name="deep-insight-pairing")
    thread.start()
    thread.join()
    return captured


def _paired_by_position(
    what: str, y: Any, y_pred: Any, outputs: Mapping[_Path, Output]
) -> dict[_Path, Any]:
    """Return labels (or weights) by output, paired by paths, by names, or in Keras's order."""
    names = [output.name for output in outputs.values()]
    if y is None:
        raise ValueError(
            "There must be labels for the callback to record. Received: no labels, y=None. Pass "
            "`y` to fit() and from the model's train_step to compute_metrics(x, y, y_pred); or, if "
            "the labels are a column of `x`, name it with DeepInsightCallback(labels=…)"
        )
    leaves = dict(_leaves(y, in_order=True))
    if isinstance(y, Mapping):
        paired = {}
        for path, output in outputs.items():
            for key in (path, (output.name,)):  # the name decides
                if leaves.get(key) is not None:
                    paired[path] = leaves[key]
        if not paired:
            raise ValueError(
                f"A dict of {what} must have the model's outputs as keys. Outputs: {names}. "
                f"Received {what} for: {sorted(map(str, y))}"
            )
        return paired
    if set(leaves) != set(outputs):
        if len(leaves) != len(outputs):
            raise ValueError(
                f"There must be as many {what} as outputs, or a dict from some or all outputs to "
                f"{what}. Outputs: {names}. Received: {len(leaves)} {what}"
            )
        ordered = [path for path, _ in _leaves(y_pred, in_order=True)]
        leaves = dict(zip(ordered, leaves.values(), strict=True))
    return {path: leaves[path] for path in outputs if leaves[path] is not None}


def _output_names(model: Any) -> Sequence[str] | None:
    """Return the names of a model's outputs in Keras's order, or None if it has no names."""
    if isinstance(model, keras.Sequential) and model.layers:
        last = model.layers[-1]
        # Keras numbers default names by how many such layers the process has created.
        made_up = re.sub(r"(?<!^)(?=[A-Z])", "_", type(last).__name__).lower()
        return ["output" if re.fullmatch(rf"{made_up}(_\d+)?", last.name) else last.name]
    names: Sequence[str] | None = getattr(model, "output_names", None)
    return names


def _named_paths(y_pred: Any, output_names: Sequence[str] | None) -> dict[_Path, str]:
    """Return a name for each leaf of a model's outputs: its dict key, or the model's name."""
    paths = [path for path, _ in _leaves(y_pred)]
    ordered = [path for path, _ in _leaves(y_pred, in_order=True)]
    known: dict[_Path, str] = {}
    if output_names is not None and len(output_names) == len(paths):
        known = dict(zip(ordered, map(str, output_names), strict=True))
    names = {}
    for path in paths:
        last = path[-1] if path else 0
        own = str(last) if isinstance(last, str) else known.get(path)
        if own is None:
            own = "output" if len(paths) == 1 else f"output_{last}" if len(path) == 1 else str(last)
        names[path] = "/".join([*map(str, path[:-1]), own])
    return dict(zip(names, _unique(list(names.values())), strict=True))


def _unique(names: list[str]) -> list[str]:
    """Return the names with repeated ones numbered: a layer that is used twice repeats its name."""
    unique: list[str] = []
    for name in names:
        new, number = name, 0
        while new in unique or (number and new in names):
            number += 1
            new = f"{name}_{number}"
        unique.append(new)
    return unique


def _leaves(
    structure: Any, path: _Path = (), *, in_order: bool = False
) -> Iterator[tuple[_Path, Any]]:
    """Yield the leaves of a structure with their paths, `in_order` as Keras flattens it."""
    if isinstance(structure, Mapping):
        for key in sorted(structure) if in_order else structure:
            yield from _leaves(structure[key], (*path, key), in_order=in_order)
    elif isinstance(structure, (list, tuple)):
        for index, part in enumerate(structure):
            yield from _leaves(part, (*path, index), in_order=in_order)
    else:
        yield path, structure
