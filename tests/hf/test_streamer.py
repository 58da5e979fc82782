import threading
from queue import Empty

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from earful import TextIteratorStreamer
from earful.hf.processor import VoxtralRealtimeTokenizer
from earful.models.voxtral.processor import VoxtralProcessor
from earful.text.bpe import tiny_tekken

TOKENIZER = VoxtralRealtimeTokenizer(VoxtralProcessor(tiny_tekken(160, 400, 20, left_slots=2, delay_slots=1)))
PROMPT = torch.tensor([[1, 32, 32, 32]])


def put_all(streamer, prompt, ids):
    streamer.put(prompt)
    for token in ids:
        streamer.put(torch.tensor([token]))
    streamer.end()
    return list(streamer)


class Counting:
    """A tokenizer that remembers how much it had to decode."""

    def __init__(self):
        self.lengths = []

    def decode(self, ids, **kwargs):
        self.lengths.append(len(ids))
        return TOKENIZER.decode(ids, **kwargs)


def test_words_come_when_they_are_whole():
    ids = [33, *TOKENIZER.encode(" one"), 32, 33, *TOKENIZER.encode(" two"), 32]
    pieces = put_all(TextIteratorStreamer(TOKENIZER, skip_special_tokens=True), PROMPT, ids)
    assert len(pieces) == len(ids) + 2  # something for each call, perhaps empty
    assert [piece for piece in pieces if piece] == [" ", "one ", "two"]


def test_line_ends_and_chinese_come_at_once():
    ids = TOKENIZER.encode(" one\n") + TOKENIZER.encode("日")
    pieces = put_all(TextIteratorStreamer(TOKENIZER, skip_prompt=True), PROMPT, ids)
    assert "".join(pieces) == " one\n日"
    assert pieces[-1] == ""
    assert "日" in pieces[-2]


@given(st.lists(st.integers(0, 359), max_size=40), st.booleans(), st.booleans())
def test_pieces_are_the_text_cut_at_spaces(ids, skip_prompt, skip_special_tokens):
    streamer = TextIteratorStreamer(TOKENIZER, skip_prompt, skip_special_tokens=skip_special_tokens)
    text = "".join(put_all(streamer, PROMPT, ids))
    whole = ids if skip_prompt else PROMPT[0].tolist() + ids
    expected = TOKENIZER.decode(whole, skip_special_tokens=skip_special_tokens)
    if "\ufffd" not in expected and "\n" not in expected:
        assert text == expected


@pytest.mark.reference
@given(st.lists(st.integers(40, 359), max_size=60))
def test_pieces_are_those_of_transformers(ids):
    generation = pytest.importorskip("transformers")
    options = {"skip_prompt": True, "skip_special_tokens": True}
    theirs = put_all(generation.TextIteratorStreamer(TOKENIZER, **options), PROMPT, ids)
    assert put_all(TextIteratorStreamer(TOKENIZER, **options), PROMPT, ids) == theirs


def test_long_streams_are_not_decoded_again_and_again():
    tokenizer = Counting()
    word = [33, *TOKENIZER.encode(" one"), 32]
    text = "".join(put_all(TextIteratorStreamer(tokenizer, True, skip_special_tokens=True), PROMPT, word * 200))
    assert text == " one" * 200
    assert max(tokenizer.lengths) <= 3 * len(word)


def test_used_twice():
    streamer = TextIteratorStreamer(TOKENIZER, skip_prompt=True)
    for word in (" one", " two"):
        assert "".join(put_all(streamer, PROMPT, TOKENIZER.encode(word))) == word


def test_one_row_only():
    streamer = TextIteratorStreamer(TOKENIZER)
    with pytest.raises(ValueError, match="expected one row of ids, got 2"):
        streamer.put(torch.ones(2, 4))


def test_timeout():
    with pytest.raises(Empty):
        next(TextIteratorStreamer(TOKENIZER, timeout=0.01))


def test_across_threads():
    streamer = TextIteratorStreamer(TOKENIZER, skip_prompt=True, timeout=20)
    ids = TOKENIZER.encode(" one two three")

    def write():
        streamer.put(PROMPT)
        for token in ids:
            streamer.put(torch.tensor([token]))
        streamer.end()

    thread = threading.Thread(target=write)
    thread.start()
    assert "".join(streamer) == " one two three"
    thread.join()
