"""A run's folder, or a topic, as one lazy Polars frame.

All formats give the same frame, with the schema in `monolith_keras_metrics.records.schema`.
Parquet is opened lazily, so a query reads only the columns that it needs. JSON messages, in JSON
Lines files, TFRecord files or a topic, are read into memory at once.
"""

from __future__ import annotations

import collections
import concurrent.futures
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Literal

import polars as pl
from absl import logging

from monolith_keras_metrics.insight import steps
from monolith_keras_metrics.insight.formats import Part, aligned, of_lines, read_file, scan
from monolith_keras_metrics.journal import claims
from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.schema import SCHEMA, fields_of

_IDENTITY = ["run", "attempt", "worker", "position"]
TOPIC = re.compile(r"kafka:(.*)", re.DOTALL)
_SCHEME = re.compile(rf"({'|'.join(run_folder.FORMATS)}):(.+)", re.DOTALL)


def open_run(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    on_corrupt: Literal["warn", "raise"] = "warn",
) -> pl.LazyFrame:
    """Open a run: a folder or topic that training wrote to, one file of it, or several of these.

    The files of a run may differ in targets and extra fields; those missing from a file are null.
    Hidden files, files that end in `.inprogress` and subfolders are ignored. If a crashed process
    left records in the run's journal, a warning is logged. The order of the rows is not
    guaranteed: sort by `attempt`, `worker` and `position`.

    A file is corrupt if it cannot be read as its format, or holds anything but records. A JSON
    Lines or TFRecord file with a torn end gives the records before the tear. Of a Parquet file,
    only the footer is read here: a damaged page raises Polars' own error when the frame is
    collected. The checksums in TFRecord files are not checked.

    A topic is read from its start to its present end. Messages that are no records are skipped, as
    are transactions that were aborted. If one is open, what comes after its beginning is not read,
    and a warning is logged.

    Args:
        path: A folder; a file, which is TFRecord unless its name ends in `.parquet` or `.jsonl`;
            or the sink that training was given, such as `"jsonl:PATH"` or
            `"kafka://HOST:PORT/TOPIC"`. Or a list of these, which may overlap: a record that is in
            several of them is read once.
        on_corrupt: `"warn"` logs the name of a corrupt or torn file and reads the intact records;
            `"raise"` raises.

    Returns:
        The records of all files. `label`, `predict` and `sample_rate` are structs with one field
        per target. An optional column is present if any file has it.

    Raises:
        FileNotFoundError: If the path does not exist, or holds no records yet.
        ValueError: If all files are corrupt; if one is and `on_corrupt="raise"`; or if the folder
            holds files of several formats, which may be the same records twice.
        ConnectionError, PermissionError: If Kafka's brokers do not answer, or refuse.
        ImportError: If confluent-kafka is not installed, for a topic.

    Example:
    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> message = '{"uid":7,"req_time":60,"label":{"ctr":1.0},"predict":{"ctr":0.75}}'
    >>> with open(os.path.join(folder, "worker-00000.jsonl"), "w") as file:
    ...     print(message, file=file)
    >>> open_run(folder).select("uid", pl.col("predict").struct.field("ctr")).collect().rows()
    [(7, 0.75)]
    """
    if on_corrupt not in ("warn", "raise"):
        raise ValueError(
            f"`on_corrupt` must be 'warn' or 'raise'. Received: on_corrupt={on_corrupt!r}"
        )
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not paths:
        raise ValueError("`path` must name at least one run. Received: an empty list")
    topics = [match[1] for one in paths if (match := TOPIC.fullmatch(os.fspath(one)))]
    folders = [one for one in paths if not TOPIC.fullmatch(os.fspath(one))]
    files = [(file_format, file) for file_format, found in map(find, folders) for file in found]
    parts = _parts([*dict.fromkeys(files)])
    parts += [part for topic in topics for part in _read_topic(topic)]
    problems = [f"{str(part.path)!r}: {part.problem}" for part in parts if part.problem]
    if problems and on_corrupt == "raise":
        raise ValueError(
            f"`path` must hold intact files only. Received: {problems[0]}. To read the intact "
            "records, pass on_corrupt='warn'"
        )
    for problem in problems:
        logging.warning("open_run: %s", problem)
    readable = [part for part in parts if part.schema]
    if readable:
        records = _joined(readable)
        return records if len(paths) == 1 else _each_once(records)
    if problems:
        raise ValueError(f"`path` must hold at least one readable file. Received: {problems[0]}")
    empty = f"all of its {len(files)} files are empty" if files else "no message in it is a record"
    raise _no_records(paths[0], empty)


def open_files(
    file_format: str,
    files: Sequence[pathlib.Path],
    known: Sequence[pl.Schema] = (),
    name: str | None = None,
) -> tuple[pl.LazyFrame | None, dict[pathlib.Path, str]]:
    """Open some files of a run.

    Args:
        file_format: Their format.
        files: The files.
        known: Schemas of records of other files of the run. The frame has their columns, too.
        name: A further column, for the path of each record's file, if they are Parquet.

    Returns:
        The records, None if no file has any; and what is wrong with files that are not intact.
    """
    parts = _parts([(file_format, file) for file in files])
    others = [Part(pathlib.Path(), schema, pl.DataFrame(schema=schema)) for schema in known]
    readable = [*others, *(part for part in parts if part.schema)]
    records = _joined(readable, name) if readable else None
    return records, {pathlib.Path(part.path): part.problem for part in parts if part.problem}


