"""Which outputs of a model are which targets, and which label belongs to which prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

# None: every output. Names: outputs to record, or the columns of a single output. A mapping: from
# outputs to the name of their target, or the names of their columns' targets.
TargetNames: TypeAlias = "Sequence[str] | Mapping[str, str | Sequence[str]] | None"


class Pairs(NamedTuple):
    """Blocks of labels and predictions with the names of their columns.

    Attributes:
        names: A name a column.
        labels: Tensors `(batch,)` or `(batch, k)`.
        predictions: Tensors `(batch,)` or `(batch, k)`.
    """

    names: tuple[str, ...]
    labels: tuple[Any, ...]
    predictions: tuple[Any, ...]


def check_target_names(targets: Any) -> None:
    """Raises `TypeError` or `ValueError` for a `targets` that cannot be right for any model."""
    if targets is None:
        return
    names: list[Any] = []
    if isinstance(targets, Mapping):
        for key, value in targets.items():
            names += [key] if not isinstance(key, str) else []
            names += [value] if isinstance(value, str) else list(value)
    elif isinstance(targets, Sequence) and not isinstance(targets, (str, bytes)):
        names = list(targets)
    else:
        raise TypeError(
            "`targets` must be a list of names or a dict from outputs to names. "
            f"Received: targets={targets!r}"
        )
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(
            f"`targets` must hold one or more non-empty names. Received: targets={targets!r}"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"`targets` must be different names. Received: targets={targets!r}")


def pair_targets(y: Any, y_pred: Any, output_names: Sequence[str] | None, targets: Any) -> Pairs:
    """Pairs a step's labels with its predictions.

    Args:
        y: Labels as the dataset has them: a tensor, or a list or dict of tensors. Outputs without
            a label are left out.
        y_pred: The model's outputs: a tensor, or a list or dict of tensors, each of shape
            `(batch,)`, `(batch, 1)` or `(batch, k)`.
        output_names: Names of the outputs, in their order, where the model has such.
        targets: `TargetNames`.

    Returns:
        The pairs, in the order of the outputs, or of `targets` where it names some.

    Raises:
        ValueError: If outputs, labels and names do not fit together; the message tells how.
    """
    outputs = _named(y_pred, output_names)
    # Keras flattens a dict in the order of its keys, and pairs a list of labels with that.
    flat = sorted(outputs) if isinstance(y_pred, Mapping) else list(outputs)
    labels = _labels(y, flat)
    chosen = _chosen(targets, outputs, labels)
    pairs = Pairs(
        tuple(name for names in chosen.values() for name in names),
        tuple(labels[output] for output in chosen),
        tuple(outputs[output] for output in chosen),
    )
    if len(set(pairs.names)) < len(pairs.names):
        raise ValueError(f"Two targets have the same name: {list(pairs.names)}")
    for output in chosen:
        _check_columns(output, labels[output], outputs[output])
    return pairs


def label_columns(x: Any, names: str | Mapping[str, str]) -> Any:
    """Takes labels from the columns of `x` that the model gets.

    Args:
        x: What the step passes to `compute_metrics`.
        names: A column, or a dict from outputs to columns.

    Returns:
        The label, or a dict of labels by output.

    Raises:
        ValueError: If there is no such column.
    """
    wanted = [names] if isinstance(names, str) else list(names.values())
    there = sorted(map(str, x)) if isinstance(x, Mapping) else []
    if missing := [name for name in wanted if name not in there]:
        raise ValueError(
            f"`labels` must name columns of `x` that the model gets. Received: {missing}; "
            f"columns: {there}"
        )
    return x[names] if isinstance(names, str) else {key: x[name] for key, name in names.items()}


def _named(y_pred: Any, output_names: Sequence[str] | None) -> dict[str, Any]:
    if isinstance(y_pred, Mapping):
        outputs = dict(y_pred)
    else:
        values = list(y_pred) if isinstance(y_pred, (list, tuple)) else [y_pred]
        if output_names is None or len(output_names) != len(values):
            output_names = (
                ["output"] if len(values) == 1 else [f"output_{i}" for i in range(len(values))]
            )
        outputs = dict(zip(output_names, values, strict=True))
    return outputs


def _labels(y: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the labels by output; an output may have none.

    Args:
        y: Labels, as the dataset has them.
        names: The outputs, in Keras's order.
    """
    if y is None:
        raise ValueError(
            "There are no labels (`y` is None). The callback records labels that fit() or the "
            "model's train_step passes to compute_metrics(x, y, y_pred). Pass them there; or, if "
            "they are a column of `x`, name it with DeepInsightCallback(labels=…)"
        )
    if isinstance(y, Mapping):
        if labels := {name: y[name] for name in names if y.get(name) is not None}:
            return labels
        raise ValueError(
            f"Labels must have outputs of the model as keys. Outputs: {list(names)}. "
            f"Received labels for: {sorted(map(str, y))}"
        )
    values = list(y) if isinstance(y, (list, tuple)) else [y]
    if len(values) != len(names):
        raise ValueError(
            f"There must be as many labels as outputs, or a dict from outputs to labels, which "
            f"may leave some out. Outputs: {list(names)}. Received: {len(values)} labels"
        )
    labels = dict(zip(names, values, strict=True))
    return {name: label for name, label in labels.items() if label is not None}


