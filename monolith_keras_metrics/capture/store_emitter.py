"""`StoreEmitter`: turn looks at a training into stores of the metrics client, in a thread.

The training thread only notes where it is (`Look`). Numbers that a device still computes are waited
for here, and so is a back end that hangs.
"""

from __future__ import annotations

import contextlib
import math
import queue
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from monolith_keras_metrics import cli
from monolith_keras_metrics.threads import BackgroundThread, WarnOnce

PREFIX = "training."

_MOST_LOOKS = 100  # that wait, in case a back end hangs; further ones are left out
_POLL_SECONDS = 1.0
_RATES = ("steps_per_second", "examples_per_second")


class Look(NamedTuple):
    """Where an epoch's training is.

    Attributes:
        epoch: The epoch.
        seconds: Seconds of training since the last look, without validation.
        steps: Number of the epoch's steps so far.
        count: Number of the epoch's examples so far, a scalar tensor; None if it is not known.
        loss: The mean loss of these examples; None if it is not known.
        logs: What Keras reports; None to emit nothing yet.
    """

    epoch: int
    seconds: float
    steps: int
    count: Any = None
    loss: Any = None
    logs: Mapping[str, Any] | None = None


class StoreEmitter(BackgroundThread):
    """Emit rates, losses and metrics. The thread starts with the first look.

    Args:
        tags: Tags of the stores.
        seconds: Interval between rates. Over less than half of it, they are not emitted, except for
            the first ones: a few steps at an epoch's end tell little.
        batch_size: The number of examples of a step, where looks have no count.
        is_over: Returns True once training has ended, also with an exception.
    """

    def __init__(
        self,
        tags: Mapping[str, str],
        seconds: float,
        batch_size: int | None,
        is_over: Callable[[], bool],
    ) -> None:
        super().__init__(self._emit_until_stopped, "deep-insight-training")
        self._tags = dict(tags)
        self._seconds = seconds
        self._batch_size = batch_size
        self._is_over = is_over
        self._looks: queue.SimpleQueue[Look | None] = queue.SimpleQueue()
        self._started = False
        self._warn_once = WarnOnce()
        self._interval = _Interval()
        self._emitted: set[str] = set()

    def add(self, look: Look) -> None:
        """Have a look emitted. Does not wait."""
        if self._looks.qsize() < _MOST_LOOKS:
            self._looks.put(look)
        if not self._started:
            with contextlib.suppress(RuntimeError):  # too many threads
                self.start()
                self._started = True

    def finish(self, timeout: float) -> None:
        """Emit what waits, and rates of 0, and end the thread. Waits at most `timeout` seconds."""
        self.stop()
        self._looks.put(None)
        if self._started:
            self.join(timeout)

    def _emit_until_stopped(self) -> None:
        while not self._has_ended():
            with contextlib.suppress(queue.Empty):
                look = self._looks.get(timeout=_POLL_SECONDS)
                if look is not None:
                    self._emit(self._stores(look))
        # A training that has ended does no more steps.
        self._emit([(name, 0.0) for name in _RATES if name in self._emitted])

    def _has_ended(self) -> bool:
        return self._looks.empty() and (self._stopping.is_set() or self._is_over())

    def _emit(self, stores: Iterable[tuple[str, float]]) -> None:
        try:
            client = cli.get_cli()
            for name, value in stores:
                self._emitted.add(name)
                client.emit_store(PREFIX + name, value, dict(self._tags))
        except Exception as error:  # a failing back end must cost the stores only
            self._warn_once("failed", "cannot emit metrics. %s: %s", type(error).__name__, error)

    def _stores(self, look: Look) -> Iterator[tuple[str, float]]:
        self._interval.add(look)
        if look.logs is None:
            return
        if self._interval.seconds >= self._seconds / 2 or not self._emitted:
            yield from self._interval.means(self._batch_size)
            self._interval.begin()
        for name, value in look.logs.items():
            with contextlib.suppress(TypeError, ValueError):  # no number, such as a list of them
                yield re.sub(r"[^\w.]", "_", name), float(value)


class _Interval:
    """What was trained since the last stores: the growth between looks.

    Attributes:
        seconds: Seconds of training.
        steps: Number of steps.
        examples: Number of examples; NaN if it is not known.
        losses: Sum of the examples' losses; NaN if it is not known.
    """

    def __init__(self) -> None:
        self._epoch = -1
        self._last = (0.0, 0.0, 0.0)  # steps, examples and losses of the epoch
        self.begin()

    def begin(self) -> None:
        """Begin the next interval, where the last look was."""
        self.seconds = self.steps = self.examples = self.losses = 0.0

    def add(self, look: Look) -> None:
        """Add what was trained until a look. Waits until its tensors are computed."""
        if look.epoch != self._epoch:
            self._epoch, self._last = look.epoch, (0.0, 0.0, 0.0)
        examples = math.nan if look.count is None else float(look.count)
        losses = examples * (math.nan if look.loss is None else float(look.loss))
        steps, before, total = self._last
        self._last = (look.steps, examples, losses)
        self.seconds += look.seconds
        self.steps += look.steps - steps
        self.examples += examples - before
        self.losses += losses - total

    def means(self, batch_size: int | None) -> Iterator[tuple[str, float]]:
        """Yield the rates and the mean loss, as far as they are known."""
        if not (self.steps > 0 and self.seconds > 0):
            return
        yield "steps_per_second", self.steps / self.seconds
        # A loss that weighs each step alike has counted the steps.
        is_counted = self.examples > self.steps
        if is_counted or batch_size is not None:
            examples = self.examples if is_counted else self.steps * (batch_size or 0)
            yield "examples_per_second", examples / self.seconds
        if is_counted:
            yield "step_loss", self.losses / self.examples
