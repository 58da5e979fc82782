"""Text that arrives in pieces equals text that arrives at once."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earful.text.incremental import Utf8Stream

# Random bytes rarely come near a long character, so whole characters and their halves are mixed in.
CHARACTERS = st.sampled_from(["a", "é", "ß", "日", "�", "🙂", "\U0010ffff", "\x00"]).map(str.encode)
HALVES = st.sampled_from(
    [b"\xc3", b"\xe6\x97", b"\xf0\x9f\x99", b"\xed\xa0\x80", b"\xf4\x90", b"\xc0\xaf", b"\xe0\x80"]
)
DATA = st.lists(CHARACTERS | HALVES | st.binary(max_size=3), max_size=20).map(b"".join)


@given(DATA, st.lists(st.integers(0, 60)))
def test_any_cuts_give_the_text_of_the_whole(data, cuts):
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    stream = Utf8Stream()
    text = "".join(stream.feed(data[start:end]) for start, end in pairwise(edges))
    assert text + stream.finish() == data.decode("utf-8", "replace")


@given(DATA)
def test_byte_by_byte_nothing_waits_but_the_last_character(data):
    stream, text = Utf8Stream(), ""
    for end, byte in enumerate(data, start=1):
        text += stream.feed(bytes([byte]))
        whole = data[:end].decode("utf-8", "replace")
        assert whole.startswith(text)  # what is out stays
        assert set(whole[len(text) :]) <= {"�"}  # and every finished character is out
        assert len(whole) - len(text) <= 3
    assert text + stream.finish() == data.decode("utf-8", "replace")


@pytest.mark.parametrize("character", ["é", "日", "🙂"])
def test_a_character_appears_with_its_last_byte(character):
    stream = Utf8Stream()
    *first, last = character.encode()
    assert [stream.feed(bytes([byte])) for byte in first] == [""] * len(first)
    assert stream.feed(bytes([last])) == character
    assert stream.finish() == ""


def test_finish_begins_anew():
    stream = Utf8Stream()
    assert stream.feed(b"\xe6\x97") == ""
    assert stream.finish() == "�"
    assert stream.feed(b"\xa5a") == "�a"  # no memory of the unfinished character
    assert stream.finish() == ""
