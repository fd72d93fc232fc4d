"""Runs that change: restored trainings, and files that come and go while they are read."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from same_frames import assert_same
from small_runs import entries, write

from monolith_keras_metrics.insight import (
    asks,
    dataset,
    kept,
    open_run,
    replays,
    steps,
    stored,
    summary,
)

ASKED: list[dict[str, Any]] = [
    {},
    {"by": "country", "window": "1h", "interval": 0.9},
    {"by": "attempt", "exact": True, "measures": ["auc", "gauc"]},
]


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    for number in range(3):
        write(tmp_path, number)
    return tmp_path


def watched(work: Callable[[], None]) -> list[steps.Step]:
    """Do some work and return the steps that it has begun."""
    begun = []

    class Watch(steps.Watch):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "step" and value is not None:
                begun.append(value)
            super().__setattr__(name, value)

    token = steps.WATCHED.set(Watch())
    work()
    steps.WATCHED.reset(token)
    return begun


def restart(run: pathlib.Path, *numbers: int) -> list[pathlib.Path]:
    """Write files again, as a training that was restored does."""
    aside = run / "aside"
    aside.mkdir()
    paths = [write(aside, number, attempt=pl.lit(2)) for number in numbers]
    moved = [path.rename(run / path.name.replace("attempt-179", "attempt-180")) for path in paths]
    aside.rmdir()
    return moved


@pytest.mark.parametrize("asked", ASKED)
def test_of_a_restarted_training_only_replays_are_read_again(
    run: pathlib.Path, asked: dict[str, Any]
) -> None:
    """Files 0, 1 and 3 hold no example of another attempt; 2 was written twice."""
    summary(run, **asked)
    restart(run, 2, 3)
    expected = summary(open_run(run), **asked)
    assert expected["revisits"].sum() == 50
    for _ in range(2):
        begun = watched(lambda: assert_same(summary(run, **asked), expected))
    assert [(one.done, one.total) for one in begun if one.unit == "records"] == [(100, 100)]
    restart(run, 4)
    assert_same(summary(run, **asked), summary(open_run(run), **asked))
    kept_files = [name for path in entries(run) for name in stored.read(path)[1]["files"]]
    parts = sorted(name.partition("part-")[2] for name in kept_files)
    assert parts == [f"{50 * number:012d}.parquet" for number in (0, 1, 3, 4)]


@pytest.mark.parametrize("number", [2, 3])
def test_a_field_that_some_files_have(run: pathlib.Path, number: int) -> None:
    """Replays, or those that are none."""
    path = dict(zip((2, 3), restart(run, 2, 3), strict=True))[number]
    value = pl.struct(cvr=pl.lit(0.5, pl.Float32), ctr=pl.lit(0.25, pl.Float32))
    pl.read_parquet(path).with_columns(
        predict=value, label=value, extra_int=pl.struct(item=pl.lit(7))
    ).write_parquet(path)
    for by in ((), "item"):
        assert_same(summary(run, by), summary(open_run(run), by))
        assert_same(summary(run, by), summary(open_run(run), by))
    assert summary(run)["target"].to_list() == ["ctr", "cvr"]


@pytest.mark.parametrize("seed", range(5))
def test_which_files_depend_on_others(seed: int) -> None:
    """Files of other attempts of the same worker whose times overlap."""
    random = np.random.default_rng(seed)
    low = random.integers(0, 400, 40)
    spans = pl.DataFrame({
        replays.FILE: [f"{number}" for number in range(40)],
        "run": "r",
        "worker": random.integers(0, 2, 40),
        "attempt": random.integers(1, 4, 40),
        "req_time": np.stack([low, low + random.integers(0, 12, 40)], axis=1).tolist(),
    })  # fmt: skip
    lines = spans.to_dicts()
    expected = {
        one[replays.FILE]
        for one in lines
        for other in lines
        if one["worker"] == other["worker"]
        and one["attempt"] != other["attempt"]
        and one["req_time"][0] <= other["req_time"][1]
        and other["req_time"][0] <= one["req_time"][1]
    }
    assert 5 < len(expected) < 35
    assert replays.dependent(spans.lazy().explode("req_time")) == expected
    with_id = pl.when(pl.col(replays.FILE) == "7").then(1).alias("example_id")
    found = replays.dependent(spans.lazy().explode("req_time").with_columns(with_id))
    assert found == expected | {"7"}


def before(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, act: Callable[[], object]
) -> None:
    """Let something happen just before a function is called for the first time."""
    original = getattr(module, name)
    done = []

    def patched(*arguments: Any, **named: Any) -> Any:
        if not done:
            done.append(act())
        return original(*arguments, **named)

    monkeypatch.setattr(module, name, patched)


@pytest.mark.parametrize(
    ("module", "name", "by"),
    [
        (kept, "identities_of", ()),
        (dataset, "open_files", ()),
        (replays, "dependent", ()),
        (asks, "plan_of", ()),
        (asks, "portions_of", "country"),
        (asks, "portions_of", pl.col("epoch") + 1),  # no states are kept of expressions
    ],
)
@pytest.mark.parametrize("is_kept", [False, True])
def test_a_file_that_disappears_while_it_is_read_is_told(
    run: pathlib.Path,
    module: Any,
    name: str,
    by: Any,
    is_kept: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if is_kept:
        summary(run, by)
    path, _ = restart(run, 2, 3)
    before(monkeypatch, module, name, path.unlink)
    with pytest.raises(FileNotFoundError, match=r"from which 'worker-.*-180.*100.*deleted. Try"):
        summary(run, by)
    monkeypatch.undo()
    assert_same(summary(run, by), summary(open_run(run), by))


@pytest.mark.parametrize("new", [2, 4])
@pytest.mark.parametrize("name", ["entries", "add"])
def test_a_file_that_appears_while_others_are_read_counts_the_next_time(
    run: pathlib.Path, name: str, new: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it holds other visits of what is just being kept."""
    expected = summary(open_run(run))
    before(monkeypatch, kept.Kept, name, lambda: restart(run, new))
    assert_same(summary(run), expected)
    monkeypatch.undo()
    for _ in range(2):
        assert_same(summary(run), summary(open_run(run)))


def test_a_kept_file_that_disappears_counts_once_more(
    run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = summary(run)
    (path,) = run.glob("*.part-*100.parquet")
    before(monkeypatch, kept, "merged", path.unlink)
    assert_same(summary(run), expected)
    assert summary(run)["examples"].item() == 100
