from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earful.text import protobuf

VALUES = st.integers(0, 2**64 - 1) | st.binary(max_size=300) | st.floats(width=32, allow_nan=False)


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), VALUES)))
def test_what_is_written_is_read(message):
    assert list(protobuf.fields(protobuf.encoded(message))) == message


def test_a_message_as_the_documentation_writes_it():
    assert protobuf.encoded([(1, 150)]) == bytes([0x08, 0x96, 0x01])
    assert protobuf.encoded([(2, b"testing")]) == b"\x12\x07testing"
    assert list(protobuf.fields(b"\x09" + bytes(range(8)) + b"\x0d\x00\x00\x80\x3f")) == [
        (1, bytes(range(8))),
        (1, 1.0),
    ]


@pytest.mark.parametrize(
    "data", [b"\x08", b"\x08\x80", b"\x12\x05abc", b"\x0b", b"\x0d\x00", b"\x08" + b"\xff" * 11, 5]
)
def test_what_is_no_message_is_refused(data):
    with pytest.raises(ValueError, match=r"^expected .*, got "):
        list(protobuf.fields(data))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_a_value_error(data):
    with suppress(ValueError):
        list(protobuf.fields(data))
