"""Batches of pieces, with a family that only counts."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from earful.audio.pauses import Cutter
from earful.errors import AudioError
from earful.events import Text, Word
from earful.stream.pieces import AHEAD, AT_ONCE, PieceFamily, transcribe

RATE = 1000


@dataclass
class Memo:
    cutter: Cutter
    language: int | None
    heard: int = 0


class Counting:
    """Writes how long each piece is."""

    rate_hz = RATE

    def __init__(self):
        self.batches = []

    def init_state(self, batch):
        return []

    def open(self, state, slot, language=None):
        return Memo(Cutter(RATE), language)

    def answer(self, pieces, memos):
        assert len(memos) == len(pieces)
        self.batches.append([len(piece.samples) for piece in pieces])
        return [f"{len(piece.samples)}" for piece in pieces]

    def told(self, text, piece, memo):
        return [Text(f"{text} ", memo.heard / RATE), Word(text, piece.start_s, piece.end_s)]


def blocks(lengths):
    """Speech of these lengths in ms, each with a second of silence before it, in blocks of a second."""
    rng = np.random.default_rng(0)
    parts = [part for n in lengths for part in (np.zeros(RATE), rng.standard_normal(n) * 0.3)]
    samples = np.concatenate([*parts, np.zeros(RATE)]).astype(np.float32)
    for begin in range(0, len(samples), RATE):
        yield samples[begin : begin + RATE]


def run(family, sources, batch=1):
    news = list(transcribe(family, enumerate(sources), batch))
    done = [recording for recording, _ in news if recording.done]
    return news, {recording.number: recording.transcript(None, RATE) for recording in done}


def test_it_is_a_family():
    assert isinstance(Counting(), PieceFamily)


@pytest.mark.parametrize("batch", [1, 20])
def test_pieces_come_back_in_order(batch):
    rng = np.random.default_rng(0)
    lengths = [rng.integers(200, 3000, size=count).tolist() for count in (5, 50, 1, 0, 13)]
    family = Counting()
    news, transcripts = run(family, [blocks(of) for of in lengths], batch)
    assert sorted(transcripts) == [0, 1, 2, 3, 4]
    for number, of in enumerate(lengths):
        written = [int(word) for word in transcripts[number].text.split()]
        assert len(written) == len(of)
        assert all(-100 < got - (n + 400) < 100 for got, n in zip(written, of, strict=True))
        told = [event for recording, events in news for event in events if recording.number == number]
        assert "".join(event.text for event in told if isinstance(event, Text)) == transcripts[number].text
        words = transcripts[number].words
        assert [word.start_s for word in words] == sorted(word.start_s for word in words)
        assert transcripts[number].duration_s == (sum(of) + RATE * (len(of) + 1)) / RATE
    assert sum(map(len, family.batches)) == 69


def test_batches_are_of_like_length():
    rng = np.random.default_rng(1)
    family = Counting()
    run(family, [blocks(rng.integers(200, 3000, size=AT_ONCE * AHEAD).tolist())])
    assert [len(batch) for batch in family.batches] == [AT_ONCE] * AHEAD
    longest = [max(batch) for batch in family.batches]
    assert all(min(batch) >= following for batch, following in zip(family.batches, [*longest[1:], 0], strict=True))


def test_no_segment_goes_beyond_its_piece():
    _, transcripts = run(Counting(), [blocks([700, 300, 1200])])
    segments = transcripts[0].segments
    assert [segment.text for segment in segments] == transcripts[0].text.split()
    assert all(a.end_s < b.start_s for a, b in pairwise(segments))


def test_samples_are_let_go_of_once_they_are_answered():
    news, _ = run(Counting(), [blocks([500] * 100)])
    assert all(len(piece.samples) == 0 for piece in news[-1][0].cut)


def test_a_source_that_breaks_off():
    def broken():
        yield from list(blocks([500, 900]))[:3]
        raise AudioError("expected more, got less")

    news, transcripts = run(Counting(), [broken(), blocks([800])])
    (first,) = {id(recording): recording for recording, _ in news if recording.number == 0}.values()
    assert str(first.error) == "expected more, got less"
    assert len(transcripts[0].text.split()) == 2
    assert transcripts[0].duration_s == 3.0
    assert len(transcripts[1].text.split()) == 1
