"""Which task this process is: by hand, by TF_CONFIG, or alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import pytest

from monolith_keras_metrics import task_context
from monolith_keras_metrics.task_context import TaskContext

CLUSTER = {
    "ps": ["p0", "p1"],
    "worker": ["w0", "w1", "w2"],
    "chief": ["c0"],
    "reader": ["r0", "r1"],
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test begins with neither a context nor a `TF_CONFIG`."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    task_context.reset_context()
    yield
    task_context.reset_context()


def read(
    monkeypatch: pytest.MonkeyPatch, cluster: object, server_type: str, index: object
) -> TaskContext:
    """Returns the context that a `TF_CONFIG` of these parts gives."""
    config = {"cluster": cluster, "task": {"type": server_type, "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    return task_context.get()


def test_alone() -> None:
    """Nothing set: one worker with index 0."""
    task = task_context.get()
    assert task == TaskContext("worker", 0, 0, 1, "")
    assert (task.index, task.worker_number) == (0, 0)


def test_context_is_frozen() -> None:
    """Nobody changes a task under another's feet."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        task_context.get().worker_index = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("task", "index", "number"),
    [
        (TaskContext("worker", worker_index=2, ps_index=7, num_workers=4), 2, 2),
        (TaskContext("ps", worker_index=2, ps_index=1, num_workers=4), 1, 5),
        (TaskContext("chief", num_workers=3), 0, 0),
        (TaskContext("worker", worker_index=0, num_workers=3, number_offset=1), 0, 1),
        (TaskContext("evaluator", num_workers=3, number_offset=5), 0, 5),
    ],
)
def test_index_and_number_set_by_hand(task: TaskContext, index: int, number: int) -> None:
    """A worker's index is the worker's; any other's is the parameter server's."""
    assert (task.index, task.worker_number) == (index, number)


def test_worker_of_tf_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual case."""
    task = read(monkeypatch, {"worker": ["a", "b"]}, "worker", 1)
    assert (task.server_type, task.index, task.num_workers, task.worker_number) == (
        "worker",
        1,
        2,
        1,
    )


def test_tf_config_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may set it after importing the package."""
    assert task_context.get().index == 0
    assert read(monkeypatch, CLUSTER, "worker", 2).index == 2
    assert read(monkeypatch, CLUSTER, "worker", 1).index == 1
    monkeypatch.delenv("TF_CONFIG")
    assert task_context.get().index == 0


def test_numbers_are_unique_in_a_cluster_with_a_chief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chief 0, then workers, parameter servers, other types, and the unlisted evaluator."""
    tasks = [("chief", 0), *(("worker", i) for i in range(3)), *(("ps", i) for i in range(2))]
    tasks += [("reader", 0), ("reader", 1), ("evaluator", 0)]
    contexts = [read(monkeypatch, CLUSTER, *task) for task in tasks]
    assert [(context.server_type, context.index) for context in contexts] == tasks
    assert [context.worker_number for context in contexts] == list(range(9))
    assert {context.num_workers for context in contexts} == {4}  # the chief trains as well


def test_master_is_numbered_as_a_chief(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chief's older name."""
    cluster = {"worker": ["w0"], "master": ["m0"]}
    assert read(monkeypatch, cluster, "master", 0).worker_number == 0
    assert read(monkeypatch, cluster, "worker", 0).worker_number == 1


def test_a_listed_evaluator_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing it must not shift the others."""
    cluster = {"evaluator": ["e0"], "worker": ["w0"], "reader": ["r0"], "ps": ["p0"]}
    tasks = [("worker", 0), ("ps", 0), ("reader", 0), ("evaluator", 0)]
    assert [read(monkeypatch, cluster, *task).worker_number for task in tasks] == [0, 1, 2, 3]


def test_a_cluster_without_workers_counts_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody trains, or there would be nothing to tell."""
    assert read(monkeypatch, {"ps": ["p0"]}, "ps", 0).num_workers == 1


def test_index_as_a_string_and_sparse_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What TensorFlow takes, and some launchers write."""
    assert read(monkeypatch, {"worker": ["a", "b"]}, "worker", "1").worker_index == 1
    task = read(monkeypatch, {"worker": {"0": "a", "4": "b"}}, "worker", 4)
    assert (task.index, task.num_workers) == (4, 5)


@pytest.mark.parametrize(
    "text", ["", "  ", "{}", '{"cluster": {}}', '{"cluster": {}, "task": {"type": "", "index": 0}}']
)
def test_an_empty_tf_config_is_one_worker(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some launchers describe a single machine so."""
    monkeypatch.setenv("TF_CONFIG", text)
    assert task_context.get() == TaskContext()


def test_a_task_without_a_cluster_keeps_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a worker 1 there is a worker 0."""
    monkeypatch.setenv("TF_CONFIG", '{"task": {"type": "worker", "index": 1}}')
    task = task_context.get()
    assert (task.index, task.num_workers, task.worker_number) == (1, 2, 1)
    monkeypatch.setenv("TF_CONFIG", '{"task": {"type": "ps", "index": 0}}')
    assert task_context.get().worker_number == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"cluster": ["a"], "task": {}}', "not an object"),
        ('{"cluster": {}, "task": "worker"}', "not an object"),
        ('{"cluster": {"worker": ["a"]}}', "without a type"),
        ('{"cluster": {"worker": ["a"]}, "task": {"index": 0}}', "without a type"),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": "worker"}}', "without an index"),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": -1}}', "index of 0"),
        (
            '{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": true}}',
            "index of",
        ),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0.5}}', "index of"),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": 3, "index": 0}}', "without a type"),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 1}}', "cluster of 1"),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": "ps", "index": 0}}', "'ps', which"),
        ('{"cluster": {"worker": 2}, "task": {"type": "worker", "index": 0}}', "lists of addr"),
        ('{"cluster": {"worker": {"x": "a"}}, "task": {"type": "worker", "index": 0}}', "lists"),
    ],
)
def test_a_wrong_tf_config_is_an_error(
    text: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, with what is wrong, how it should look, and what was there."""
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="environment variable TF_CONFIG") as caught:
        task_context.get()
    message = str(caught.value)
    assert problem in message
    assert 'must look like {"cluster": {"worker":' in message
    assert f"Received: TF_CONFIG={text}" in message


def test_what_the_error_shows_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example in the message can be pasted."""
    monkeypatch.setenv("TF_CONFIG", "wrong")
    with pytest.raises(ValueError, match="TF_CONFIG") as caught:
        task_context.get()
    example = str(caught.value).partition("look like ")[2].partition(", or be unset")[0]
    monkeypatch.setenv("TF_CONFIG", example)
    assert task_context.get().num_workers == 2


def test_by_hand_comes_before_tf_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even before an invalid one."""
    monkeypatch.setenv("TF_CONFIG", "{")
    mine = TaskContext("ps", ps_index=3, num_workers=2, model_name="ctr")
    task_context.set_context(mine)
    assert task_context.get() is mine
    task_context.reset_context()
    with pytest.raises(ValueError, match="TF_CONFIG"):
        task_context.get()


def test_use_context_nests_and_restores_after_an_error() -> None:
    """Each block puts back what was there before it."""
    outer, inner = TaskContext(worker_index=1), TaskContext(worker_index=2)
    task_context.set_context(outer)
    with pytest.raises(KeyError), task_context.use_context(inner):
        assert task_context.get() is inner
        raise KeyError
    assert task_context.get() is outer
