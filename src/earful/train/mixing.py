"""Utterances and silences in a row, each a little faster or slower, louder or softer than it was recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from earful.train.augment import change_speed
from earful.train.data import Corpus, Utterance
from earful.train.targets import phoneme_labels, phoneme_spans

SPEED = (0.88, 1.14)
LOUDNESS_DB = (-8.0, 2.0)  # of one utterance beside another
NOTHING, ALONE = 0.04, 0.08  # shares of the examples without speech, and with a single utterance
LEAD_S, TRAIL_S = (0.08, 0.5), (0.15, 0.6)  # how much of an utterance's own silence is kept
GAPS_S = (((0.0, 0.4), 0.5), ((0.4, 1.5), 0.4), ((1.5, 4.0), 0.1))  # between utterances: range, share
TRIES = 8  # to find an utterance that still fits
VOICES = 4  # in babble
CUT_WORDS = 6  # at most so many in a row of an utterance that is cut
CUT_GAPS_S = (0.0, 0.06)  # behind them
EDGE_S = 0.03  # a cut between two words lies so much before the middle of what their times leave between them
FADE_S = 0.008  # on both sides of a cut


@dataclass(frozen=True)
class Place:
    """An utterance in an example; times in seconds."""

    number: int
    at_s: float  # where its kept part begins in the example
    from_s: float  # the kept part, in the utterance's own time
    to_s: float
    speed: float
    words: slice | None = None  # of the utterance, where it is cut

    @property
    def end_s(self) -> float:
        return self.at_s + (self.to_s - self.from_s) / self.speed

    def moved(self, own_s: float) -> float:
        """A time of the utterance as a time of the example."""
        return self.at_s + (own_s - self.from_s) / self.speed


class Mixer:
    """Arranges the utterances of a corpus; what chance decides comes from the generator that each call is given.

    shares: manifest folder -> share of the utterances drawn from it, by default as many as it has. cut: share of the
    utterances of which only a few words in a row are heard, so that texts are not learned by heart; not of those whose
    text is no list of their words, as a translation. Raises ValueError for shares of other folders than the corpus has.
    """

    def __init__(self, corpus: Corpus, shares: Mapping[str, float] | None = None, cut: float = 0.0) -> None:
        sources: dict[str, list[int]] = {}
        for number, utterance in enumerate(corpus.utterances):
            sources.setdefault(utterance.source, []).append(number)
        shares = shares or {source: len(numbers) for source, numbers in sources.items()}
        if set(shares) != set(sources):
            raise ValueError(f"expected shares of {sorted(sources)}, got shares of {sorted(shares)}")
        self.corpus, self.shares, self.cut = corpus, dict(shares), cut
        self._sources = [np.array(sources[source]) for source in shares]
        self._shares = np.array(list(shares.values())) / sum(shares.values())

    def draw(self, rng: np.random.Generator) -> int:
        """The number of an utterance."""
        source = self._sources[rng.choice(len(self._sources), p=self._shares)]
        return int(source[rng.integers(len(source))])

    def whole(self, place: Place) -> Utterance:
        """The utterance that a place is of."""
        return self.corpus.utterances[place.number]

    def utterance(self, place: Place) -> Utterance:
        """The same, with no other words than are heard."""
        whole = self.whole(place)
        if place.words is None:
            return whole
        words = whole.words[place.words]
        return replace(whole, words=words, text=" ".join(word for word, _, _ in words))

    def arrange(self, rng: np.random.Generator, room_s: float) -> list[Place]:
        """Utterances that end within `room_s` seconds: many, sometimes one, now and then none."""
        kind = rng.random()
        if kind < NOTHING:
            return []
        if kind < NOTHING + ALONE:
            return self.fill(rng, rng.uniform(0, max(0.5, room_s - 6)), room_s, 1)
        return self.fill(rng, rng.uniform(0, 0.8), room_s)

    def fill(self, rng: np.random.Generator, at_s: float, room_s: float, most: float = math.inf) -> list[Place]:
        """Utterances of one language from `at_s` on that end within `room_s` seconds; none where none is found."""
        places: list[Place] = []
        while len(places) < most:
            drawn = (self._place(rng, at_s) for _ in range(TRIES))
            fitting = (p for p in drawn if p.end_s <= room_s and self._alike(p, places))
            place = next(fitting, None)
            if place is None:
                break
            places.append(place)
            (low, high), _ = GAPS_S[rng.choice(len(GAPS_S), p=[share for _, share in GAPS_S])]
            if place.words and rng.random() < 0.5:
                low, high = CUT_GAPS_S
            at_s = place.end_s + rng.uniform(low, high)
        return places

    def _alike(self, place: Place, others: Sequence[Place]) -> bool:
        return not others or self.whole(place).language == self.whole(others[0]).language

    def _place(self, rng: np.random.Generator, at_s: float) -> Place:
        number = self.draw(rng)
        utterance = self.corpus.utterances[number]
        first, last, words = 0.0, utterance.duration_s, None
        if utterance.words:
            first = max(0.0, utterance.words[0][1] - rng.uniform(*LEAD_S))
            last = min(last, utterance.words[-1][2] + rng.uniform(*TRAIL_S))
        if self.cut and rng.random() < self.cut and _spelled_out(utterance):
            begin = int(rng.integers(len(utterance.words)))
            end = min(len(utterance.words), begin + int(rng.integers(1, CUT_WORDS + 1)))
            words = slice(begin, end)
            first = max(first, _between(utterance, begin)) if begin else first
            last = min(last, _between(utterance, end)) if end < len(utterance.words) else last
        return Place(number, at_s, first, last, rng.uniform(*SPEED) if rng.random() < 0.8 else 1.0, words)

    def mix(self, rng: np.random.Generator, places: Sequence[Place], seconds: float) -> npt.NDArray[np.float32]:
        """The audio of an arrangement: float32 [N] at the rate of the corpus."""
        rate_hz = self.corpus.rate_hz
        mixed = np.zeros(round(seconds * rate_hz), np.float32)
        for place in places:
            one = self.corpus.samples(place.number)[round(place.from_s * rate_hz) : round(place.to_s * rate_hz)]
            if place.words:
                one = _faded(one, round(FADE_S * rate_hz))
            if place.speed != 1:
                one = change_speed(one, place.speed)
            first = round(place.at_s * rate_hz)
            one = one[: len(mixed) - first] * np.float32(10 ** (rng.uniform(*LOUDNESS_DB) / 20))
            mixed[first : first + len(one)] += one
        return mixed

    def sounds(self, places: Sequence[Place], frames: int, frame_s: float, latency: int) -> npt.NDArray[np.int64]:
        """The label [frames] of what sounds in each frame of an arrangement, as `phoneme_labels` has them."""
        spans = []
        for place in places:
            starts, labels = phoneme_spans(self.whole(place))
            spans.append((place.at_s + (starts - place.from_s) / place.speed, labels))
        ranges = [(place.at_s, place.end_s) for place in places]
        return phoneme_labels(spans, ranges, frames, frame_s, latency)

    def babble(self, rng: np.random.Generator, seconds: float) -> npt.NDArray[np.float32]:
        """Several voices at once, for noise behind another: float32 [N]."""
        count = round(seconds * self.corpus.rate_hz)
        mixed = np.zeros(count, np.float32)
        for _ in range(VOICES):
            voice = np.resize(self.corpus.samples(self.draw(rng)), count)
            mixed += np.roll(voice, int(rng.integers(count)))
        return mixed


def _spelled_out(utterance: Utterance) -> bool:
    return utterance.text.split() == [word for word, _, _ in utterance.words] != []


def _between(utterance: Utterance, word: int) -> float:
    """When a word begins that another one precedes."""
    before_s, start_s = utterance.words[word - 1][2], utterance.words[word][1]
    return max(utterance.words[word - 1][1], (before_s + start_s) / 2 - EDGE_S)


def _faded(samples: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    """The same, rising from nothing over so many samples and falling to it."""
    gain = np.minimum(1, np.minimum(np.arange(len(samples)), np.arange(len(samples))[::-1]) / count)
    faded: npt.NDArray[np.float32] = samples * gain.astype(np.float32)
    return faded