def _chosen(
    targets: Any, outputs: Mapping[str, Any], labels: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Which outputs are recorded, with the names of their columns."""
    names = list(outputs)
    if targets is None:
        names = [name for name in names if name in labels]
        for name in names:
            value = outputs[name]
            if (width := _width(name, value)) not in (1, None):
                raise ValueError(
                    f"Output {name!r} has {width} columns, which are as many targets: name them, "
                    f"as in targets={{{name!r}: ['first', …]}}"
                )
        return {name: [name] for name in names}
    if isinstance(targets, Mapping):
        chosen = {key: [v] if isinstance(v, str) else list(v) for key, v in targets.items()}
    elif len(names) == 1 and list(targets) != names:
        chosen = {names[0]: list(targets)}
    else:
        chosen = {name: [name] for name in targets}
    unknown = [name for name in chosen if name not in outputs]
    if unknown:
        raise ValueError(
            f"`targets` must name outputs of the model, which are {names}. Received: {unknown}. "
            "To give an output's target another name, pass a dict from outputs to names"
        )
    if unlabelled := [name for name in chosen if name not in labels]:
        raise ValueError(
            f"`targets` must name outputs that have a label, which are {list(labels)}. "
            f"Received: {unlabelled}. Give `y` a label for each, or leave them out of `targets`"
        )
    for output, columns in chosen.items():
        width = _width(output, outputs[output])
        if width is not None and width != len(columns):
            raise ValueError(
                f"`targets` must name each column of output {output!r}, which has {width}. "
                f"Received: {len(columns)} names, {columns}"
            )
    return chosen


def _check_columns(output: str, label: Any, prediction: Any) -> None:
    wanted, found = _width(output, prediction), _width(f"{output} (label)", label)
    if wanted is not None and found is not None and wanted != found:
        raise ValueError(
            f"Labels of output {output!r} must have a column for each of its {wanted} columns. "
            f"Received: labels of shape {tuple(label.shape)}, predictions of shape "
            f"{tuple(prediction.shape)}. Class indices are no such labels: one-hot them"
        )


def _width(name: str, tensor: Any) -> int | None:
    """Columns of a `(batch,)` or `(batch, k)` tensor; None where the shape is not known."""
    shape = getattr(tensor, "shape", None)
    if shape is None:
        raise ValueError(
            f"{name!r} must be a dense tensor of shape (batch,) or (batch, k). "
            f"Received: {type(tensor).__name__}"
        )
    if getattr(shape, "rank", len(shape) if isinstance(shape, tuple) else None) is None:
        return None
    if not 1 <= len(shape) <= 2:
        raise ValueError(
            f"{name!r} must have shape (batch,) or (batch, k). Received: {tuple(shape)}. "
            "Record sequences with write_deep_insight_v2, a row an example"
        )
    return 1 if len(shape) == 1 else shape[1]
