"""`EpochLogs`: puts the measures of each epoch's records into Keras's `logs`.

Keras passes one `logs` dict along its callbacks at an epoch's end. What a callback adds, only the
ones after it see. So this callback puts itself in front of Keras's list for the length of a call of
`fit`: the order in which the user names callbacks does not matter.
"""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from monolith_keras_metrics.capture.compat import keras
from monolith_keras_metrics.capture.epoch_measures import EpochMeasures, Values
from monolith_keras_metrics.capture.train_function import Recorder
from monolith_keras_metrics.pipeline.client import DeepInsightClient
from monolith_keras_metrics.threads import WarnOnce

PREFIX = "deep_insight_"

_LONGEST_WAIT_SECONDS = 5.0  # at an epoch's end, for what is still queued
_NEXT_WAIT_SECONDS = 0.1  # after an epoch at which that was in vain


class EpochLogs(keras.callbacks.Callback):
    """Add the measures of an epoch's records to `logs`, before other callbacks see them.

    The keys are those of the first epoch. Where a value is not known, it is NaN: `CSVLogger` takes
    its columns from the first epoch.

    Args:
        names: The names of the measures.
        client: The client that makes the records.
        recorders: The recorder of each mode.
    """

    def __init__(
        self, names: Sequence[str], client: DeepInsightClient, recorders: Mapping[str, Recorder]
    ) -> None:
        super().__init__()
        self._names = names
        self._client = client
        self._recorders = recorders
        self._measures = EpochMeasures(names)
        self._keys: dict[str, dict[str, tuple[str, str]]] = {}  # of each mode
        self._filled: dict[str, Any] | None = None
        self._wait_seconds = _LONGEST_WAIT_SECONDS
        self._list: weakref.ref[Any] | None = None  # which keeps the arguments of `fit` alive
        self._warn_once = WarnOnce()
        client.observe(self._measures.add)

    def go_first(self) -> None:
        """Become the first of the callbacks that Keras is calling, if it is calling any."""
        calling = _callback_list()
        if calling is not None:
            # A new list, since Keras is iterating over the other one.
            calling.callbacks = [self, *calling.callbacks]
            self._list = weakref.ref(calling)

    def leave(self) -> None:
        """Undo `go_first`."""
        calling = None if self._list is None else self._list()
        if calling is not None:
            calling.callbacks = [one for one in calling.callbacks if one is not self]
        self._list = None

    def begin_epoch(self) -> None:
        """Forget which modes the epoch before had: not every epoch has validation."""
        for recorder in self._recorders.values():
            recorder.layout = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the measures to `logs`, unless that was done."""
        if logs is None or logs is self._filled:
            return
        self._filled = logs
        targets = {
            mode: recorder.layout.targets
            for mode, recorder in self._recorders.items()
            if recorder.layout is not None
        }
        is_known = not targets or self._client.wait_until_observed(self._wait_seconds)
        self._wait_seconds = _LONGEST_WAIT_SECONDS if is_known else _NEXT_WAIT_SECONDS
        if not is_known:
            self._warn_once(
                "late",
                "the records of epoch %d were not made within %g s, so the measures in `logs` are "
                "NaN. The records are written",
                epoch,
                _LONGEST_WAIT_SECONDS,
            )
        for mode, names in targets.items():
            values = self._measures.take(mode, epoch) if is_known else None
            self._add(logs, self._of_mode(mode, names, values))
        self._measures.forget(epoch)

    def _of_mode(self, mode: str, targets: Sequence[str], values: Values | None) -> dict[str, Any]:
        if mode not in self._keys:
            self._keys[mode] = {
                _key(mode, target if len(targets) > 1 else "", name): (target, name)
                for target in targets
                for name in self._names
                # A measure that is not for the target's labels, such as the AUC of a regression.
                if not values or (target, name) in values or not _has(values, target)
            }
        known = values or {}
        return {key: known.get(of, math.nan) for key, of in self._keys[mode].items()}

    def _add(self, logs: dict[str, Any], values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if key not in logs:
                logs[key] = value
            else:
                self._warn_once(
                    "twice",
                    "`logs` have %r already, from another callback, which is kept. Give "
                    "`log_measures` to one DeepInsightCallback of a call of fit only",
                    key,
                )


def _key(mode: str, target: str, name: str) -> str:
    return ("val_" if mode == "test" else "") + PREFIX + (f"{target}_" if target else "") + name


def _has(values: Values, target: str) -> bool:
    return any(of == target for of, _ in values)


def _callback_list() -> Any:
    """Return the innermost of Keras's lists of callbacks that is calling; None if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self") if frame.f_code.co_name == "on_train_begin" else None
        if isinstance(caller, keras.callbacks.CallbackList):
            return caller
        frame = frame.f_back
    return None
