"""What the model should write in each slot of 80 ms, and which sound each encoder frame holds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from earful.models.voxtral.config import SpecialIds
from earful.train.data import Utterance

IGNORED = -100  # a label that counts for nothing
SILENCE = 0  # the phoneme label of a frame without speech
SOUNDS = "AIOQTWYabdfhijklmnpstuvwzæðŋɐɑɒɔəɛɜɡɪɹʃʊʌʒʤʧθᵊᵻ"  # sound i has the label i + 1
LABELS = len(SOUNDS) + 1
STRESS = "ˈˌ"  # their time belongs to the sound that follows
LENGTH = "ː"  # its time belongs to the sound before
PUNCTUATION = ';:,.!?—…"“”()'
UNIT_S = 0.025  # one unit of a manifest's `frames`
SOUND_IDS = {sound: i for i, sound in enumerate(SOUNDS, 1)}


def word_index(end_s: float, left_slots: int, delay_slots: int, slot_s: float) -> int:
    """The first sequence index at which a word that ends at `end_s`, in seconds of real audio, may be announced.

    The token at index s comes from the audio of slot s - 1 and before: s - left_slots slots of real audio.
    It is due when those reach the word's end and the delay after it: s >= left_slots + delay_slots + end_s / slot_s.
    Raises ValueError for an end before the beginning.
    """
    if end_s < 0:
        raise ValueError(f"expected a word's end at 0 s or later, got {end_s} s")
    return left_slots + delay_slots + max(1, math.ceil(end_s / slot_s - 1e-6))  # 0.24 / 0.08 is a little above 3


def written(
    words: Sequence[tuple[float, Sequence[int]]], left_slots: int, delay_slots: int, slot_s: float, ids: SpecialIds
) -> list[int]:
    """The token sequence from bos to the last piece of the last word.

    words: (end in seconds of real audio, pieces), in order. Where nothing is due there are blanks; a word is [W] and
    its pieces, one to a slot. Words that fall due while others are being written wait for them, and what is due at
    once stands behind one [W]. Source: Voxtral Realtime, as `models/voxtral/README.md` describes its targets.
    """
    tokens = [ids.bos] + [ids.blank] * (left_slots + delay_slots)
    due = [word_index(end_s, left_slots, delay_slots, slot_s) for end_s, _ in words]
    following = 0
    while following < len(words):
        tokens += [ids.blank] * (due[following] - len(tokens))
        now = len(tokens)
        tokens.append(ids.word)
        while following < len(words) and due[following] <= now:
            tokens += words[following][1]
            following += 1
    return tokens


def targets(
    sequence: Sequence[int], total_slots: int, left_slots: int, delay_slots: int, blank: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Tokens and labels [T] of a written sequence: the label of a position is the token after it.

    Positions whose label lies in the prompt are IGNORED. Raises ValueError when the sequence is too long.
    """
    if len(sequence) > total_slots + 1:
        raise ValueError(f"expected a sequence of up to {total_slots + 1} tokens, got {len(sequence)}")
    filled = np.full(total_slots + 1, blank, np.int64)
    filled[: len(sequence)] = sequence
    labels = filled[1:].copy()
    labels[: left_slots + delay_slots] = IGNORED
    return filled[:-1], labels


def phoneme_spans(utterance: Utterance) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Which label holds from which time on: starts [K] in seconds of the utterance, labels [K].

    Spaces between words are IGNORED, since neighbours sound through them; punctuation is silence, and so is what the
    last sound of a word counts beyond the word's audible end. Without phonemes the whole utterance is IGNORED.
    """
    if utterance.phonemes is None or utterance.frames is None:
        return np.array([0.0, utterance.duration_s]), np.array([IGNORED, SILENCE])
    bounds = np.cumsum(utterance.frames) * UNIT_S  # character i lasts from bounds[i] to bounds[i + 1]
    ends = _audible_ends(utterance, bounds)
    starts, labels = [0.0], [SILENCE]
    pending: float | None = None  # where a stress mark began
    for i, character in enumerate(utterance.phonemes):
        start, end = float(bounds[i]), float(bounds[i + 1])
        if character in STRESS:
            pending = start if pending is None else pending
            continue
        if character != LENGTH:
            starts.append(start if pending is None else pending)
            labels.append(SILENCE if character in PUNCTUATION else SOUND_IDS.get(character, IGNORED))
            pending = None
        if ends[i] < end:
            starts.append(float(ends[i]))
            labels.append(SILENCE)
    return np.array([*starts, float(bounds[-2])]), np.array([*labels, SILENCE])


def _audible_ends(utterance: Utterance, bounds: npt.NDArray[np.float64]) -> list[float]:
    """For each phoneme character the end of its word as the manifest has it; infinity for what is in no word."""
    phonemes, ends, word = utterance.phonemes or "", [], 0
    for chunk in phonemes.split(" "):
        sounding = any(c not in PUNCTUATION for c in chunk)
        known = sounding and word < len(utterance.words)
        end_s = utterance.words[word][2] if known else math.inf
        ends += [math.inf if c in PUNCTUATION else end_s for c in chunk] + [math.inf]
        word += sounding
    return ends if word == len(utterance.words) else [math.inf] * len(phonemes)


def phoneme_labels(
    spans: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]],
    places: Sequence[tuple[float, float]],
    frames: int,
    frame_s: float,
    latency: int,
) -> npt.NDArray[np.int64]:
    """Labels [frames] of real audio in which utterances stand one after the other, silence between them.

    spans: of each utterance, in seconds of the final audio; places: from when to when, likewise, it counts.
    Frame f is labelled with what sounds at the middle of frame f - latency, since the encoder only looks back.
    """
    middle = (np.arange(frames) + 0.5 - latency) * frame_s
    labels = np.full(frames, SILENCE, np.int64)
    for (starts, its_labels), (begin, end) in zip(spans, places, strict=True):
        first, last = np.searchsorted(middle, (begin, end))
        at = np.searchsorted(starts, middle[first:last], side="right") - 1
        labels[first:last] = np.where(at < 0, SILENCE, its_labels[np.maximum(at, 0)])
    return labels


def interleaved(
    words: Sequence[tuple[float, Sequence[int]]], frames: int, delay_s: float, frame_s: float, pad: int, word: int
) -> npt.NDArray[np.int64]:
    """The text stream [frames] of Kyutai Speech-To-Text: an id to a frame.

    words: (start in seconds from the first frame, pieces), in order. A word's pieces begin in the frame that holds its
    start and the delay; the frame before them is `word` where it would be empty, and every other empty frame is `pad`.
    Pieces that have no room before the next word push it back, so that nothing is left unwritten, and later words are
    on time again as soon as there is a pause; what lies behind the last frame is cut.
    Raises ValueError for a start before the beginning.
    Source: the alignment of Kyutai's models, as `models/kyutai_stt/README.md` describes it.
    """
    text = np.full(frames, pad, np.int64)
    free = 0  # the first frame that nothing is written in
    for start_s, pieces in words:
        if start_s < 0:
            raise ValueError(f"expected a word's start at 0 s or later, got {start_s} s")
        first = max(free, int((start_s + delay_s) / frame_s + 1e-6))
        if free < first <= frames:
            text[first - 1] = word
        free = first + len(pieces)
        text[first:free] = pieces[: max(0, frames - first)]
    return text
