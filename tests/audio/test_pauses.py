from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earful.audio.pauses import FRAME_S, Cutter, Pauses
from earful.errors import AudioError

RATE = 16_000


def speech(seconds: float, seed: int = 0, loud: float = 0.1) -> np.ndarray:
    """Noise in syllables of 150 ms, each followed by 50 ms that are 20 dB softer."""
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(round(seconds * RATE)) * loud
    soft = np.arange(len(samples)) % (RATE // 5) > 3 * RATE // 20
    return np.where(soft, samples / 10, samples).astype(np.float32)


def silence(seconds: float, loud: float = 0.0, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * RATE)) * loud).astype(np.float32)


def pieces(*parts: np.ndarray, pauses: Pauses | None = None):
    cutter = Cutter(RATE, pauses)
    found = [piece for part in parts for piece in cutter.feed(part)]
    return found + cutter.finish()


@pytest.mark.parametrize("background", [0.0, 1e-4, 1e-3])
def test_pauses_are_found_where_they_are(background):
    parts, truth, at = [], [], 0.0
    for seed, (pause_s, speech_s) in enumerate([(1.0, 2.0), (0.7, 0.6), (2.5, 5.4), (0.6, 1.0)]):
        parts += [silence(pause_s), speech(speech_s, seed)]
        truth.append((at + pause_s, at + pause_s + speech_s))
        at += pause_s + speech_s
    samples = np.concatenate([*parts, silence(1.0)])
    found = pieces(samples + silence(len(samples) / RATE, background))
    assert len(found) == len(truth)
    for piece, (start_s, end_s) in zip(found, truth, strict=True):
        assert abs(piece.start_s - start_s) < 0.04
        assert abs(piece.end_s - end_s) < 0.1


def test_short_gaps_do_not_cut_and_long_ones_do():
    assert len(pieces(speech(1), silence(0.4), speech(1))) == 1
    assert len(pieces(speech(1), silence(0.6), speech(1))) == 2
    assert len(pieces(speech(1), silence(0.6), speech(1), pauses=Pauses(pause_s=1.0))) == 1


def test_a_piece_knows_when_it_is_spoken():
    (piece,) = pieces(silence(0.3), speech(1), silence(0.4), speech(0.7), silence(0.8))
    assert len(piece.spoken) == round((piece.end_s - piece.start_s) / FRAME_S)
    moments = piece.start_s + FRAME_S * np.arange(len(piece.spoken))
    gap = moments[~piece.spoken]
    assert 1.3 <= gap.min() < 1.35
    assert 1.65 < gap.max() < 1.7
    assert len(gap) >= 35


def test_a_piece_holds_its_speech_with_a_margin():
    said = speech(1.0)
    (piece,) = pieces(silence(1.0), said, silence(1.0))
    assert abs(len(piece.samples) / RATE - 1.4) < 0.1
    at = np.flatnonzero(piece.samples)[0]
    np.testing.assert_array_equal(piece.samples[at : at + len(said)], said)


def test_speech_at_the_very_edges_is_kept():
    said = speech(0.955, seed=3)
    (piece,) = pieces(said)
    np.testing.assert_array_equal(piece.samples, said)
    assert piece.start_s == 0


@given(st.lists(st.integers(0, 30_000), min_size=1, max_size=12), st.integers(0, 3))
@settings(max_examples=20)
def test_any_chunking_gives_the_same_pieces(lengths, seed):
    rng = np.random.default_rng(seed)
    parts = [part for _ in range(6) for part in (speech(rng.uniform(0.1, 2), seed), silence(rng.uniform(0.1, 1), 1e-4))]
    samples = np.concatenate(parts)
    chunks = np.split(samples, np.clip(np.cumsum(lengths), 0, len(samples)))
    limits = Pauses(longest_s=3.0)
    whole, cut = pieces(samples, pauses=limits), pieces(*chunks, pauses=limits)
    assert len(whole) == len(cut) >= 2
    for one, other in zip(whole, cut, strict=True):
        assert (one.start_s, one.end_s) == (other.start_s, other.end_s)
        assert one.spoken.any()
        np.testing.assert_array_equal(one.spoken, other.spoken)
        np.testing.assert_array_equal(one.samples, other.samples)


def test_a_long_piece_is_cut_where_it_is_softest():
    said = np.concatenate([speech(7.0), silence(0.3), speech(6.0)])
    found = pieces(said, pauses=Pauses(longest_s=10.0))
    assert len(found) == 2
    assert abs(found[0].end_s - 7.0) < 0.25
    assert sum(len(piece.samples) for piece in found) == len(said)
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in found]), said)


def test_no_piece_is_longer_than_asked():
    found = pieces(silence(1), speech(61.0, loud=0.3), pauses=Pauses(longest_s=5.0))
    assert all(len(piece.samples) <= 5.0 * RATE for piece in found)
    assert all(a.end_s <= b.start_s for a, b in pairwise(found))
    assert sum(len(piece.samples) for piece in found) >= 61 * RATE


@pytest.mark.parametrize("samples", [silence(3.0), silence(3.0, 1e-4), silence(0.0), silence(0.004), speech(0.03)])
def test_no_speech_gives_nothing(samples):
    assert pieces(samples) == []


def test_clicks_are_no_speech():
    samples = silence(3.0, 1e-4)
    samples[[8_000, 20_000, 33_000]] = 0.9
    assert pieces(samples) == []


def test_what_is_held_is_bounded():
    cutter = Cutter(RATE, Pauses(longest_s=5.0))
    for _ in range(100):
        cutter.feed(silence(1.0, 1e-4))
        assert len(cutter._held) < RATE
    for second in range(60):
        cutter.feed(speech(1.0, second))
        assert len(cutter._held) <= 6 * RATE


def test_what_cannot_be_is_refused():
    for options in ({"pause_s": 0.1}, {"longest_s": 0.9}, {"least_s": 0.0}, {"margin_s": -1.0}):
        with pytest.raises(ValueError, match="expected"):
            Pauses(**options)
    with pytest.raises(AudioError, match="expected finite samples"):
        Cutter(RATE).feed(np.array([np.nan], np.float32))
