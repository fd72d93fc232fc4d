"""Columns of examples that become records: `Batch`, its `Layout`, and their `Origin`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

from monolith_keras_metrics.records import sampling
from monolith_keras_metrics.records.columns import ArrayLike

# Invalid names of fields: Polars reads the first two as patterns, and UTF-8 has no surrogates.
_NO_FIELD = re.compile(r"\*|\^.*\$|.*[\ud800-\udfff].*", re.DOTALL)


class Origin(NamedTuple):
    """The process that writes; with a record's `position`, it identifies the record.

    Attributes:
        run: The training, which all its workers and restarts share.
        attempt: When this process began to write, in microseconds since 1970, accurate to 1 s.
            Later attempts have larger numbers, whatever the clock says (see `attempts`).
        worker: The worker's number among those that write to the same folder or topic.
    """

    run: str
    attempt: int
    worker: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """The properties that all examples of a batch share.

    Attributes:
        model_name: The model's name.
        targets: Names of the targets, in the order of the blocks' columns.
        extra_fields: Names of the extra fields.
        sample_ratio: Share of users to record, in [0, 1].
        mode: `"train"`, `"test"`, or None if it is unknown.
        any_time_unit: If True, a `req_time` of 10**11 or more is treated as a finer unit and
            converted to seconds (see `times`). If False, it is recorded unchanged.
        epochs: If True, records always have the column `epoch`, null for a batch without one, so
            that all files of a run have the same columns.
        from_logits: The targets whose predictions were logits and became probabilities.
        row_bytes: Memory of one example without its text, in bytes.

    Raises:
        TypeError, ValueError: If a value is invalid. The message names the argument.

    Example:
    >>> Layout("ctr", ("click", "buy"), ("country",), sample_ratio=0.01).mode
    """

    model_name: str
    targets: tuple[str, ...]
    extra_fields: tuple[str, ...] = ()
    sample_ratio: float = 0.01
    mode: str | None = None
    any_time_unit: bool = False
    epochs: bool = False
    from_logits: tuple[str, ...] = ()
    row_bytes: int = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        name = self.model_name
        if not isinstance(name, str) or not name or re.search("[\ud800-\udfff]", name):
            raise ValueError(
                "`model_name` must be a non-empty string that UTF-8 can encode, without lone "
                f"surrogates. Received: model_name={name!r}"
            )
        for argument, names in (("targets", self.targets), ("extra_fields", self.extra_fields)):
            if not all(isinstance(name, str) and name for name in names):
                raise ValueError(
                    f"`{argument}` must be non-empty strings. Received: {argument}={list(names)}"
                )
            if len(set(names)) < len(names):
                raise ValueError(
                    f"`{argument}` must be different names. Received: {argument}={list(names)}"
                )
            if odd := [name for name in names if _NO_FIELD.fullmatch(name)]:
                raise ValueError(
                    f"`{argument}` must not be '*' or '^…$', which Polars reads as patterns, nor "
                    f"have lone surrogates, which UTF-8 cannot encode. Received: {argument}={odd}"
                )
        if not self.targets:
            raise ValueError("`targets` must name at least one target. Received: targets=[]")
        object.__setattr__(self, "sample_ratio", sampling.check_sample_ratio(self.sample_ratio))
        # uid and time; label, prediction and rate per target; a number or a reference per extra
        row_bytes = 16 + 12 * len(self.targets) + 8 * len(self.extra_fields)
        object.__setattr__(self, "row_bytes", row_bytes)


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Batch:
    """One step's columns, as given: only the background thread copies and converts them.

    A batch is immutable. The queue knows the positions of its examples, so one batch can be
    written twice (see `row_queue.Accepted`).

    A *block* is an array of shape `(rows,)` or `(rows, k)`, whose columns are 1 or k targets.

    Attributes:
        layout: The properties that the examples share.
        rows: The number of examples.
        uid: Integers or text, shape `(rows,)` or `(rows, 1)`.
        req_time: Integers, Unix seconds, or `datetime64`; shape `(rows,)` or `(rows, 1)`.
        train_time: Unix seconds, one value for the batch.
        labels: Blocks that together have one column per target.
        predictions: The same for predictions.
        sample_rates: The same for sample rates; or a single column for all targets; or none, which
            means 1.
        extras: A column for each of `layout.extra_fields`: floats, integers, booleans (0 or 1),
            `datetime64` (Unix seconds) or strings.
        epoch: The pass over the data, 0 for the first.
        example_id: The examples' ids, the same in every training: integers or text, of `uid`'s
            shape.

    Raises:
        TypeError, ValueError: From `DeepInsightClient.write`, if the columns cannot become records.

    Example:
    >>> Batch(Layout("ctr", ("click",)), 2, uid=[3, 4], req_time=[7, 8], train_time=9,
    ...       labels=[[1.0, 0.0]], predictions=[[0.75, 0.25]]).rows
    2
    """

    layout: Layout
    rows: int
    uid: ArrayLike
    req_time: ArrayLike
    train_time: int
    labels: Sequence[ArrayLike]
    predictions: Sequence[ArrayLike]
    sample_rates: Sequence[ArrayLike] = ()
    extras: Sequence[ArrayLike] = ()
    epoch: int | None = None
    example_id: ArrayLike | None = None

    def __init__(
        self,
        layout: Layout,
        rows: int,
        uid: ArrayLike,
        req_time: ArrayLike,
        train_time: int,
        labels: Sequence[ArrayLike],
        predictions: Sequence[ArrayLike],
        sample_rates: Sequence[ArrayLike] = (),
        extras: Sequence[ArrayLike] = (),
        epoch: int | None = None,
        example_id: ArrayLike | None = None,
    ) -> None:
        # Written out because each training step makes a batch: the generated method of a frozen
        # class sets the attributes one by one, which takes 1.5 to 1.9 times as long.
        vars(self).update(
            layout=layout,
            rows=rows,
            uid=uid,
            req_time=req_time,
            train_time=train_time,
            labels=labels,
            predictions=predictions,
            sample_rates=sample_rates,
            extras=extras,
            epoch=epoch,
            example_id=example_id,
        )
