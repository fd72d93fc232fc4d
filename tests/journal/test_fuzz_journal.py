"""Journal and lock files with bytes changed: records come out, or an error that is ours.

FUZZ_CASES=100000 has the same done at length.
"""

from __future__ import annotations

import collections
import os
import pathlib
import random
import struct
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import FRAMES, ORIGIN, STEM, kept, written

from monolith_keras_metrics.journal import claims, regular
from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.decoder import Decoder
from monolith_keras_metrics.records.schema import check_frame

CASES = int(os.environ.get("FUZZ_CASES", "400"))
EXTREMES = [0, 1, -1, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 62, (1 << 63) - 1, -(1 << 63)]


def changed(data: bytes, chance: random.Random) -> bytes:
    """Flip, overwrite, cut out, repeat, or cut off."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(out) + 1)
        how = chance.randrange(6)
        if how == 0 and at < len(out):
            out[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            out[at : at + 8] = struct.pack("<q", chance.choice(EXTREMES))
        elif how == 2:
            out[at : at + 4] = struct.pack("<i", chance.choice(EXTREMES[:6]) % (1 << 31))
        elif how == 3:
            del out[at : at + chance.randint(1, 64)]
        elif how == 4:
            out[at:at] = out[at : at + chance.randint(1, 64)]
        else:
            del out[max(at, 1) :]
    return bytes(out)


def entries(chance: random.Random) -> Iterator[bytes]:
    """Entries of which the payload was changed and the checksum is right, and the other way."""
    for frame in FRAMES:
        entry = journal.encode(frame)
        if chance.random() < 0.8:
            payload = changed(entry[journal._ENTRY.size :], chance)
            yield journal.entry_header(frame.height, 0, payload) + payload
        else:
            yield entry


@pytest.mark.slow
def test_changed_journals(tmp_path: pathlib.Path, decoder: Decoder) -> None:
    """In a child process, which may die of it; this one does not."""
    results: collections.Counter[str] = collections.Counter()
    start, _ = written(tmp_path, [])
    head = start.read_bytes()
    for seed in range(CASES // len(FRAMES)):
        chance = random.Random(seed)
        data = head + b"".join(entries(chance))
        start.write_bytes(changed(data, chance) if chance.random() < 0.3 else data)
        results["files"] += 1
        try:
            places = journal.scan(kept(start)).places
        except journal.UnreadableError:
            results["unreadable files"] += 1
            continue
        for place in places:
            child = decoder._child
            try:
                frame = decoder.read(place)
            except journal.UnreadableError as error:
                died = "the child died" if "cannot be decoded" in str(error) else "refused"
                results[died] += 1
                continue
            results["records"] += 1
            results["child restarted"] += child is not None and decoder._child is not child
            check_frame(frame)
            assert set(frame["attempt"]) <= {ORIGIN.attempt}
    print(f"\n{dict(results)}")
    assert results["refused"] > results["files"] // 4


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes_in_a_lock(content: bytes) -> None:
    """Whatever it says, nobody lives who does not hold it."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / f"{STEM}.lock").write_bytes(content)
        claim = claims.claim_left(folder, STEM, regular.probe(folder))
        assert claim is not None
        claim.release()
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", [b'{"machine": "another"}', b'{"machine": 3}'])
def test_a_lock_of_another_machine(content: bytes, tmp_path: pathlib.Path) -> None:
    lock = tmp_path / f"{STEM}.lock"
    lock.write_bytes(content)
    assert claims.claim_left(tmp_path, STEM, regular.probe(tmp_path)) is None
    os.utime(lock, (1, 1))
    assert claims.claim_left(tmp_path, STEM, regular.probe(tmp_path)) is not None
