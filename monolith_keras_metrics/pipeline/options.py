"""`Options`: the name, type, default, check and description of each option, in one place."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Unpack

_MOST_WORKERS = 10**19  # file names have room for 19 digits
_T = TypeVar("_T")


def _choice(*choices: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if value not in choices:
            raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={value!r}")
        return str(value)

    return check


def _number(name: str, value: Any, *, or_zero: bool = False) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}")
    if not (value > 0 or (value == 0 and or_zero)):
        wanted = "0 or more" if or_zero else "more than 0"
        raise ValueError(f"`{name}` must be {wanted}. Received: {name}={value!r}")
    return value


def _run(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"`{name}` must be a string or None. Received: {name}={value!r}")
    if value is not None and (not value or not _is_text(value)):
        raise ValueError(
            f"`{name}` must be a non-empty string that UTF-8 can encode, without null characters, "
            f"or None. Received: {name}={value!r}"
        )
    return value


def _worker(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"`{name}` must be an integer or None. Received: {name}={value!r}")
    if not 0 <= value < _MOST_WORKERS:
        raise ValueError(
            f"`{name}` must be this process's number among the workers, at least 0 and below "
            f"10**19, or None to use the task context. Received: {name}={value!r}"
        )
    return int(value)


def _spool(name: str, value: Any) -> str | None:
    if not (value is None or isinstance(value, (str, os.PathLike))) or value == "":
        raise TypeError(f"`{name}` must be a folder, 'auto' or None. Received: {name}={value!r}")
    if value is None or value == "auto":
        return value
    path = os.fsdecode(value)
    if not _is_text(path):
        raise ValueError(f"`{name}` must be the path of a folder. Received: {name}={value!r}")
    return os.path.abspath(os.path.expanduser(path))


def _key(name: str, value: Any) -> bytes | None:
    if value is not None and not (isinstance(value, bytes) and 1 <= len(value) <= 64):
        # Without the value, since the key is a secret.
        raise ValueError(
            f"`{name}` must be 1 to 64 bytes. Received: {type(value).__name__}"
            + (f" of {len(value)}" if isinstance(value, (bytes, str)) else "")
        )
    return value


def _tags(name: str, value: Any) -> Mapping[str, str] | None:
    if not (value is None or isinstance(value, Mapping)):
        raise TypeError(f"`{name}` must be a dict or None. Received: {name}={value!r}")
    return value


def _is_text(text: str) -> bool:
    """Return True if UTF-8 can encode the text and it has no null characters."""
    return not re.search("[\0\ud800-\udfff]", text)


def _option(default: _T, check: Callable[[str, Any], Any], *, secret: bool = False) -> _T:
    return dataclasses.field(default=default, repr=not secret, metadata={"check": check})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of the client, the callback and the layer: how records are written.

    Attributes:
        run: Name of the training, shared by all its workers and restarts. None: the last part of
            the first sink's path, or its topic.
        worker: Number of this process among those that write to the same sink. None: the number in
            `task_context`.
        overflow: What to do when memory or the journal is full. `"block"` makes training wait, so
            that nothing is lost; `"drop"` never waits and counts what it drops.
        queue_rows: Number of examples that may wait to become records, and number of records that
            may wait in memory for the sinks.
        memory_bytes: The same limits in bytes.
        flush_seconds: Longest time until an example is in the journal on disk, in seconds. Newer
            examples are lost on SIGKILL; the next run delivers what is in the journal.
        file_seconds: Longest time until a record is in a file of its folder, in seconds.
        spool: Folder of the journal. `"auto"`: `.spool` in the first sink's folder; for Kafka
            alone, a folder in `$XDG_STATE_HOME` or `~/.local/state`; no journal for sink objects.
            None: no journal, records wait in memory.
        spool_bytes: Largest size of the journal, in bytes.
        on_error: `"warn"` logs and retries failures of a sink, and counts what is given up;
            `"raise"` also raises the sink's error, from the next `write` or from `close`.
        retry_seconds: How long a sink may fail while the journal is full before its records are
            given up, in seconds. Also how long records are retried that a sink refuses with an
            error of their own (see `sinks.errors.may_pass`).
        exit_timeout: Longest time that `close`, or the end of training, waits for records to be
            delivered, in seconds.
        uid_hash_key: Key of 1 to 64 bytes. Records then have a keyed hash instead of the uid.
            Sampling still uses the true uid.
        counter_tags: Tags of the counters for the metrics client (`cli.get_cli`), beside `worker`.
            None: no counters. The callback passes `model`, the model's name.

    Raises:
        TypeError, ValueError: If a value is invalid. The message names the option.

    Example:
    >>> Options(flush_seconds=5).overflow
    'block'
    """

    run: str | None = _option(None, _run)
    worker: int | None = _option(None, _worker)
    overflow: Literal["block", "drop"] = _option("block", _choice("block", "drop"))
    queue_rows: int = _option(262_144, _number)
    memory_bytes: int = _option(256 << 20, _number)
    flush_seconds: float = _option(1.0, _number)
    file_seconds: float = _option(30.0, _number)
    spool: str | os.PathLike[str] | None = _option("auto", _spool)  # noqa: RUF009 (no mutable default)
    spool_bytes: int = _option(1 << 30, _number)
    on_error: Literal["warn", "raise"] = _option("warn", _choice("warn", "raise"))
    retry_seconds: float = _option(30.0, functools.partial(_number, or_zero=True))
    exit_timeout: float = _option(10.0, _number)
    uid_hash_key: bytes | None = _option(None, _key, secret=True)
    counter_tags: Mapping[str, str] | None = _option(None, _tags)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            checked = field.metadata["check"](field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, checked)


class OptionValues(TypedDict, total=False):
    """The options as keyword arguments, for type checkers: the fields of `Options`."""

    run: str | None
    worker: int | None
    overflow: Literal["block", "drop"]
    queue_rows: int
    memory_bytes: int
    flush_seconds: float
    file_seconds: float
    spool: str | os.PathLike[str] | None
    spool_bytes: int
    on_error: Literal["warn", "raise"]
    retry_seconds: float
    exit_timeout: float
    uid_hash_key: bytes | None
    counter_tags: Mapping[str, str] | None


def make_options(
    base: Options | None = None, others: Sequence[str] = (), /, **changes: Unpack[OptionValues]
) -> Options:
    """Return the options for keyword arguments.

    Args:
        base: The options to start from. None: the default options.
        others: Names of the caller's other arguments, for the suggestion in the error.
        **changes: The options that differ.

    Raises:
        TypeError, ValueError: If there is no such option, or a value is invalid.
    """
    known = [*others, *(field.name for field in dataclasses.fields(Options))]
    if unknown := [name for name in changes if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise TypeError(
            f"There is no argument {unknown[0]!r}. "
            + (f"Did you mean {near[0]!r}?" if near else f"The arguments are: {known}")
        )
    return Options(**changes) if base is None else dataclasses.replace(base, **changes)


def signature_with_options(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function with each option in the place of its `**options`.

    `help`, notebooks and editors show this signature.
    """
    signature = inspect.signature(function)
    parameters = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    parameters += [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
        )
        for field in dataclasses.fields(Options)
    ]
    return signature.replace(parameters=parameters)
