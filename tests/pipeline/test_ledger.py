"""Whatever happens to examples, in whichever order and thread: the ledger adds up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from writing import ROWS, batch

from monolith_keras_metrics import DeepInsightClient
from monolith_keras_metrics.pipeline.ledger import Ledger, Stats

COUNTS = st.integers(0, 1_000)


def check(stats: Stats) -> None:
    """The promise of `Stats`."""
    settled = stats.unsampled + stats.written + stats.dropped + stats.failed
    assert stats.accepted == settled + stats.waiting
    assert min(stats[:8]) >= 0


class Interleaving(RuleBasedStateMachine):
    """Moves examples as the queue, the encoder, the journal and the sinks may move them."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.queued: list[int] = []
        self.pending: list[tuple[int, bool]] = []  # rows, and whether they are in the journal
        self.counts = dict.fromkeys(
            ("accepted", "sampled", "unsampled", "written", "dropped", "failed"), 0
        )

    def add(self, **counts: int) -> None:
        for name, count in counts.items():
            self.counts[name] += count

    @rule(rows=COUNTS, room=st.booleans())
    def put(self, rows: int, room: bool) -> None:
        if room:
            self.ledger.accept(rows)
            self.queued.append(rows)
            self.add(accepted=rows)
        else:
            self.ledger.refuse(rows)
            self.add(accepted=rows, dropped=rows)

    @precondition(lambda self: self.queued)
    @rule(data=st.data())
    def convert(self, data: st.DataObject) -> None:
        rows = self.queued.pop(0)
        sampled = data.draw(st.integers(0, rows))
        failed = data.draw(st.integers(0, rows - sampled))
        unsampled = rows - sampled - failed
        self.ledger.convert(sampled, unsampled, failed)
        self.pending.append((sampled, False))
        self.add(sampled=sampled, unsampled=unsampled, failed=failed)

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), there=st.booleans())
    def write_to_journal_or_lose_its_file(self, data: st.DataObject, there: bool) -> None:
        index = data.draw(st.integers(0, len(self.pending) - 1))
        rows, journaled = self.pending[index]
        if journaled != there:
            self.ledger.journal(rows if there else -rows)
            self.pending[index] = rows, there

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        rows, journaled = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
        failed = data.draw(st.integers(0, rows))
        self.ledger.settle(rows - failed, failed, journaled=journaled)
        self.add(written=rows - failed, failed=failed)

    @precondition(lambda self: any(not journaled for _, journaled in self.pending))
    @rule()
    def drop(self) -> None:
        index = [journaled for _, journaled in self.pending].index(False)
        rows, _ = self.pending.pop(index)
        self.ledger.drop(rows)
        self.add(dropped=rows)

    @invariant()
    def adds_up(self) -> None:
        stats = self.ledger.stats()
        check(stats)
        assert {name: getattr(stats, name) for name in self.counts} == self.counts
        assert stats.queued == sum(self.queued)
        assert stats.waiting == stats.queued + sum(rows for rows, _ in self.pending)
        assert stats.spooled == sum(rows for rows, journaled in self.pending if journaled)


TestInterleaving = pytest.mark.slow(Interleaving.TestCase)
TestInterleaving.settings = settings(max_examples=100, stateful_step_count=30)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(["accept", "refuse", "adopt"]), min_size=2, max_size=4))
def test_threads_lose_no_count(kinds: list[str]) -> None:
    """Each does a thousand changes; whoever looks on sees sums that add up."""
    ledger = Ledger()
    over = threading.Event()
    seen: list[Stats] = []

    def change(method: Callable[[int], None]) -> None:
        for _ in range(1_000):
            method(1)

    def look() -> None:
        while not over.is_set():
            seen.append(ledger.stats())

    looking = threading.Thread(target=look)
    threads = [threading.Thread(target=change, args=(getattr(ledger, kind),)) for kind in kinds]
    for thread in (looking, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    looking.join()
    for stats in seen:
        check(stats)
    assert ledger.stats().accepted == 1_000 * len(kinds)


def test_a_client_adds_up_at_each_moment(tmp_path: Any) -> None:
    """While training writes, records are made, and two sinks take them."""
    over = threading.Event()
    seen: list[Stats] = []
    sinks = [tmp_path / "run", f"jsonl:{tmp_path / 'lines'}"]
    with DeepInsightClient(sinks, overflow="drop", queue_rows=8 * ROWS) as client:

        def look() -> None:
            while not over.is_set():
                seen.append(client.stats())

        looking = threading.Thread(target=look)
        looking.start()
        for step in range(200):
            client.write(batch(client.origin.attempt, step * ROWS))
        client.flush()
        over.set()
        looking.join()
    for stats in (*seen, client.stats()):
        check(stats)
    assert client.stats().accepted == 200 * ROWS
    assert client.stats().waiting == 0
    accepted = np.array([stats.accepted for stats in seen])
    assert (np.diff(accepted) >= 0).all()
