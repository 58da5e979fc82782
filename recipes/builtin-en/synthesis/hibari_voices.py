"""hibari: one small voice at a hundred times real time, bent into many speakers.

Its network returns the pitch curve and three spectral envelopes. Scaling the pitch and stretching the envelopes along
the frequency axis, as a shorter or longer vocal tract would, gives voices from child to bass.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import soxr
from kokoro import ENGINE_HZ, Phonemes, session, with_durations
from synthesise import RATE_HZ, Utterance

DURATIONS = "/Clip_output_0"  # units of 25 ms, which are two of the engine's frames
SPEED = (0.7, 1.35)
LOWEST_HZ = 45.0
VOICED_HZ = 40.0  # below this the engine means "no voice"


def stretch(envelope: np.ndarray, factor: float) -> np.ndarray:
    """An envelope [bins, F] moved up in frequency by `factor`, linearly interpolated."""
    position = np.arange(len(envelope)) / factor
    low = np.minimum(position.astype(int), len(envelope) - 2)
    share = np.minimum(position - low, 1)[:, None].astype(np.float32)
    return envelope[low] * (1 - share) + envelope[low + 1] * share


class HibariVoices:
    def __init__(self, cache: Path) -> None:
        packages = cache / "python"
        self.phonemes = Phonemes(packages)
        from hibari import Hibari, dsp

        self.engine, self.dsp = Hibari(), dsp
        self.session = session(with_durations(Path(self.engine.model_path), DURATIONS, cache / "hibari-durations.onnx"))

    def speak(self, line: str, split: str, rng: random.Random) -> Utterance | None:
        speed = round(rng.uniform(*SPEED), 3)
        deep = rng.random() < 0.5
        tract = round(rng.uniform(0.80, 0.96) if deep else rng.uniform(0.92, 1.15), 3)
        pitch = round(rng.uniform(0.42, 0.72) if deep else rng.uniform(0.75, 1.3), 3)
        melody, tilt, breath = rng.uniform(0.5, 1.4), rng.uniform(-2, 1), rng.uniform(-0.3, 0.8)
        phonemes = "".join(c for c in self.phonemes(line, british=False) if c in self.engine.vocab)
        if not phonemes:
            return None
        inputs = {
            "ids": np.array([[0, *(self.engine.vocab[c] for c in phonemes), 0]], np.int64),
            "speed": np.array([speed], np.float32),
        }
        *parts, frames = self.session.run(None, inputs)
        harmonic, phase, noise, rest, rest_phase, f0 = (part[0] for part in parts)  # [601, F] each; f0 [F]
        voiced = f0 > VOICED_HZ
        mean = float(f0[voiced].mean()) if voiced.any() else 180.0
        bent = np.maximum(mean * pitch + (f0 - mean) * pitch * melody, LOWEST_HZ)
        f0 = np.where(voiced, bent, 0).astype(np.float32)
        slope = np.linspace(0, tilt, len(harmonic), dtype=np.float32)[:, None]
        audio = self.dsp.synth(
            stretch(harmonic, tract) + slope,
            stretch(phase, tract),
            stretch(noise, tract) + slope + np.float32(breath),
            stretch(rest, tract) + slope,
            rest_phase,
            f0,
            np.random.default_rng(rng.getrandbits(32)),
        )
        samples = soxr.resample(audio, ENGINE_HZ, RATE_HZ)
        voice = f"heart tract {tract} pitch {pitch}"
        return Utterance(line, "hibari", voice, speed, phonemes, [int(n) for n in frames.ravel()], samples)
