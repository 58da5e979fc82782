"""Packed examples: what is heard, what is to be written, and that both agree in time."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from earful.models.voxtral.config import AudioConfig, DecoderConfig, EncoderConfig, SpecialIds, VoxtralConfig
from earful.train import packing
from earful.train.data import Utterance
from earful.train.packing import Packer
from earful.train.targets import IGNORED, SOUND_IDS

RATE_HZ = 16_000
IDS = SpecialIds(bos=1, eos=2, blank=3, word=4, filler=0)
CONFIG = VoxtralConfig(
    encoder=EncoderConfig(80, 8, 1, 1, 1, 8, 8, 8, 1e4, 1e-5),
    decoder=DecoderConfig(300, 8, 1, 1, 1, 8, 8, 8, 1e4, 1e-5, 4),
    audio=AudioConfig(RATE_HZ, 320, 512, 80, 1.5, left_slots=2, delay_slots=6),
    ids=IDS,
    mels_per_slot=4,
    downsample=2,
)
SLOTS = 2 + 100
DELAYS = {3: 1.0, 6: 2.0, 12: 1.0}


@dataclass
class Tones:
    """Utterances that sound exactly while their words last."""

    rate_hz: int = RATE_HZ
    utterances: list[Utterance] = field(default_factory=list)

    def add(self, source: str, *words: tuple[str, float, float], duration_s: float = 2.0) -> None:
        sound, text = words[0], " ".join(word for word, _, _ in words)
        frames = (round(sound[1] / 0.025), round((sound[2] - sound[1]) / 0.025), 0)
        with_phonemes = {"phonemes": "t", "frames": frames} if len(words) == 1 else {}
        self.utterances.append(Utterance(Path("a"), 0.0, duration_s, text, words, source=source, **with_phonemes))

    def __len__(self) -> int:
        return len(self.utterances)

    def samples(self, number: int) -> np.ndarray:
        u = self.utterances[number]
        time_s = np.arange(u.count(RATE_HZ)) / RATE_HZ
        inside = np.any([(time_s >= a) & (time_s < b) for _, a, b in u.words], axis=0)
        return (0.5 * np.sin(2000 * time_s) * inside).astype(np.float32)


def encode(text: str) -> list[int]:
    return [100 + ord(c) for c in text]


@pytest.fixture
def corpus() -> Tones:
    tones = Tones()
    tones.add("one", ("a", 0.5, 1.0))
    tones.add("one", ("bc", 0.25, 1.5))
    tones.add("two", ("d", 0.3, 0.6), ("efg", 0.7, 1.1), ("h", 1.2, 1.3))
    return tones


@pytest.fixture
def clean(monkeypatch):
    monkeypatch.setattr(packing, "degrade", lambda rng, samples, rate_hz, babble, clean: samples)


def pack(corpus: Tones, **options: object) -> Packer:
    return Packer(corpus, CONFIG, encode, SLOTS, DELAYS, **options)  # type: ignore[arg-type]


def text(tokens: np.ndarray) -> str:
    return "".join(chr(t - 100) for t in tokens if t >= 100)


def test_shapes_and_kinds(corpus):
    example = pack(corpus).example(1, 0)
    assert example.samples.shape == (100 * 1280,)
    assert example.samples.dtype == np.float32
    assert example.tokens.shape == example.labels.shape == (SLOTS,)
    assert example.phonemes.shape == (SLOTS * 2,)
    assert example.tokens.dtype == example.labels.dtype == example.phonemes.dtype == np.int64


def test_an_example_depends_on_its_seed_and_index_alone(corpus):
    packer = pack(corpus)
    packer.example(1, 4)
    for one, other in [(packer.example(1, 5), pack(corpus).example(1, 5))]:
        for name in ("samples", "tokens", "labels", "phonemes"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert not np.array_equal(packer.example(1, 5).samples, packer.example(1, 6).samples)
    assert not np.array_equal(packer.example(1, 5).samples, packer.example(2, 5).samples)


def test_prompts_delays_and_labels(corpus):
    packer, seen = pack(corpus), set()
    for index in range(40):
        example = packer.example(3, index)
        prompt = 1 + 2 + example.delay_slots
        assert example.tokens[:prompt].tolist() == [1] + [3] * (prompt - 1)
        assert (example.labels[: prompt - 1] == IGNORED).all()
        np.testing.assert_array_equal(example.labels[prompt - 1 : -1], example.tokens[prompt:])
        seen.add(example.delay_slots)
    assert seen == set(DELAYS)


@pytest.mark.parametrize("cut", [0.0, 1.0])
def test_what_is_written_is_what_is_heard_a_delay_earlier(corpus, clean, cut):
    """The k-th word mark comes with the k-th burst of sound, after its end and the delay."""
    corpus.utterances = corpus.utterances[2:] if cut else corpus.utterances[:2]  # one word, one burst
    packer = Packer(corpus, CONFIG, lambda word: [100 + len(word)], SLOTS, DELAYS, cut=cut)  # type: ignore[arg-type]
    compared, torn = 0, False  # words of one piece are never late because of others
    for index in range(40):
        example = packer.example(1, index)
        loud = np.abs(example.samples).reshape(-1, 80).max(axis=1) > 0.02
        ends_s = (np.flatnonzero(loud[:-1] & ~loud[1:]) + 1) * 0.005
        marks = np.flatnonzero(example.tokens == IDS.word)
        assert len(marks) == len(ends_s)
        torn = torn or len(marks) % len(corpus.utterances[-1].words) > 0
        for mark, end_s in zip(marks, ends_s, strict=True):
            late_s = (mark - 2 - example.delay_slots) * 0.08 - end_s
            assert -0.01 <= late_s <= 0.08 + 0.01
            compared += 1
    assert compared > 60
    assert torn == (cut > 0)


def test_phonemes_hold_where_the_sound_is(corpus, clean):
    corpus.utterances = corpus.utterances[:2]
    packer = pack(corpus, latency=2)
    for index in range(20):
        example = packer.example(1, index)
        level = np.abs(example.samples).reshape(-1, 640)[:, 300:340].max(axis=1)  # in the middle of each frame
        sounding = np.flatnonzero(level > 0.02)
        labelled = np.flatnonzero(example.phonemes == SOUND_IDS["t"]) - 2 * 2 - 2  # left slots, latency
        assert len(np.setxor1d(sounding, labelled)) <= 2 * np.count_nonzero(example.tokens == IDS.word)
        assert set(example.phonemes) <= {0, SOUND_IDS["t"]}


def test_utterances_that_are_heard_are_written_to_the_end(corpus):
    """An example may hold back an utterance that does not fit, but never a part of one."""
    corpus.utterances = corpus.utterances[2:]
    packer = pack(corpus)
    for index in range(60):
        written = packer.example(9, index).labels
        assert text(written).split() == ["d", "efg", "h"] * (text(written).count("d"))


def test_slow_writing_drops_whole_utterances(corpus):
    """Words of forty pieces cannot all be written before the end."""
    packer = Packer(corpus, CONFIG, lambda word: [100 + ord(word[1])] * 40, SLOTS, {6: 1.0})  # type: ignore[arg-type]
    counts = [np.count_nonzero(packer.example(1, i).labels >= 100) for i in range(30)]
    assert max(counts) <= 100
    assert all(count % 40 == 0 for count in counts)
    assert max(counts) >= 40


def test_some_examples_have_no_speech_and_some_a_single_utterance(corpus):
    corpus.utterances = corpus.utterances[:1]
    packer = pack(corpus)
    counts = [np.count_nonzero(packer.example(1, i).tokens == IDS.word) for i in range(150)]
    assert 0 < counts.count(0) < 25
    assert 3 < counts.count(1) < 40
    assert max(counts) >= 4


def test_shares_decide_where_utterances_come_from(corpus):
    only_two = pack(corpus, shares={"one": 0.0, "two": 1.0})
    heard = "".join(text(only_two.example(1, i).tokens) for i in range(10))
    assert set(heard.split()) == {"d", "efg", "h"}
    with pytest.raises(ValueError, match=r"expected shares of \['one', 'two'\], got shares of \['one'\]"):
        pack(corpus, shares={"one": 1.0})


def test_impossible_settings_are_refused(corpus):
    with pytest.raises(ValueError, match="expected more slots than the prompt of 14, got 14"):
        Packer(corpus, CONFIG, encode, 14, DELAYS)  # type: ignore[arg-type]
    corpus.rate_hz = 24_000
    with pytest.raises(ValueError, match="expected a corpus at 16000 Hz, got one at 24000 Hz"):
        pack(corpus)


def test_a_packer_can_be_sent_to_another_process(corpus):
    packer = pack(corpus)
    there = pickle.loads(pickle.dumps(packer))
    np.testing.assert_array_equal(there.example(1, 2).samples, packer.example(1, 2).samples)