def _parts(files: Sequence[tuple[str, pathlib.Path]]) -> list[Part]:
    """Read files of these formats."""
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        opening = steps.begin("opening", len(files), "files")
        parts = []
        for part in pool.map(lambda file: read_file(*file), files):
            parts.append(part)
            opening.done += 1
        return parts


def find(path: str | os.PathLike[str]) -> tuple[str, list[pathlib.Path]]:
    """Return the format of a run and its files, in the order of their names."""
    wanted, root = locate(path)
    if not root.is_dir():
        return wanted or run_folder.format_of(root.name) or "tfrecord", [root]
    files: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    for entry in sorted(root.iterdir()):
        found = run_folder.format_of(entry.name)
        if found and wanted in (None, found) and entry.is_file():
            files[found].append(entry)
    if len(files) > 1:
        raise ValueError(
            f"`path` must hold files of one format. Received: {str(root)!r}, which holds "
            f"{' and '.join(files)}, perhaps the same records twice. Name one format, as in "
            f"'{next(iter(files))}:{root}'"
        )
    left = _left_in(root)
    if files and left:
        logging.warning("open_run: %s", left)
    if not files and left:
        raise _no_records(path, left)
    if not files:
        raise _no_records(
            path,
            "no file is complete yet. Training completes one after file_seconds (30 s), or when "
            "it is full: wait, or check the name",
        )
    return next(iter(files.items()))


def locate(path: str | os.PathLike[str]) -> tuple[str | None, pathlib.Path]:
    """Return the format that a run's path names, None if it names none; and the path itself."""
    match = _SCHEME.fullmatch(os.fspath(path))
    wanted, name = match.groups() if match else (None, os.fspath(path))
    root = pathlib.Path(name).expanduser()
    if not root.exists():
        raise _no_records(path, "there is no such file or folder. Check the name")
    return wanted, root


def _left_in(root: pathlib.Path) -> str:
    """Return a description of what is left in a run's journal; "" if nothing is."""
    journal = root / run_folder.JOURNAL
    left = claims.look(journal)
    messages = []
    if left.journals:
        messages.append(
            f"a crashed process has left records in {str(journal)!r}, which are not read; deliver "
            f"them with: deep-insight recover {root}"
        )
    if left.foreign:
        messages.append(
            f"{str(journal)!r} holds records of another user, or unreadable ones; ask their owner "
            f"to run: deep-insight recover {root}"
        )
    if left.aside:
        messages.append(
            f"{len(left.aside)} files in {str(journal)!r} were set aside, since not all of their "
            "records could be delivered"
        )
    return "; ".join(messages)


def _no_records(path: str | os.PathLike[str], why: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"`path` must be the folder that training writes *.parquet, *.jsonl or *.tfrecord files "
        f"to, one such file, or a topic. Received: {os.fspath(path)!r}, which has no records: {why}"
    )


def _read_topic(rest: str) -> Iterator[Part]:
    """Yield the contents of a topic, given its URI without the scheme."""
    from monolith_keras_metrics.insight.topic import Topic

    try:
        topic = Topic(rest)
        for lines in topic.portions():
            yield of_lines(str(topic), lines)
    except (ValueError, OSError) as error:  # its clients name the argument that training has
        raise type(error)(str(error).replace("`sink`", "`path`")) from None
    if topic.behind:
        logging.warning(
            "open_run: %s: %s offsets at the end are not read, since a transaction is open: a "
            "training is writing, or was killed. Read again later",
            topic,
            f"{topic.behind:,}",
        )
    if topic.others:
        problem = f"{topic.others:,} of its messages are no records, and are skipped"
        yield Part(str(topic), pl.Schema(), None, problem)


def _joined(parts: list[Part], name: str | None = None) -> pl.LazyFrame:
    """Return one frame of all parts. Parts with the same schema share one scan.

    Args:
        parts: The parts.
        name: A further column, for the path of each record's part, if that is Parquet.
    """
    own = {} if name is None else {name: pl.String()}
    groups: dict[object, list[Part]] = collections.defaultdict(list)
    fields: dict[str, list[str]] = {}
    wide: set[str] = set()
    for part in parts:
        wide |= _wide(part.schema)
        key = (part.frame is None, *part.schema.items())
        groups[key].append(part)
        for column, names in fields_of(part.schema).items():
            fields[column] = list(dict.fromkeys([*fields.get(column, []), *names]))
    frames = []
    for group in groups.values():
        held = [part.frame.lazy() for part in group if part.frame is not None]
        files = [pathlib.Path(part.path) for part in group]
        frame = pl.concat(held) if held else scan(files, name)
        schema = group[0].schema if held else pl.Schema({**group[0].schema, **own})
        frames.append(aligned(frame, schema, fields, wide))
    joined = pl.concat(frames, how="diagonal_relaxed")
    names = joined.collect_schema().names()
    return joined.select(sorted(names, key=(*SCHEMA, *names).index))


def _each_once(records: pl.LazyFrame) -> pl.LazyFrame:
    """Return the records without copies of the same one."""
    names = records.collect_schema().names()
    if not {*_IDENTITY} <= {*names}:
        return records
    known = pl.all_horizontal(pl.col(_IDENTITY).is_not_null())
    once = records.filter(known).unique(_IDENTITY, keep="any")
    return pl.concat([once, records.filter(~known)])


def _wide(schema: pl.Schema) -> set[str]:
    """Return the fields of `extra_float` that are Float64."""
    dtype = schema.get("extra_float")
    fields = dtype.fields if isinstance(dtype, pl.Struct) else []
    return {field.name for field in fields if field.dtype == pl.Float64}
