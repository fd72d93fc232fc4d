"""What one callback records: which columns, targets and users."""

from __future__ import annotations

import dataclasses
import numbers
import time
from collections.abc import Callable, Mapping
from typing import Any

from monolith_keras_metrics.capture.blocks import Block
from monolith_keras_metrics.capture.captured import StepCall
from monolith_keras_metrics.capture.input_columns import InputColumns
from monolith_keras_metrics.capture.outputs import outputs_of
from monolith_keras_metrics.capture.targets import (
    Pairs,
    TargetNames,
    check_target_names,
    label_columns,
    pair_targets,
)
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

    Raises:
        TypeError, ValueError: If a value is invalid. The message names the argument.
    """

    inputs: InputColumns
    model_name: str
    sample_ratio: float
    targets: TargetNames
    labels: str | Mapping[str, str] | None
    missing_label: float | None
    epoch: Callable[[], int | None]

    def __post_init__(self) -> None:
        check_target_names(self.targets)
        missing: object = self.missing_label
        is_number = isinstance(missing, numbers.Real) and not isinstance(missing, bool)
        if missing is not None and not is_number:
            raise TypeError(
                "`missing_label` must be the number that marks a missing label, or None. "
                f"Received: missing_label={missing!r}"
            )
        self.layout(Pairs(("any",)))  # raises if the other values are invalid

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

    def batch(self, layout: Layout, columns: Mapping[str, Any], block: Block) -> Batch:
        """Return a batch of a step's bookkeeping columns, labels and predictions."""
        inputs = self.inputs
        uid = columns[inputs.uid]
        return Batch(
            layout=layout,
            rows=uid.shape[0],
            uid=uid,
            req_time=columns[inputs.req_time],
            train_time=int(time.time()),
            labels=block.labels,
            predictions=block.predictions,
            sample_rates=(columns[inputs.sample_rate],) if inputs.sample_rate in columns else (),
            extras=[*(columns[name] for name in inputs.extra_fields), *block.classes],
            epoch=self.epoch(),
            example_id=None if inputs.example_id is None else columns[inputs.example_id],
        )
