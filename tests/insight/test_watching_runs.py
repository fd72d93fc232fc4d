"""One look at a run for all viewers, which ends with the last of them."""

from __future__ import annotations

import asyncio
import pathlib
import threading
from collections.abc import AsyncIterator, Callable

import pytest
from small_runs import write

from monolith_keras_metrics.insight.page import watching
from monolith_keras_metrics.insight.page.live import Live
from monolith_keras_metrics.insight.page.watching import Watch, in_daemon, is_busy

VIEWERS = 300


class Looked(Live):
    """A run of which the looks are counted, and no slices are searched."""

    looks = 0

    def look(self) -> None:
        self.looks += 1
        super().look()

    def search(self) -> None:
        pass


@pytest.fixture
def live(tmp_path: pathlib.Path) -> Looked:
    write(tmp_path, 0)
    return Looked(tmp_path, lambda *_: b"")


async def started(watch: Watch) -> tuple[list[AsyncIterator[str]], list[str]]:
    """Return viewers, and what each of them was told first."""
    viewers = [watch.states() for _ in range(VIEWERS)]
    return viewers, [await anext(viewer) for viewer in viewers]


def run(test: Callable[[], object]) -> None:
    async def in_time() -> None:
        await asyncio.wait_for(test(), 60)

    asyncio.run(in_time())


def test_many_viewers_share_one_look(live: Looked, tmp_path: pathlib.Path) -> None:
    async def test() -> None:
        watch = Watch(live, lambda: False, look_seconds=0.01)
        viewers, first = await started(watch)
        assert len({*first}) == 1
        told = [asyncio.ensure_future(anext(viewer)) for viewer in viewers]
        await asyncio.sleep(0.05)
        assert not any(one.done() for one in told)  # nothing has changed
        looks = live.looks
        write(tmp_path, 1)
        second = await asyncio.gather(*told)
        assert len({*second}) == 1
        assert live.version in second[0]
        assert live.looks - looks < VIEWERS / 10
        for viewer in viewers[1:]:
            await viewer.aclose()
        assert watch.is_looking
        await viewers[0].aclose()
        assert not watch.is_looking
        looks = live.looks
        await asyncio.sleep(0.1)
        assert live.looks <= looks + 1  # one may have been under way
        (again, *_), _ = await started(watch)
        assert watch.is_looking
        await again.aclose()

    run(test)


def test_all_viewers_are_let_go_when_it_ends(live: Looked) -> None:
    async def test() -> None:
        ending = threading.Event()
        watch = Watch(live, ending.is_set, look_seconds=0.01)
        viewers, _ = await started(watch)
        told = [asyncio.ensure_future(anext(viewer, None)) for viewer in viewers]
        ending.set()
        assert await asyncio.gather(*told) == [None] * VIEWERS
        assert not watch.is_looking

    run(test)


def test_a_slow_viewer_misses_nothing(live: Looked, tmp_path: pathlib.Path) -> None:
    async def test() -> None:
        watch = Watch(live, lambda: False, look_seconds=0.01)
        slow, fast = watch.states(), watch.states()
        await anext(slow)
        await anext(fast)
        write(tmp_path, 1)
        new = await anext(fast)
        assert await asyncio.wait_for(anext(slow), 5) == new

    run(test)


def test_a_state_is_told_now_and_then(live: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "STATE_SECONDS", 0.05)

    async def test() -> None:
        viewer = Watch(live, lambda: False, look_seconds=0.01).states()
        first, second = await anext(viewer), await anext(viewer)
        assert first.partition(",")[0] == second.partition(",")[0]

    run(test)


def test_a_call_in_a_thread_is_not_waited_for() -> None:
    gate = threading.Event()

    async def test() -> None:
        assert await in_daemon(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await in_daemon(lambda: 1 / 0)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(in_daemon(gate.wait), 0.05)

    run(test)
    assert is_busy()
    gate.set()
    for thread in threading.enumerate():
        if thread.name == "deep-insight page":
            thread.join(10)
    assert not is_busy()
