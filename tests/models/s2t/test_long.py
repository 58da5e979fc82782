"""Ten minutes of clips and pauses: cut, answered in batches of like length, joined again at the right times."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

import earful
from earful.audio.io import read_audio
from earful.audio.pauses import Pauses
from earful.events import Text
from earful.generate.beam import Decoding
from earful.models.s2t.stream import S2tStream
from earful.stream import pieces
from earful.testing import write_tiny

RATE = 16_000
CLIPS = sorted((Path(__file__).parents[2] / "data" / "librivox").glob("*.flac"))
MINUTES = 10
HOW = {"decoding": Decoding(1, 8)}


def spoken(samples):
    """Where a recording of a sentence really begins and ends: at a twentieth of its loudest 20 ms."""
    level = np.sqrt(np.square(samples[: len(samples) // 320 * 320]).reshape(-1, 320).mean(1))
    loud = np.flatnonzero(level > level.max() / 20)
    return samples[loud[0] * 320 : (loud[-1] + 1) * 320]


def tones(rng):
    """A melody of 0.5 to 4 seconds."""
    notes = [
        np.sin(2 * np.pi * rng.uniform(150, 900) * np.arange(RATE // 8) / RATE) for _ in range(rng.integers(4, 32))
    ]
    return (0.2 * np.concatenate(notes)).astype(np.float32)


@cache
def recording():
    """The samples, and where each clip begins and ends: people's sentences and melodies over a soft noise."""
    rng = np.random.default_rng(0)
    sentences = [spoken(read_audio(path, RATE)) for path in CLIPS]
    parts, truth, at = [], [], 0
    while at < MINUTES * 60 * RATE:
        clip = tones(rng) if rng.random() < 0.3 else sentences[rng.integers(len(sentences))] * rng.uniform(0.4, 1.5)
        pause = round(rng.uniform(0.7, 4.0) * RATE)
        truth.append(((at + pause) / RATE, (at + pause + len(clip)) / RATE))
        parts += [np.zeros(pause, np.float32), clip]
        at += pause + len(clip)
    samples = np.concatenate(parts)
    return samples + (rng.standard_normal(len(samples)) * 3e-4).astype(np.float32), truth


@cache
def model():
    with TemporaryDirectory() as folder:
        return earful.load(str(write_tiny("s2t", path=Path(folder), seed=2)))


@pytest.fixture
def batches(monkeypatch):
    """The lengths of the pieces in each batch."""
    seen = []
    answer = S2tStream.answer

    def watched(self, cut, memos):
        seen.append([len(piece.samples) for piece in cut])
        return answer(self, cut, memos)

    monkeypatch.setattr(S2tStream, "answer", watched)
    return seen


def test_ten_minutes(batches):
    samples, truth = recording()
    transcript = model().transcribe(samples, **HOW)
    assert transcript.duration_s == len(samples) / RATE > 600
    starts = np.array([segment.start_s for segment in transcript.segments])
    ends = np.array([segment.end_s for segment in transcript.segments])
    assert len(truth) > 80
    off = [max(np.abs(starts - start_s).min(), np.abs(ends - end_s).min()) for start_s, end_s in truth]
    assert max(off) < 0.3  # what is asked for
    assert np.median(off) < 0.05
    spans = [(s.start_s, s.end_s) for s in transcript.segments]
    assert spans == sorted(spans)
    assert all(any(a - 0.3 < start and end < b + 0.3 for a, b in truth) for start, end in spans)  # nothing in pauses
    assert max(map(len, batches)) == pieces.AT_ONCE
    filled = sum(map(sum, batches)) / sum(max(lengths) * len(lengths) for lengths in batches)
    assert filled > 0.75  # of what the batches have room for: pieces of like length are together


def test_a_session_hears_the_same_ten_minutes():
    samples, _ = recording()
    with model().stream(**HOW) as session:
        events = [e for at in range(0, len(samples), 50_000) for e in session.feed(samples[at : at + 50_000])]
        events += session.finish()
    said = "".join(event.text for event in events if isinstance(event, Text))
    assert said == model().transcribe(samples, **HOW).text


def test_memory_does_not_grow(batches):
    """Of half an hour no more is held than of ten minutes."""
    samples, _ = recording()
    family = model()._offline
    blocks = (samples[at : at + RATE] for _ in range(3) for at in range(0, len(samples), RATE))
    most, held_at = 0, []
    for heard, _ in pieces.transcribe(family, [(0, blocks)], 1, delay_s=None, pauses=Pauses(), **HOW):
        held = sum(piece.samples.nbytes for piece in heard.cut) + heard.memo.cutter._held.nbytes
        held_at.append(heard.samples)
        most = max(most, held)
    assert held_at[-1] == 3 * len(samples)
    bound = (pieces.AT_ONCE * pieces.AHEAD + 2) * max(map(max, batches)) * 4
    assert most < bound < samples.nbytes
