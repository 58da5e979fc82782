"""The text stream of Kyutai Speech-To-Text: its grammar, and that the model's own events give the words back."""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

import earful
from earful.events import Text, Word
from earful.models.kyutai_stt.stream import KyutaiSttStream, Memo
from earful.testing import TINY_WORDS, tiny_sentencepiece, write_tiny
from earful.train.targets import interleaved

FRAME_S, PAD, WORD = 0.08, 3, 0
TOKENIZER = tiny_sentencepiece()


def text(words: list[tuple[float, list[int]]], frames: int, delay_s: float = 0.0) -> list[int]:
    return interleaved(words, frames, delay_s, FRAME_S, PAD, WORD).tolist()


def test_the_grammar() -> None:
    assert text([], 4) == [3, 3, 3, 3]
    assert text([(0.25, [70, 71]), (0.72, [72])], 12) == [3, 3, 0, 70, 71, 3, 3, 3, 0, 72, 3, 3]
    assert text([(0.25, [70]), (0.4, [71])], 8) == [3, 3, 0, 70, 0, 71, 3, 3]  # one frame between is the word mark
    assert text([(0.0, [70])], 3) == [70, 3, 3]  # no frame before it
    assert text([(0.0, [70])], 9, delay_s=0.5) == [3, 3, 3, 3, 3, 0, 70, 3, 3]


def test_an_early_word_waits_and_nothing_is_lost() -> None:
    assert text([(0.08, [70, 71, 72]), (0.16, [73]), (0.64, [74])], 10) == [0, 70, 71, 72, 73, 3, 3, 0, 74, 3]


def test_frames_hold_times_of_binary_fractions() -> None:
    """0.24 / 0.08 is a little below 3 in one order of rounding and a little above in another."""
    for frame in range(200):
        assert text([(frame * 0.08, [70])], 201)[frame] == 70
        assert text([(frame * 0.04, [70])], 201, delay_s=frame * 0.04)[frame] == 70


def test_what_lies_behind_the_end_is_cut() -> None:
    assert text([(0.16, [70, 71, 72]), (5.0, [73])], 4) == [3, 0, 70, 71]
    assert text([(0.32, [70])], 4) == [3, 3, 3, 0]  # as the longer stream would begin
    assert text([(0.40, [70])], 4) == [3, 3, 3, 3]
    with pytest.raises(ValueError, match="expected a word's start at 0 s or later, got -0.1 s"):
        text([(-0.1, [70])], 4)


spoken = st.lists(
    st.tuples(st.floats(0, 20), st.lists(st.integers(100, 200), min_size=1, max_size=6)), max_size=12
).map(lambda words: sorted(words, key=lambda word: word[0]))


@given(spoken, st.floats(0, 3))
def test_every_piece_is_written_once_in_order_and_as_early_as_it_may(words, delay_s):
    frames = 600
    stream = text(words, frames, delay_s)
    assert len(stream) == frames
    assert [t for t in stream if t >= 100] == [piece for _, pieces in words for piece in pieces]
    free = 0
    for start_s, pieces in words:
        first = next(i for i in range(free, frames) if stream[i] >= 100)
        due = math.floor((start_s + delay_s) / FRAME_S + 1e-6)
        assert first == max(free, due)
        assert stream[first : first + len(pieces)] == pieces
        if first > free:
            assert stream[first - 1] == WORD
        free = first + len(pieces)
    marks = [i for i, t in enumerate(stream) if t == WORD]
    assert all(stream[i + 1] >= 100 and (i == 0 or stream[i - 1] != WORD) for i in marks)


@given(spoken, st.integers(1, 300))
def test_a_shorter_stream_is_the_beginning_of_a_longer_one(words, frames):
    assert text(words, frames) == text(words, 600)[:frames]


@cache
def live(delay_s: float, prefix_s: float) -> KyutaiSttStream:
    with TemporaryDirectory() as folder:
        changes = {"delay_s": delay_s, "prefix_s": prefix_s}
        model = earful.load(write_tiny("kyutai_stt", "kyutai", path=Path(folder), model=changes))
        return model._live  # type: ignore[return-value]


@given(
    st.lists(st.tuples(st.sampled_from(TINY_WORDS), st.floats(0.09, 2.0)), min_size=1, max_size=12),
    st.sampled_from([(0.0, 0.0), (0.5, 0.0), (2.5, 1.0), (1.2, 0.4)]),
)
def test_the_streams_own_events_give_words_and_times_back(said, timing):
    """Training's text, read as if the model had written it: the same words, each within a frame of its start."""
    stream = live(*timing)
    delay_s, prefix_s = timing
    words, at_s = [], 0.0
    for word, gap_s in said:
        words.append((word, at_s))
        at_s += max(gap_s, (len(TOKENIZER.encode(word)) + 1) * FRAME_S)  # so slowly that none is pushed back
    frames = math.ceil((prefix_s + at_s + delay_s) / FRAME_S) + 2
    pieces = [(prefix_s + start_s, TOKENIZER.encode(word)) for word, start_s in words]
    ids = interleaved(pieces, frames, delay_s, stream.config.codec.frame_s, PAD, WORD)
    memo = Memo(stream.lead, 0, limit_s=at_s + 1)
    events = stream.events([[float(token)] for token in ids], memo) + stream.finish(memo)
    assert "".join(event.text for event in events if isinstance(event, Text)) == " ".join(word for word, _ in words)
    found = [event for event in events if isinstance(event, Word)]
    assert [event.text for event in found] == [word for word, _ in words]
    for event, (_, start_s) in zip(found, words, strict=True):
        assert start_s - FRAME_S - 1e-6 <= event.start_s <= start_s + 1e-6
    for event, following in itertools.pairwise(found):
        assert event.start_s < event.end_s <= following.start_s + 1e-9
