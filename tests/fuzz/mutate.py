# SPDX-License-Identifier: GPL-2.0-or-later
"""Damage to a file: in its fields first of all, with the values that programs stumble over."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from tests.fuzz.seeds import Seed

_WIDTHS = (1, 2, 4, 4, 8, 8)
_EDGES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0xFFF, 0x1000, 0xFFFF, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
_WIDE_EDGES = (1 << 32, 1 << 40, 1 << 46, 1 << 52, 1 << 56, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 4096)
_NUMBERS = (b"0", b"-1", b"1", b"4096", b"2147483647", b"-2147483648", b"9223372036854775807", b"ffffffffffffffff", b"")


def _value(rng: random.Random, old: int, nbytes: int, file_nbytes: int) -> int:
    near = (
        old + rng.choice((-4096, -16, -8, -4, -1, 1, 4, 8, 16, 4096)),
        old * 2,
        old // 2,
        ~old,
        old ^ 1 << rng.randrange(64),
    )
    size = (file_nbytes, file_nbytes - 1, file_nbytes + 1, file_nbytes // 2)
    edges = (*_EDGES, *(_WIDE_EDGES if nbytes == 8 else ()))
    return rng.choice((rng.choice(edges), rng.choice(near), rng.choice(size), rng.getrandbits(64)))


def _set_field(data: bytearray, seed: Seed, rng: random.Random) -> None:
    start, stop = rng.choice(seed.fields)
    width = rng.choice(_WIDTHS)
    at = rng.randrange(start, max(stop - width, start + 1)) // width * width
    order = rng.choice(("little", "little", "big"))
    old = int.from_bytes(data[at : at + width], order)
    value = _value(rng, old, width, len(data)) & (1 << 8 * width) - 1
    data[at : at + width] = value.to_bytes(width, order)


def _set_anywhere(data: bytearray, seed: Seed, rng: random.Random) -> None:
    width = rng.choice(_WIDTHS)
    at = rng.randrange(max(len(data) - width, 1)) // width * width
    value = _value(rng, int.from_bytes(data[at : at + width], "little"), width, len(data))
    data[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")


def _cut(data: bytearray, seed: Seed, rng: random.Random) -> None:
    start, stop = rng.choice((*seed.fields, (0, len(data)), (0, len(data))))
    del data[rng.randrange(start, stop) :]


def _move(data: bytearray, seed: Seed, rng: random.Random) -> None:
    """Copy a piece over another one, or put it in between."""
    n = rng.choice((4, 16, 56, 64, 512, 4096))
    source = rng.choice((rng.choice(seed.fields)[0], rng.randrange(max(len(data), 1))))
    target = rng.choice((rng.choice(seed.fields)[0], rng.randrange(max(len(data), 1))))
    piece = data[source : source + n]
    data[target : target + (n if rng.random() < 0.7 else 0)] = piece


def _remove(data: bytearray, seed: Seed, rng: random.Random) -> None:
    start, stop = rng.choice(seed.fields)
    at = rng.randrange(start, stop)
    del data[at : at + rng.choice((1, 4, 8, 12, 56, 4096))]


def _fill(data: bytearray, seed: Seed, rng: random.Random) -> None:
    start, stop = rng.choice((*seed.fields, (0, len(data))))
    at, n = rng.randrange(start, stop), rng.choice((4, 8, 64, 4096))
    data[at : at + n] = bytes((rng.choice((0, 0xFF, 0x41)),)) * len(data[at : at + n])


def _edit_text(data: bytearray, seed: Seed, rng: random.Random) -> None:
    """Change a line of KEY=value in a field, in as many bytes."""
    start, stop = seed.fields[0]
    lines = bytes(data[start:stop]).split(b"\n")
    if len(lines) < 2:
        _set_field(data, seed, rng)
        return
    number = rng.randrange(len(lines))
    key, _, value = lines[number].partition(b"=")
    how = rng.randrange(5)
    if how == 0:
        value = rng.choice(_NUMBERS)
    elif how == 1:
        value = lines[rng.randrange(len(lines))].partition(b"=")[2]
    elif how == 2:
        key = lines[rng.randrange(len(lines))].partition(b"=")[0]
    elif how == 3:
        value = bytes(rng.getrandbits(8) for _ in range(len(value)))
    else:
        digits = value.lstrip(b"-")
        value = str(int(digits) + rng.choice((-8, -4, -1, 1, 4, 8))).encode() if digits.isdigit() else value[::-1]
    lines[number] = key + b"=" + value
    data[start:stop] = b"\n".join(lines).ljust(stop - start, b"\n")[: stop - start]


_WAYS = (_set_field, _set_field, _set_field, _set_field, _set_anywhere, _cut, _move, _remove, _fill)


def mutated(seed: Seed, rng: random.Random) -> bytes:
    """A damaged copy of a seed."""
    data = bytearray(seed.data)
    is_text = seed.name.startswith(("info", "log", "records", "config"))
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        way = _edit_text if is_text and rng.random() < 0.7 else rng.choice(_WAYS)
        if len(data) < 64:
            break
        try:
            way(data, seed, rng)
        except ValueError:
            # The file has become too short for the place.
            _set_anywhere(data, seed, rng)
    return bytes(data)
