"""The task of a training cluster that this process is.

A context that was set takes precedence. Otherwise the environment variable `TF_CONFIG` is read.
Without it, the process is the only worker.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)


@dataclass(frozen=True)
class TaskContext:
    """One task of a training cluster.

    Args:
        server_type: The task's type: `"worker"`, `"chief"`, `"ps"`, `"evaluator"`, …
        worker_index: The index among the workers, if `server_type` is `"worker"`.
        ps_index: The index among the tasks of its type, if it is any other.
        num_workers: The number of tasks that train: the workers, and the chief if there is one.
        model_name: The name of the model, if it is known.
        number_offset: The number of tasks of other types that are numbered before this type.
            `None`: 0 for a worker and a chief, `num_workers` for any other type. Workers beside a
            chief need 1, which `TF_CONFIG` sets automatically.

    Example:
        >>> task = TaskContext(worker_index=2, num_workers=4)
        >>> task.server_type, task.index, task.worker_number
        ('worker', 2, 2)
    """

    server_type: str = "worker"
    worker_index: int = 0
    ps_index: int = 0
    num_workers: int = 1
    model_name: str = ""
    number_offset: int | None = None

    @property
    def index(self) -> int:
        """Return the index among the tasks of this type; a chief and worker 0 both have 0."""
        return self.worker_index if self.server_type == "worker" else self.ps_index

    @property
    def worker_number(self) -> int:
        """Return a number that no other task of the cluster has, for the names of files.

        The chief is 0, followed by the workers, the parameter servers, tasks of other types, and
        the evaluator. With one chief and two workers, the numbers are 0; 1, 2; 3 and up.
        """
        offset = self.number_offset
        if offset is None:
            offset = 0 if self.server_type in ("worker", "chief", "master") else self.num_workers
        return offset + self.index


_context: TaskContext | None = None


def get() -> TaskContext:
    """Return this process's task.

    Returns:
        The context of `set_context`, else the one that `TF_CONFIG` describes now, else a single
        worker with index 0.

    Raises:
        ValueError: If `TF_CONFIG` is set and invalid. A guess could give two workers the same
            number.

    Example:
        >>> with use_context(TaskContext(worker_index=1, num_workers=2)):
        ...     get().worker_number
        1
    """
    context = _context
    if context is not None:
        return context
    text = os.environ.get("TF_CONFIG", "").strip()
    return _parse(text) if text else TaskContext()


def set_context(context: TaskContext) -> None:
    """Set this process's task, with precedence over `TF_CONFIG`.

    Args:
        context: The task of the process.

    Example:
        >>> set_context(TaskContext(server_type="ps", ps_index=1, num_workers=4))
        >>> get().index
        1
        >>> reset_context()
    """
    global _context
    _context = context


def reset_context() -> None:
    """Remove the context of `set_context`, so that `TF_CONFIG` applies again."""
    global _context
    _context = None


@contextlib.contextmanager
def use_context(context: TaskContext) -> Iterator[None]:
    """Set this process's task for the length of a `with` block.

    The block applies to all threads. The exit hook's counter comes after the block: use
    `set_context` for it.

    Args:
        context: The task.

    Yields:
        Nothing.

    Example:
        >>> with use_context(TaskContext(worker_index=3, num_workers=4)):
        ...     get().index
        3
    """
    global _context
    previous, _context = _context, context
    try:
        yield
    finally:
        _context = previous


def _parse(text: str) -> TaskContext:
    """Return the task that a value of `TF_CONFIG` describes."""
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _wrong("is not JSON", text) from error
    if not isinstance(config, dict):
        raise _wrong("is not a JSON object", text)

    cluster, task = config.get("cluster") or {}, config.get("task") or {}
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise _wrong("has a `cluster` or a `task` that is not an object", text)
    if not cluster and not task.get("type"):
        return TaskContext()  # some launchers describe a single machine like this

    counts = {name: _count(hosts, text) for name, hosts in cluster.items()}
    server_type, index = task.get("type"), _to_int(task.get("index"))
    if not isinstance(server_type, str) or not server_type or index is None:
        raise _wrong("has a `task` without a type or without an index of 0 or more", text)

    # TensorFlow leaves the evaluator out of the cluster that it describes.
    if cluster and server_type not in counts and server_type != "evaluator":
        raise _wrong(f"has a task of type {server_type!r}, which is not in its cluster", text)
    if server_type in counts and index >= counts[server_type]:
        raise _wrong(
            f"has a task {server_type!r} {index} in a cluster of {counts[server_type]}", text
        )

    trainers = sum(counts.get(name, 0) for name in ("chief", "master", "worker"))
    if not cluster:
        # Task 1 without a cluster: there must be a task 0, which needs its own files.
        trainers = index + 1 if server_type == "worker" else 1
    return TaskContext(
        server_type=server_type,
        worker_index=index if server_type == "worker" else 0,
        ps_index=0 if server_type == "worker" else index,
        num_workers=max(trainers, 1),
        number_offset=_offset(server_type, counts) if cluster else None,
    )


def _offset(server_type: str, counts: dict[str, int]) -> int:
    """Return the number of tasks that are numbered before the first one of `server_type`."""
    order = ["chief", "master", "worker", "ps"]
    order += sorted(set(counts) - {*order, "evaluator"})
    before = order[: order.index(server_type)] if server_type in order else order
    return sum(counts.get(name, 0) for name in before)


def _count(hosts: object, text: str) -> int:
    """Return the number of tasks of one type, given a list of addresses or a mapping by index."""
    if isinstance(hosts, list):
        return len(hosts)
    if isinstance(hosts, dict):
        indices = [index for index in map(_to_int, hosts) if index is not None]
        if len(indices) == len(hosts):
            return max(indices, default=-1) + 1
    raise _wrong("has a `cluster` whose values are not lists of addresses", text)


def _to_int(value: object) -> int | None:
    """Return an index, which some launchers write as a string; `None` if it is invalid."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return None


def _wrong(what: str, text: str) -> ValueError:
    """Return the error for an invalid `TF_CONFIG`."""
    return ValueError(
        f"The environment variable TF_CONFIG {what}. It must look like {_EXAMPLE}, or be unset "
        f"for a single worker. Received: TF_CONFIG={text}"
    )
