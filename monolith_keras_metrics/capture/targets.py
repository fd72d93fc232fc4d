"""Selection of the outputs of a model that are recorded, and the names of their targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from monolith_keras_metrics.capture import losses
from monolith_keras_metrics.capture.blocks import (
    MOST_CLASSES,
    Block,
    block_of,
    number_of_classes,
    width,
)
from monolith_keras_metrics.capture.outputs import Output

# None: every output. Names: outputs to record, or the columns of a single output. A mapping: from
# outputs to the name of their target, or the names of their columns' targets.
TargetNames: TypeAlias = "Sequence[str] | Mapping[str, str | Sequence[str]] | None"


class Pairs(NamedTuple):
    """A step's labels and predictions, with the names of their columns.

    Attributes:
        names: One name per target.
        block: The columns.
        from_logits: Names of the targets whose predictions were logits.
        class_fields: Names of the columns of `block.classes`.
    """

    names: tuple[str, ...] = ()
    block: Block = Block()
    from_logits: tuple[str, ...] = ()
    class_fields: tuple[str, ...] = ()


def check_target_names(targets: Any) -> None:
    """Raise `TypeError` or `ValueError` if `targets` is invalid for every model."""
    if targets is None:
        return
    outputs = list(targets) if isinstance(targets, Mapping) else []
    if isinstance(targets, Mapping):
        names = [name for own in _names_by_output(targets).values() for name in own]
    elif isinstance(targets, Sequence) and not isinstance(targets, (str, bytes)):
        names = list(targets)
    else:
        raise TypeError(
            "`targets` must be a list of names or a dict from outputs to names. "
            f"Received: targets={targets!r}"
        )
    if not names or not all(isinstance(name, str) and name for name in [*outputs, *names]):
        raise ValueError(
            f"`targets` must have one or more non-empty names. Received: targets={targets!r}"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"`targets` must be different names. Received: targets={targets!r}")


def pair_targets(
    outputs: Sequence[Output], targets: TargetNames, missing_label: float | None = None
) -> Pairs:
    """Return the labels and predictions of the targets.

    Args:
        outputs: A model's outputs. Those without a label are left out.
        targets: The outputs to record, and the names of their targets.
        missing_label: The label value that marks a missing label.

    Returns:
        The pairs, in the order of `targets`, or of the outputs if `targets` is None.

    Raises:
        ValueError: If outputs, labels and names do not match. The message says why.
    """
    by_name = {output.name: output for output in outputs}
    chosen = _chosen(targets, by_name)
    names = tuple(name for of_one in chosen.values() for name in of_one)
    blocks, from_logits, fields = [], [], []
    for output, own in ((by_name[key], own) for key, own in chosen.items()):
        _check_columns(output)
        blocks.append(block_of(output, own, missing_label))
        from_logits += own if losses.is_from_logits(output.loss) else []
        if blocks[-1].classes:
            fields += [f"{own[0]}_class", f"{own[0]}_predicted"]
    joined = Block(*(tuple(x for one in blocks for x in one[i]) for i in range(3)))
    return Pairs(names, joined, tuple(from_logits), tuple(fields))


def label_columns(x: Any, names: str | Mapping[str, str]) -> Any:
    """Return the labels from the columns of the model's `x`.

    Args:
        x: The `x` that the step passes to `compute_metrics`.
        names: A column, or a dict from outputs to columns.

    Returns:
        The label, or a dict of labels by output.

    Raises:
        ValueError: If a column is missing.
    """
    wanted = [names] if isinstance(names, str) else list(names.values())
    found = sorted(map(str, x)) if isinstance(x, Mapping) else []
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(
            f"`labels` must name columns of `x` that the model gets. Received: {missing}; "
            f"columns: {found}"
        )
    return x[names] if isinstance(names, str) else {key: x[name] for key, name in names.items()}


def _chosen(targets: TargetNames, outputs: Mapping[str, Output]) -> dict[str, list[str]]:
    """Return the outputs to record, with the names of their columns."""
    names = list(outputs)
    labelled = [name for name in names if outputs[name].label is not None]
    if targets is None:
        for name in labelled:
            columns = width(name, outputs[name].prediction)
            if columns not in (1, None) and not number_of_classes(outputs[name]):
                raise ValueError(
                    f"Output {name!r} has {columns} columns, so `targets` must name each of them. "
                    f"Received: targets=None. Write targets={{{name!r}: ['first', …]}}"
                )
        return {name: [name] for name in labelled}
    if isinstance(targets, Mapping):
        chosen = _names_by_output(targets)
    elif len(names) == 1 and list(targets) != names:
        chosen = {names[0]: list(targets)}
    else:
        chosen = {name: [name] for name in targets}
    if unknown := [name for name in chosen if name not in outputs]:
        raise ValueError(
            f"`targets` must name outputs of the model, which are {names}. Received: {unknown}. "
            "To give an output's target another name, pass a dict from outputs to names"
        )
    if unlabelled := [name for name in chosen if name not in labelled]:
        raise ValueError(
            f"`targets` must name outputs that have a label, which are {labelled}. "
            f"Received: {unlabelled}. Give `y` a label for each, or leave them out of `targets`"
        )
    for output, own in chosen.items():
        _check_names(outputs[output], own)
    return chosen


def _names_by_output(targets: Mapping[str, str | Sequence[str]]) -> dict[str, list[str]]:
    return {key: [own] if isinstance(own, str) else list(own) for key, own in targets.items()}


def _check_names(output: Output, names: Sequence[str]) -> None:
    columns, classes = width(output.name, output.prediction), number_of_classes(output)
    if classes and len(names) == 1:
        return
    if columns is not None and columns != len(names):
        raise ValueError(
            f"`targets` must name each column of output {output.name!r}, which has {columns}"
            + (", or give all of these classes one name" if classes else "")
            + f". Received: {len(names)} names, {list(names)}"
        )
    if classes > MOST_CLASSES and width(f"{output.name} (label)", output.label) == 1:
        raise ValueError(
            f"`targets` must name at most {MOST_CLASSES} classes if labels are indices. Received: "
            f"{classes} names for output {output.name!r}. Give all classes one name, as in "
            f"targets={{{output.name!r}: {output.name!r}}}, to record if the most probable class "
            "is right; or one-hot encode the labels"
        )


def _check_columns(output: Output) -> None:
    label, prediction = output.label, output.prediction
    wanted, found = width(output.name, prediction), width(f"{output.name} (label)", label)
    if wanted is None or found in (wanted, None) or number_of_classes(output):
        return
    raise ValueError(
        f"Labels of output {output.name!r} must have a column for each of its {wanted} columns, or "
        "be indices of classes: integers, or any numbers with sparse_categorical_crossentropy. "
        f"Received: {label.dtype if isinstance(label.dtype, str) else label.dtype.name} labels of "
        f"shape {tuple(label.shape)}, predictions of shape {tuple(prediction.shape)}"
    )
