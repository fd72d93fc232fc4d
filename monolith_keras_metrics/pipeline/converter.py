"""Turn batches into frames of records, and warn of values that look wrong."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import polars as pl

from monolith_keras_metrics.pipeline.ledger import Ledger
from monolith_keras_metrics.pipeline.queue import Accepted
from monolith_keras_metrics.records.batch import Batch, Layout, Origin
from monolith_keras_metrics.records.frame import to_frame
from monolith_keras_metrics.threads import WarnOnce

# Records of each layout that are checked for logits. The check costs time, and logits show early.
LOOKED_AT_ROWS = 16_384
_MOST_LAYOUTS = 1_000  # bounds the memory for the layouts checked for logits
# A panic in Polars is not an Exception, but must fail the batch only, not the thread.
_BAD_BATCH = (Exception, pl.exceptions.PanicException)


class Converter:
    """Turn batches into records.

    Args:
        origin: The run, attempt and worker of the records; None leaves these columns out.
        uid_hash_key: As in `Options`.
        ledger: Counts what becomes of examples.
        warn_once: Logs warnings.
    """

    def __init__(
        self, origin: Origin | None, uid_hash_key: bytes | None, ledger: Ledger, warn_once: WarnOnce
    ) -> None:
        self._origin = origin
        self._uid_hash_key = uid_hash_key
        self._ledger = ledger
        self._warn_once = warn_once
        self._looked_at: dict[Layout, int] = {}  # rows

    def convert(self, taken: Sequence[Accepted]) -> Iterator[tuple[pl.DataFrame, Accepted]]:
        """Yield frames with the sampled examples of batches, and the first batch of each.

        What cannot become records is counted as failed.
        """
        for _, group in itertools.groupby(taken, key=_same_columns):
            yield from self._convert_group(list(group))

    def _convert_group(self, group: list[Accepted]) -> Iterator[tuple[pl.DataFrame, Accepted]]:
        rows = sum(one.batch.rows for one in group)
        try:
            frame = self.records(group)
        except _BAD_BATCH as error:
            if len(group) > 1:  # one by one, to leave out the bad batch only
                for one in group:
                    yield from self._convert_group([one])
                return
            self._ledger.convert(0, 0, failed=rows)
            self._warn_once(
                "bad batch",
                "a batch of %d examples could not be turned into records. It is left out and "
                "counted as failed; further ones are not logged. %s: %s",
                rows,
                type(error).__name__,
                error,
            )
            return
        self._ledger.convert(frame.height, rows - frame.height)
        if frame.height:
            self._look_at(frame, group[0].batch.layout)
            yield frame, group[0]

    def records(self, accepted: Sequence[Accepted]) -> pl.DataFrame:
        """Return a frame with the sampled examples of batches that share a layout."""
        units: set[str] = set()
        frame = to_frame(
            [one.batch for one in accepted],
            self._origin,
            self._uid_hash_key,
            positions=[one.first_position for one in accepted],
            units=units,
        )
        for unit in units:
            self._warn_of_unit(unit, accepted[0].batch.layout)
        return frame

    def check(self, batch: Batch) -> None:
        """Raise if the first batch of a layout cannot become records.

        Raises:
            TypeError, ValueError: If the batch cannot become records.
        """
        try:
            to_frame([batch], self._origin, self._uid_hash_key)
        except _BAD_BATCH as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(
                f"The first batch of model {batch.layout.model_name!r} ({batch.rows:,} examples) "
                f"cannot become records. {error}"
            ) from error

    def _warn_of_unit(self, unit: str, layout: Layout) -> None:
        """Log a warning that the values of `req_time` are not Unix seconds."""
        if layout.any_time_unit:
            self._warn_once(
                "unit", "`req_time` has values in %s. They are converted to seconds", unit
            )
        else:
            self._warn_once(
                "unit",
                "`req_time` must be in Unix seconds. Received values that look like %s. They are "
                "recorded unchanged, so readers misinterpret them. Convert them to seconds",
                unit,
            )

    def _look_at(self, frame: pl.DataFrame, layout: Layout) -> None:
        """Log a warning if the first predictions of a layout look like logits."""
        looked_at = self._looked_at.get(layout, 0)
        if "logits" in self._warn_once or looked_at >= LOOKED_AT_ROWS:
            return
        if len(self._looked_at) < _MOST_LAYOUTS:
            self._looked_at[layout] = looked_at + frame.height
        for target, label, predict in zip(
            frame["label"].struct.fields,
            map(pl.Series.drop_nans, frame["label"].struct.unnest()),
            map(pl.Series.drop_nans, frame["predict"].struct.unnest()),
            strict=True,
        ):
            if label.is_in([0.0, 1.0]).all() and not predict.is_between(0.0, 1.0).all():
                self._warn_once(
                    "logits",
                    "predictions of target %r of model %r are outside [0, 1] while its labels are "
                    "0 and 1: they look like logits. They are recorded unchanged. AUC is correct, "
                    "but calibration and log loss need probabilities: apply a sigmoid",
                    target,
                    layout.model_name,
                )


def _same_columns(accepted: Accepted) -> tuple[Layout, bool, bool]:
    """Return the key shared by batches that can form one frame."""
    batch = accepted.batch
    return batch.layout, batch.epoch is None, batch.example_id is None
