"""Training examples of one length: utterances and silences in a row, with what to write and when."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from earful.models.voxtral.config import VoxtralConfig
from earful.train.augment import CLEAN, degrade
from earful.train.data import Corpus
from earful.train.mixing import Mixer, Place
from earful.train.targets import targets, written

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


class Packer:
    """Makes example number `index` of the stream `seed`: the same whenever and wherever it is asked for.

    encode: text to token ids, without bos or eos; total_slots: T; delays: delay in slots -> its share;
    latency: encoder frames by which phoneme labels are late; shares: manifest folder -> share of the utterances
    drawn from it, by default as many as it has; clean: share of the examples that are not degraded; cut: share of the
    utterances of which a few words are heard. Raises ValueError for shares of other folders than the corpus has, too
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
        cut: float = 0.0,
    ) -> None:
        self.mixer = Mixer(corpus, shares, cut)
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
        self._delays, self._delay_shares = list(delays), np.array(list(delays.values())) / sum(delays.values())

    @property
    def seconds(self) -> float:
        """Of real audio in an example."""
        return (self.total_slots - self.config.audio.left_slots) * self.config.slot_s

    def example(self, seed: int, index: int) -> Example:
        """One example; a pure function of its arguments and the corpus."""
        rng = np.random.default_rng([seed, index])
        delay = int(rng.choice(self._delays, p=self._delay_shares))
        places = self.mixer.arrange(rng, self.seconds - delay * self.config.slot_s)
        sequence = self._sequence(places, delay)
        while len(sequence) > self.total_slots + 1:
            places.pop()
            sequence = self._sequence(places, delay)
        left = self.config.audio.left_slots
        tokens, labels = targets(sequence, self.total_slots, left, delay, self.config.ids.blank)
        _, early = targets(
            self._sequence(places, EARLY_SLOTS), self.total_slots, left, EARLY_SLOTS, self.config.ids.blank
        )
        samples = self.mixer.mix(rng, places, self.seconds)
        babble = partial(self.mixer.babble, rng, self.seconds)
        samples = degrade(rng, samples, self.corpus.rate_hz, babble, self.clean)
        return Example(samples, tokens, labels, delay, self._phonemes(places), early)

    def _sequence(self, places: Sequence[Place], delay: int) -> list[int]:
        words = [
            (place.moved(end_s), self._written_as(word))
            for place in places
            for word, _, end_s in self.mixer.utterance(place).words
        ]
        config = self.config
        return written(words, config.audio.left_slots, delay, config.slot_s, config.ids)

    def _written_as(self, word: str) -> list[int]:
        if word not in self._pieces:
            self._pieces[word] = self._encode(" " + word)
        return self._pieces[word]

    def _phonemes(self, places: Sequence[Place]) -> npt.NDArray[np.int64]:
        downsample, left = self.config.downsample, self.config.audio.left_slots
        frames = (self.total_slots - left) * downsample
        labels = self.mixer.sounds(places, frames, self.config.slot_s / downsample, self.latency)
        return np.concatenate([np.zeros(left * downsample, np.int64), labels])
