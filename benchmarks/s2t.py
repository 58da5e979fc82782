"""Speech2Text at its published sizes with random weights, beside transformers: clips of mixed length, greedy and beams.

`python -m benchmarks.s2t NAME SIZE FOLDER` prints JSON: a process each, which opens the same folder. Both
are given the same padded features and their mask, and write until all texts of a batch have ended.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.subjects import RATE_HZ, Json, Samples, speech
from earful import registry
from earful.generate.beam import Decoding
from earful.models.s2t.config import EOS, PRESETS, S2tConfig, TextConfig
from earful.models.s2t.decode import write
from earful.models.s2t.processor import hear
from earful.models.s2t.stream import streams
from earful.testing import s2t_weights, tiny_s2t_vocabulary, write_tiny
from earful.text.sentencepiece import Piece, SentencePiece

SIZES = {"small": "s2t-small-librispeech-asr", "large": "s2t-large-librispeech-asr"}
BATCHES, BEAMS = (1, 8, 32), (1, 5)
SECONDS = (1.0, 16.0)  # of a clip
LONGEST = 64  # ids of a text at most, as many as people say in the longest clip
ENDING = 2.0  # how much sooner than random weights texts end: after 1 id to LONGEST


class Subject(Protocol):
    def features(self, clips: Sequence[Samples]) -> tuple[Tensor, Tensor]:
        """Padded features [B, F, bins] of clips, and how many frames of each are real [B]."""

    def texts(self, features: Tensor, frames: Tensor, beams: int) -> list[list[int]]:
        """The ids of the best text of each, the end of the text included where it was reached."""


class Earful:
    def __init__(self, folder: Path) -> None:
        model, tokenizer = registry.load_model(folder)
        self.stream, _ = streams(model, tokenizer)  # type: ignore[arg-type]

    def features(self, clips: Sequence[Samples]) -> tuple[Tensor, Tensor]:
        return hear(clips, self.stream.config.audio)

    def texts(self, features: Tensor, frames: Tensor, beams: int) -> list[list[int]]:
        how = replace(self.stream.config.decoding, beams=beams)
        return [best[0].ids for best in write(self.stream.model, features, frames, how, [None] * len(features))]


class Transformers:
    def __init__(self, folder: Path) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        self.model = transformers.Speech2TextForConditionalGeneration.from_pretrained(folder).eval()
        self.extractor = transformers.Speech2TextFeatureExtractor.from_pretrained(folder)

    def features(self, clips: Sequence[Samples]) -> tuple[Tensor, Tensor]:
        found = self.extractor(list(clips), sampling_rate=RATE_HZ, padding=True, return_tensors="pt")
        return found.input_features, found.attention_mask.sum(1)

    def texts(self, features: Tensor, frames: Tensor, beams: int) -> list[list[int]]:
        mask = (torch.arange(features.shape[1]) < frames[:, None]).int()
        found = self.model.generate(features, attention_mask=mask, num_beams=beams, early_stopping=beams > 1)
        return [_until_the_end(row) for row in found[:, 1:].tolist()]


SUBJECTS: dict[str, Callable[[Path], Subject]] = {"earful": Earful, "transformers": Transformers}


def _until_the_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(EOS) + 1] if EOS in ids else ids


def write_checkpoint(size: str, folder: Path) -> None:
    """Random float32 weights of a published size, or of a tiny one, in a folder that both libraries open."""
    decoding = Decoding(max_length=LONGEST)
    if size not in SIZES:
        write_tiny("s2t", path=folder, decoding={"beams": 5, "max_length": 16})
        return
    folder.mkdir(parents=True)
    config: S2tConfig = replace(PRESETS[SIZES[size]], decoding=decoding)
    model = registry.FAMILIES["s2t"].build(config)
    weights = s2t_weights(model, 0)
    weights["decoder.embed.weight"][EOS] *= ENDING
    model.load_state_dict(weights, assign=True)
    known = tiny_s2t_vocabulary(TextConfig()).pieces
    others = (Piece(f"piece{i}", -100.0) for i in range(config.vocab - len(known)))
    SentencePiece([*known, *others]).save(folder / "vocabulary.model")
    registry.save_model(model, folder, "hf", folder / "vocabulary.model")


def clips(count: int, longest_s: float) -> list[Samples]:
    """Parts of the bundled recording, of any length from `SECONDS` on."""
    rng = np.random.default_rng(0)
    whole = speech(2 * longest_s)
    parts = []
    for _ in range(count):
        first_s, length_s = rng.uniform(0, longest_s), min(rng.uniform(*SECONDS), longest_s)
        parts.append(whole[round(first_s * RATE_HZ) : round((first_s + length_s) * RATE_HZ)])
    return parts


def speed(subject: Subject, size: str) -> Json:
    """Seconds for the features and for the texts of so many clips, by beams; and the ids of the texts."""
    tiny = size not in SIZES
    found: Json = {"audio_s": {}, "features_s": {}, "texts_s": {}, "ids": {}}
    given = clips(max(BATCHES), 2.0 if tiny else SECONDS[1])
    subject.texts(*subject.features(given[:1]), beams=1)
    for count in BATCHES:
        begin = time.perf_counter()
        features, frames = subject.features(given[:count])
        found["features_s"][str(count)] = time.perf_counter() - begin
        found["audio_s"][str(count)] = sum(map(len, given[:count])) / RATE_HZ
        for beams in BEAMS:
            begin = time.perf_counter()
            ids = subject.texts(features, frames, beams)
            found["texts_s"].setdefault(str(beams), {})[str(count)] = time.perf_counter() - begin
            found["ids"].setdefault(str(beams), {})[str(count)] = ids
    return found


def main(name: str, size: str, folder: str) -> None:
    with torch.inference_mode():
        print(json.dumps(speed(SUBJECTS[name](Path(folder)), size)))


if __name__ == "__main__":
    main(*sys.argv[1:])
