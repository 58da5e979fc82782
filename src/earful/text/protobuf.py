"""Protocol buffers, as much of them as a tokenizer.model needs.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

Value = int | float | bytes
Field = tuple[int, Value]  # its number and what it holds
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5


def fields(data: Value) -> Iterator[Field]:
    """The fields of a message, floats as such. Raises ValueError for what is none."""
    if not isinstance(data, bytes):
        raise ValueError(f"expected a message, got the number {data}")
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind, length, value = key & 7, 0, None
        if kind == VARINT:
            value, at = _varint(data, at)
        elif kind == LENGTH:
            length, at = _varint(data, at)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            length = 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError(f"expected a field at byte {at}, got one of kind {kind}")
        if at + length > len(data):
            raise ValueError(f"expected {length} bytes at byte {at}, got {len(data) - at}")
        held = data[at : at + length]
        at += length
        if kind == FOUR_BYTES:
            (value,) = struct.unpack("<f", held)
        yield key >> 3, held if value is None else value


def encoded(values: Iterable[Field]) -> bytes:
    """A message of these fields in this order."""
    parts = []
    for number, value in values:
        if isinstance(value, int):
            parts += [_as_varint(number << 3 | VARINT), _as_varint(value)]
        elif isinstance(value, float):
            parts += [_as_varint(number << 3 | FOUR_BYTES), struct.pack("<f", value)]
        else:
            parts += [_as_varint(number << 3 | LENGTH), _as_varint(len(value)), value]
    return b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number, seven bits to a byte, and where it ends."""
    number = 0
    for shift, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * shift
        if byte < 128:
            return number, at + shift + 1
    raise ValueError(f"expected a whole number at byte {at}, got no end of one")


def _as_varint(number: int) -> bytes:
    groups = [number >> shift & 127 for shift in range(0, max(1, number.bit_length()), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])
