"""What is to be written when, and which sound each frame holds."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earful.models.voxtral.config import SpecialIds
from earful.train.data import Utterance
from earful.train.targets import (
    IGNORED,
    LABELS,
    SILENCE,
    SOUND_IDS,
    phoneme_labels,
    phoneme_spans,
    targets,
    word_index,
    written,
)

IDS = SpecialIds(bos=1, eos=2, blank=32, word=33, filler=11)
P, W = 32, 33
SLOT_S = 0.08


@pytest.mark.parametrize(
    "end_s, left, delay, index",
    [
        (0.0, 32, 6, 39),  # never inside the prompt, whose length is 1 + left + delay
        (0.01, 32, 6, 39),
        (0.08, 32, 6, 39),  # heard whole when the first slot has been
        (0.081, 32, 6, 40),
        (0.24, 2, 1, 6),  # 0.24 / 0.08 is 3.0000000000000004 on paper of 53 bits
        (1.0, 2, 12, 27),
    ],
)
def test_word_index(end_s, left, delay, index):
    assert word_index(end_s, left, delay, SLOT_S) == index


@given(st.floats(0, 1000), st.integers(0, 40), st.integers(1, 30))
def test_a_word_is_announced_after_its_end_and_the_delay_and_no_slot_later(end_s, left, delay):
    index = word_index(end_s, left, delay, SLOT_S)
    heard_s = (index - left) * SLOT_S  # what the token at this index has heard, as the schedule of the model has it
    assert heard_s >= end_s + delay * SLOT_S - 1e-6
    assert index == left + delay + 1 or heard_s - SLOT_S < end_s + delay * SLOT_S
    with pytest.raises(ValueError, match="expected a word's end at 0 s or later"):
        word_index(-0.1, left, delay, SLOT_S)


def test_words_are_written_one_piece_to_a_slot():
    words = [(0.1, [70, 71]), (0.7, [72])]  # due at 2 + 1 + 2 and 2 + 1 + 9
    assert written(words, 2, 1, SLOT_S, IDS) == [1, P, P, P, P, W, 70, 71, P, P, P, P, W, 72]


def test_words_due_while_others_are_written_wait_and_share_a_word_mark():
    words = [
        (0.08, [70, 71, 72]),
        (0.16, [73]),
        (0.3, [74]),
        (0.6, [75]),
    ]  # due at 3, 4, 6 and 10, with delay 0 + left 2
    assert written(words, 2, 0, SLOT_S, IDS) == [1, P, P, W, 70, 71, 72, W, 73, 74, W, 75]


def test_no_words_leave_the_prompt_alone():
    assert written([], 2, 3, SLOT_S, IDS) == [1, P, P, P, P, P]


@given(
    st.lists(st.tuples(st.floats(0, 20), st.lists(st.integers(100, 200), min_size=1, max_size=6))), st.integers(1, 30)
)
def test_every_piece_is_written_once_in_order_and_never_early(words, delay):
    words = sorted(words, key=lambda word: word[0])
    sequence = written(words, 2, delay, SLOT_S, IDS)
    assert [t for t in sequence if t >= 100] == [piece for _, pieces in words for piece in pieces]
    assert (sequence[0], set(sequence[1 : 3 + delay])) == (1, {P})
    place = -1
    for end_s, pieces in words:
        place = next(i for i in range(place + 1, len(sequence)) if sequence[i] >= 100)
        assert (place - 1 - 2 - delay) * SLOT_S >= end_s - 1e-6
        place += len(pieces) - 1
    for before, after in itertools.pairwise(sequence):
        assert after < 100 or before >= 100 or before == W
        assert before != W or after >= 100


def test_labels_are_the_next_tokens_and_the_prompt_is_ignored():
    sequence = written([(0.1, [70, 71])], 2, 1, SLOT_S, IDS)
    tokens, labels = targets(sequence, 10, 2, 1, P)
    assert tokens.tolist() == [1, P, P, P, P, W, 70, 71, P, P]
    assert labels.tolist() == [IGNORED] * 3 + [P, W, 70, 71, P, P, P]
    tokens, labels = targets(sequence, 7, 2, 1, P)  # the last label is the token after the last position
    assert tokens.tolist() == sequence[:7]
    assert labels[-1] == 71
    with pytest.raises(ValueError, match="expected a sequence of up to 7 tokens, got 8"):
        targets(sequence, 6, 2, 1, P)


def utterance(phonemes: str, frames: list[int], words: list[tuple[str, float, float]]) -> Utterance:
    return Utterance(Path("a"), 0.0, sum(frames) * 0.025, "", tuple(words), phonemes, tuple(frames))


def at(spans: tuple[np.ndarray, np.ndarray], time_s: float) -> int:
    return int(spans[1][np.searchsorted(spans[0], time_s, side="right") - 1])


def test_sounds_are_found_at_their_times():
    # silence 0.1, t 0.05, ə 0.15, space 0.1, stress 0.05, ɪ 0.1, ː 0.05, t 0.2, full stop 0.1, silence 0.1
    u = utterance("tə ˈɪːt.", [4, 2, 6, 4, 2, 4, 2, 8, 4, 4], [("to", 0.1, 0.3), ("eat", 0.4, 0.7)])
    spans = phoneme_spans(u)
    expected = [
        *((0.05, SILENCE), (0.12, SOUND_IDS["t"]), (0.2, SOUND_IDS["ə"]), (0.35, IGNORED)),
        *((0.42, SOUND_IDS["ɪ"]), (0.5, SOUND_IDS["ɪ"]), (0.58, SOUND_IDS["ɪ"])),  # with its stress and its length
        *((0.65, SOUND_IDS["t"]), (0.75, SILENCE)),  # the word is over at 0.7 s, though t counts to 0.8 s
        *((0.85, SILENCE), (0.95, SILENCE)),
    ]
    assert [(t, at(spans, t)) for t, _ in expected] == expected


def test_unknown_sounds_and_absent_phonemes_are_ignored():
    assert at(phoneme_spans(utterance("tx", [2, 2, 2, 2], [("t", 0.05, 0.15)])), 0.12) == IGNORED
    spans = phoneme_spans(Utterance(Path("a"), 0.0, 1.0, "", ()))
    assert at(spans, 0.5) == IGNORED
    assert at(spans, 1.01) == SILENCE


def test_labels_cover_every_sound_once():
    assert sorted(SOUND_IDS.values()) == list(range(1, LABELS))


def test_frame_labels_follow_the_audio_by_the_latency():
    spans = (np.array([0.0, 0.1, 0.2]) + 0.4, np.array([0, 5, 0]))  # sound 5 from 0.5 to 0.6 s
    for latency in (0, 1, 3):
        labels = phoneme_labels([spans], [(0.4, 0.7)], 25, 0.04, latency)
        heard = [f for f in range(25) if labels[f] == 5]
        assert [(f - latency + 0.5) * 0.04 for f in heard] == pytest.approx([0.5, 0.54, 0.58])
    clipped = phoneme_labels([spans], [(0.4, 0.53)], 25, 0.04, 0)  # the utterance is cut off in the middle of the sound
    assert np.flatnonzero(clipped == 5).tolist() == [12]
