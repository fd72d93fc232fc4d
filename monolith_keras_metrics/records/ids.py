"""Integers that stand for text ids in the records.

A `uid` or an `example_id` may be text: a UUID, a cookie, a name. Records hold `hashed_ids` of it:
XXH64 with seed 0 of its UTF-8 bytes, as a signed 64-bit integer. This hash is published
(https://github.com/Cyan4973/xxHash, `doc/xxhash_spec.md`) and the same on every machine and in
every language, so you can join other tables with the records:

| text | `hashed_ids` |
| --- | ---: |
| `""` | -1205034819632174695 |
| `"a"` | -3292477735350538661 |
| `"user-1234567"` | -3126600472473850790 |
| `"123e4567-e89b-12d3-a456-426614174000"` | -8372326485770592481 |

Two of n different texts have the same hash with a probability of about n² / 2⁶⁵: one in 37 for a
billion texts. The hash does not protect the ids: anyone can hash a list of texts (`uid_hash_key`
prevents this).

This module needs only NumPy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_U64 = np.uint64
_P1, _P2, _P3, _P4, _P5 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
_PRIME_1, _PRIME_2, _PRIME_3, _PRIME_4, _PRIME_5 = map(_U64, (_P1, _P2, _P3, _P4, _P5))
_LANES = tuple(_U64(lane % 2**64) for lane in (_P1 + _P2, _P2, 0, -_P1))
_STRIPE = 32  # bytes
# Texts hashed at once: enough to amortise NumPy's calls, few enough to fit into the cache.
_CHUNK = 16_384

_Words = npt.NDArray[np.uint64]


def hashed_ids(values: Any) -> npt.NDArray[np.int64]:
    """Return the 64-bit hash of each text: XXH64 with seed 0, as a signed integer.

    Args:
        values: Texts: `str` (as UTF-8) or `bytes` (as they are), in a list, a NumPy array or
            whatever `numpy.asarray` takes, of any shape.

    Returns:
        int64, of the same shape.

    Raises:
        TypeError: If a value is not text.
        ValueError: If a `str` has a lone surrogate, which UTF-8 cannot encode.

    Example:
    >>> hashed_ids(["", "user-1234567"]).tolist()
    [-1205034819632174695, -3126600472473850790]
    """
    # From a list, NumPy would make an array of one width, which drops trailing null characters.
    array = values if isinstance(values, np.ndarray) else np.asarray(values, object)
    if array.size and array.dtype.kind not in "OSUT":
        raise TypeError(
            f"`values` must be text, as str or bytes. Received: {array.dtype}. Integers need no "
            "hash"
        )
    texts = array.reshape(-1).tolist()
    try:
        joined = b"".join(texts)
    except TypeError:  # some are str, or not text
        texts = [_encoded(text) for text in texts]
        joined = b"".join(texts)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return _hashed(joined, lengths).view(np.int64).reshape(array.shape)


def _encoded(text: Any) -> bytes:
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, bytes):
        return text
    raise TypeError(f"`values` must be text, as str or bytes. Received: {type(text).__name__}")


def _hashed(joined: bytes, lengths: npt.NDArray[np.int64]) -> _Words:
    """Return the hash of each of the concatenated texts."""
    hashes = np.empty(len(lengths), _U64)
    if not len(lengths):
        return hashes
    data = np.frombuffer(joined + bytes(8), np.uint8)  # a word may reach past the end
    if lengths.min() == lengths.max():
        length = int(lengths[0])
        for at in range(0, len(lengths), _CHUNK):
            some = hashes[at : at + _CHUNK]
            words = functools.partial(_words_in_a_row, data, at * length, length, len(some))
            some[:] = _hashed_alike(words, len(some), length)
        return hashes
    starts = np.cumsum(lengths) - lengths
    # Small integers sort in a tenth of the time of large ones.
    order = np.argsort(lengths.astype(np.min_scalar_type(lengths.max())), kind="stable")
    ordered = lengths[order]
    for rows in np.split(order, np.flatnonzero(np.diff(ordered)) + 1):
        length = int(lengths[rows[0]])
        for at in range(0, len(rows), _CHUNK):
            chunk = rows[at : at + _CHUNK]
            words = functools.partial(_words_from, data, starts[chunk])
            hashes[chunk] = _hashed_alike(words, len(chunk), length)
    return hashes


def _words_in_a_row(
    data: npt.NDArray[np.uint8], start: int, length: int, rows: int, at: int
) -> _Words:
    """Return the eight bytes at offset `at` of consecutive texts of one length."""
    words: _Words = np.ndarray((rows,), "<u8", data, start + at, strides=(length,))
    return words


def _words_from(data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], at: int) -> _Words:
    """Return the eight bytes at offset `at` of texts that begin at `starts`."""
    everywhere: _Words = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
    return everywhere[starts + at]


def _hashed_alike(word: Callable[[int], _Words], rows: int, length: int) -> _Words:
    """Return the hashes of texts of one length.

    Args:
        word: Returns the eight bytes of each text at an offset, as numbers. It may read past the
            text's end, so the excess must be masked.
        rows: The number of texts.
        length: The length of each text, in bytes.
    """
    at = 0
    spare = np.empty(rows, _U64)
    if length >= _STRIPE:
        lanes = [np.full(rows, lane) for lane in _LANES]
        while at <= length - _STRIPE:
            for lane in lanes:
                _round(lane, word(at), spare)
                at += 8
        hashes = np.zeros(rows, _U64)
        for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True):
            hashes += (lane << _U64(bits)) | (lane >> _U64(64 - bits))
        for lane in lanes:
            np.multiply(lane, _PRIME_2, out=lane)
            _rotate(lane, 31, spare)
            hashes ^= np.multiply(lane, _PRIME_1, out=lane)
            hashes *= _PRIME_1
            hashes += _PRIME_4
    else:
        hashes = np.full(rows, _PRIME_5)
    hashes += _U64(length)
    while at <= length - 8:
        lane = np.zeros(rows, _U64)
        _round(lane, word(at), spare)
        hashes ^= lane
        _rotate(hashes, 27, spare)
        hashes *= _PRIME_1
        hashes += _PRIME_4
        at += 8
    for size, factor, bits, prime, constant in (
        (4, _PRIME_1, 23, _PRIME_2, _PRIME_3),
        (1, _PRIME_5, 11, _PRIME_1, _U64(0)),
    ):
        while at <= length - size:
            part = word(at) & _U64((1 << 8 * size) - 1)
            part *= factor
            hashes ^= part
            _rotate(hashes, bits, spare)
            hashes *= prime
            hashes += constant
            at += size
    for shift, prime in ((33, _PRIME_2), (29, _PRIME_3)):
        np.right_shift(hashes, _U64(shift), out=spare)
        hashes ^= spare
        hashes *= prime
    np.right_shift(hashes, _U64(32), out=spare)
    hashes ^= spare
    return hashes


def _round(lane: _Words, word: _Words, spare: _Words) -> None:
    """Add a word to a lane of the hash, in place."""
    np.multiply(word, _PRIME_2, out=spare)
    lane += spare
    _rotate(lane, 31, spare)
    lane *= _PRIME_1


def _rotate(values: _Words, bits: int, spare: _Words) -> None:
    """Rotate values to the left, in place."""
    np.right_shift(values, _U64(64 - bits), out=spare)
    np.left_shift(values, _U64(bits), out=values)
    values |= spare
