"""Training examples of one length: utterances and silences in a row, with what to write and when."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from earful.models.voxtral.config import VoxtralConfig
from earful.train.augment import CLEAN, change_speed, degrade
from earful.train.data import Corpus, Utterance
from earful.train.targets import phoneme_labels, phoneme_spans, targets, written

SPEED = (0.88, 1.14)
LOUDNESS_DB = (-8.0, 2.0)  # of one utterance beside another
NOTHING, ALONE = 0.04, 0.08  # shares of the examples without speech, and with a single utterance
LEAD_S, TRAIL_S = (0.08, 0.5), (0.15, 0.6)  # how much of an utterance's own silence is kept
GAPS_S = (((0.0, 0.4), 0.5), ((0.4, 1.5), 0.4), ((1.5, 4.0), 0.1))  # between utterances: range, share
TRIES = 8  # to find an utterance that still fits
VOICES = 4  # in babble
EARLY_SLOTS = 2  # enough to have heard a word's end


@dataclass(frozen=True)
class Example:
    """What one training example consists of; T slots, N samples of real audio = (T - left slots) slots."""

    samples: npt.NDArray[np.float32]  # [N]
    tokens: npt.NDArray[np.int64]  # [T]
    labels: npt.NDArray[np.int64]  # [T], -100 where nothing is to be learned
    delay_slots: int
    phonemes: npt.NDArray[np.int64]  # [T * encoder frames to a slot], -100 where unknown
    early: npt.NDArray[np.int64]  # [T], the labels of a delay of EARLY_SLOTS, for what the encoder alone can tell


@dataclass(frozen=True)
class Place:
    """An utterance in an example; times in seconds."""

    number: int
    at_s: float  # where its kept part begins in the example
    from_s: float  # the kept part, in the utterance's own time
    to_s: float
    speed: float

    @property
    def end_s(self) -> float:
        return self.at_s + (self.to_s - self.from_s) / self.speed

    def moved(self, own_s: float) -> float:
        """A time of the utterance as a time of the example."""
        return self.at_s + (own_s - self.from_s) / self.speed


class Packer:
    """Makes example number `index` of the stream `seed`: the same whenever and wherever it is asked for.

    encode: text to token ids, without bos or eos; total_slots: T; delays: delay in slots -> its share;
    latency: encoder frames by which phoneme labels are late; shares: manifest folder -> share of the utterances
    drawn from it, by default as many as it has; clean: share of
    the examples that are not degraded. Raises ValueError for shares of other folders than the corpus has, too
    few slots, or audio at another rate than the model's.
    """

    def __init__(
        self,
        corpus: Corpus,
        config: VoxtralConfig,
        encode: Callable[[str], list[int]],
        total_slots: int,
        delays: Mapping[int, float],
        latency: int = 1,
        shares: Mapping[str, float] | None = None,
        clean: float = CLEAN,
    ) -> None:
        sources: dict[str, list[int]] = {}
        for number, utterance in enumerate(corpus.utterances):
            sources.setdefault(utterance.source, []).append(number)
        shares = shares or {source: len(numbers) for source, numbers in sources.items()}
        if set(shares) != set(sources):
            raise ValueError(f"expected shares of {sorted(sources)}, got shares of {sorted(shares)}")
        if total_slots <= config.audio.left_slots + max(delays):
            raise ValueError(
                f"expected more slots than the prompt of {config.audio.left_slots + max(delays)}, got {total_slots}"
            )
        if corpus.rate_hz != config.audio.rate_hz:
            raise ValueError(f"expected a corpus at {config.audio.rate_hz} Hz, got one at {corpus.rate_hz} Hz")
        self.corpus, self.config, self.total_slots, self.latency = corpus, config, total_slots, latency
        self.clean = clean
        self._encode = encode
        self._pieces: dict[str, list[int]] = {}
        self._sources = [np.array(sources[source]) for source in shares]
        self._shares = np.array(list(shares.values())) / sum(shares.values())
        self._delays, self._delay_shares = list(delays), np.array(list(delays.values())) / sum(delays.values())

    @property
    def seconds(self) -> float:
        """Of real audio in an example."""
        return (self.total_slots - self.config.audio.left_slots) * self.config.slot_s

    def example(self, seed: int, index: int) -> Example:
        """One example; a pure function of its arguments and the corpus."""
        rng = np.random.default_rng([seed, index])
        delay = int(rng.choice(self._delays, p=self._delay_shares))
        places = self._arrange(rng, delay)
        sequence = self._sequence(places, delay)
        while len(sequence) > self.total_slots + 1:
            places.pop()
            sequence = self._sequence(places, delay)
        left = self.config.audio.left_slots
        tokens, labels = targets(sequence, self.total_slots, left, delay, self.config.ids.blank)
        _, early = targets(
            self._sequence(places, EARLY_SLOTS), self.total_slots, left, EARLY_SLOTS, self.config.ids.blank
        )
        samples = degrade(rng, self._mix(rng, places), self.corpus.rate_hz, lambda: self._babble(rng), self.clean)
        return Example(samples, tokens, labels, delay, self._phonemes(places), early)

    def _draw(self, rng: np.random.Generator) -> int:
        source = self._sources[rng.choice(len(self._sources), p=self._shares)]
        return int(source[rng.integers(len(source))])

    def _arrange(self, rng: np.random.Generator, delay: int) -> list[Place]:
        kind = rng.random()
        if kind < NOTHING:
            return []
        room_s = self.seconds - delay * self.config.slot_s
        if kind < NOTHING + ALONE:
            return self._fill(rng, rng.uniform(0, max(0.5, room_s - 6)), room_s, 1)
        return self._fill(rng, rng.uniform(0, 0.8), room_s, self.total_slots)

    def _fill(self, rng: np.random.Generator, at_s: float, room_s: float, most: int) -> list[Place]:
        places: list[Place] = []
        while len(places) < most:
            fitting = (p for _ in range(TRIES) if (p := self._place(rng, at_s)).end_s <= room_s)
            place = next(fitting, None)
            if place is None:
                break
            places.append(place)
            (low, high), _ = GAPS_S[rng.choice(len(GAPS_S), p=[share for _, share in GAPS_S])]
            at_s = place.end_s + rng.uniform(low, high)
        return places

    def _place(self, rng: np.random.Generator, at_s: float) -> Place:
        number = self._draw(rng)
        utterance = self.corpus.utterances[number]
        first, last = 0.0, utterance.duration_s
        if utterance.words:
            first = max(0.0, utterance.words[0][1] - rng.uniform(*LEAD_S))
            last = min(last, utterance.words[-1][2] + rng.uniform(*TRAIL_S))
        return Place(number, at_s, first, last, rng.uniform(*SPEED) if rng.random() < 0.8 else 1.0)

    def _sequence(self, places: Sequence[Place], delay: int) -> list[int]:
        words = [
            (place.moved(end_s), self._written_as(word))
            for place in places
            for word, _, end_s in self._utterance(place).words
        ]
        config = self.config
        return written(words, config.audio.left_slots, delay, config.slot_s, config.ids)

    def _written_as(self, word: str) -> list[int]:
        if word not in self._pieces:
            self._pieces[word] = self._encode(" " + word)
        return self._pieces[word]

    def _utterance(self, place: Place) -> Utterance:
        return self.corpus.utterances[place.number]

    def _mix(self, rng: np.random.Generator, places: Sequence[Place]) -> npt.NDArray[np.float32]:
        rate_hz = self.corpus.rate_hz
        mixed = np.zeros(round(self.seconds * rate_hz), np.float32)
        for place in places:
            one = self.corpus.samples(place.number)[round(place.from_s * rate_hz) : round(place.to_s * rate_hz)]
            if place.speed != 1:
                one = change_speed(one, place.speed)
            first = round(place.at_s * rate_hz)
            one = one[: len(mixed) - first] * np.float32(10 ** (rng.uniform(*LOUDNESS_DB) / 20))
            mixed[first : first + len(one)] += one
        return mixed

    def _babble(self, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        count = round(self.seconds * self.corpus.rate_hz)
        mixed = np.zeros(count, np.float32)
        for _ in range(VOICES):
            voice = np.resize(self.corpus.samples(self._draw(rng)), count)
            mixed += np.roll(voice, int(rng.integers(count)))
        return mixed

    def _phonemes(self, places: Sequence[Place]) -> npt.NDArray[np.int64]:
        spans = []
        for place in places:
            starts, labels = phoneme_spans(self._utterance(place))
            spans.append((place.at_s + (starts - place.from_s) / place.speed, labels))
        downsample, left = self.config.downsample, self.config.audio.left_slots
        frames = (self.total_slots - left) * downsample
        ranges = [(place.at_s, place.end_s) for place in places]
        labels = phoneme_labels(spans, ranges, frames, self.config.slot_s / downsample, self.latency)
        return np.concatenate([np.zeros(left * downsample, np.int64), labels])
