"""Folders that cannot be synced, and names that are given without replacing a file."""

from __future__ import annotations

import errno
import os
import pathlib
import stat
import subprocess
import sys
import textwrap

import pytest
from absl import logging
from writing import ROWS, batch, check_records

from monolith_keras_metrics import DeepInsightClient, insight
from monolith_keras_metrics.records import durable
from monolith_keras_metrics.sinks.tfrecord import TFRecordDump

REFUSALS = [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF]


@pytest.fixture
def warnings_logged(warnings_logged: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """With those that absl logs only once."""
    monkeypatch.setattr(logging, "_log_counter_per_token", {})
    monkeypatch.setattr(logging, "log", lambda _, text, *a: warnings_logged.append(text % a))
    return warnings_logged


def refuse_folders(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """As some file systems do: files can be synced, folders cannot."""
    fsync = os.fsync

    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)


@pytest.mark.parametrize("code", REFUSALS)
def test_a_folder_that_cannot_be_synced(
    code: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, warnings_logged: list[str]
) -> None:
    """All is written, and one warning says what is not promised."""
    refuse_folders(monkeypatch, code)
    for name in ("a", "b"):
        client = DeepInsightClient(tmp_path / name, flush_seconds=0.05, file_seconds=0.05)
        for step in range(10):
            client.write(batch(client.origin.attempt, step * ROWS))
        assert client.flush(60)
        client.close()
        assert client.stats().written == 10 * ROWS
        (rows,) = check_records(insight.open_run(tmp_path / name).collect()).values()
        assert rows == 10 * ROWS
    assert [line for line in warnings_logged if "ones may be lost" in line] == warnings_logged
    assert len(warnings_logged) == 1


def test_a_disk_that_fails_is_no_refusal(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, warnings_logged: list[str]
) -> None:
    refuse_folders(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        durable.make_durable(tmp_path)
    assert warnings_logged == []


def test_a_file_that_cannot_be_synced_is_an_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", sync)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Invalid argument"):
        durable.make_durable(tmp_path / "file")


@pytest.mark.skipif(not pathlib.Path("/proc/self").is_dir(), reason="a file system for this")
def test_a_real_file_system_that_refuses(warnings_logged: list[str]) -> None:
    """Linux's /proc says "Invalid argument"."""
    with pytest.raises(OSError, match="Invalid argument"):
        descriptor = os.open("/proc/self", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    durable.make_durable(pathlib.Path("/proc/self"))
    assert len(warnings_logged) == 1


def test_a_folder_that_may_be_written_but_not_read(tmp_path: pathlib.Path) -> None:
    """Mode 0300: it cannot be opened to be synced."""
    folder = tmp_path / "drop"
    folder.mkdir()
    folder.chmod(0o333)
    code = f"""
        import os, pathlib
        from monolith_keras_metrics.records import durable
        if os.geteuid() == 0:
            os.setgroups([]); os.setegid(65534); os.seteuid(65534)
        folder = pathlib.Path({str(folder)!r})
        (folder / "aside").touch()
        durable.publish(folder / "aside", folder / "final")
        durable.make_durable(folder)
        print((folder / "final").exists())
    """
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.owner() == tmp_path.owner() and parent.parts[2:]:
            parent.chmod(parent.stat().st_mode | 0o011)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["True"], done.stderr
    assert done.stderr.count("ones may be lost") == 1


@pytest.mark.parametrize("links", [True, False])
def test_a_name_is_never_taken_from_another_file(
    links: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file system has no hard links, and where the name is a broken link."""
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    aside, final, broken = (tmp_path / name for name in ("aside", "final", "broken"))
    broken.symlink_to(tmp_path / "nowhere")
    aside.write_text("a")
    durable.publish(aside, final)
    aside.write_text("b")
    for taken in (final, broken):
        with pytest.raises(FileExistsError):
            durable.publish(aside, taken)
    assert (final.read_text(), aside.read_text()) == ("a", "b")
    assert not (tmp_path / "nowhere").exists()


def test_a_disk_without_links(tmp_path: pathlib.Path) -> None:
    """VFAT has none."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    try:
        for words in (["mkfs.vfat", image], ["mount", "-o", "loop", image, folder]):
            subprocess.run(words, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no VFAT can be made here: {error}")
    try:
        client = DeepInsightClient(folder / "run", flush_seconds=0.05, file_seconds=0.05)
        for step in range(10):
            client.write(batch(client.origin.attempt, step * ROWS))
        client.close()
        (rows,) = check_records(insight.open_run(folder / "run").collect()).values()
        assert rows == 10 * ROWS
        with pytest.raises(OSError, match="not permitted"):
            os.link(next((folder / "run").glob("*.parquet")), folder / "link")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_dump_stays_where_it_was_and_replaces_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import polars as pl

    monkeypatch.chdir(tmp_path)
    first, second = TFRecordDump("a.tfrecord"), TFRecordDump("b.tfrecord")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for dump in (first, second):
        dump.write(pl.DataFrame({"uid": [1]}))
    first.close()
    assert (tmp_path / "a.tfrecord").stat().st_size > 0
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert repr(first) == f"TFRecordDump({str(tmp_path / 'a.tfrecord')!r})"
    (tmp_path / "b.tfrecord").write_text("somebody's")
    with pytest.raises(FileExistsError, match="The records are in"):
        second.close()
    second.close()
    assert (tmp_path / "b.tfrecord").read_text() == "somebody's"
    assert (tmp_path / ".b.tfrecord.inprogress").stat().st_size > 0


def test_a_dump_follows_no_link(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / ".dump.inprogress").symlink_to(target)
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="Another client"):
        TFRecordDump(tmp_path / "dump")
    with pytest.raises(FileExistsError, match="must be a new file"):
        TFRecordDump(tmp_path / "broken")
    assert target.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
