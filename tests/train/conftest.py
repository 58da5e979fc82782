"""Speech that anyone can tell apart, for tests that learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from earful.audio.io import write_wav

TONES = {"low": 0.06, "high": 0.3}  # frequency as a share of the rate


def write_tones(folder: Path, rate_hz: int, utterances: int) -> Path:
    """A manifest of utterances of two words each, low tones and high ones with silence around them."""
    folder.mkdir()
    rows, audio, at = [], [], 0.0
    rng = np.random.default_rng(0)
    for _ in range(utterances):
        words, parts = [], [np.zeros(rate_hz // 4)]
        for word in rng.choice(list(TONES), 2):
            start = sum(map(len, parts)) / rate_hz
            tone = 0.4 * np.sin(2 * np.pi * TONES[word] * np.arange(rate_hz * 3 // 10))
            parts += [tone, np.zeros(rate_hz // 5)]
            words.append([str(word), start, start + 0.3])
        samples = np.concatenate(parts)
        row = {"audio": "a.wav", "start": at, "duration": len(samples) / rate_hz}
        rows.append(row | {"text": " ".join(w for w, *_ in words), "words": words})
        audio.append(samples)
        at += len(samples) / rate_hz
    write_wav(folder / "a.wav", np.concatenate(audio).astype(np.float32), rate_hz)
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """Twelve utterances at 4800 Hz, the rate of tiny codecs."""
    return write_tones(tmp_path / "tones", 4800, 12)


@pytest.fixture
def make_tones() -> Callable[[Path, int, int], Path]:
    """`write_tones`: a folder, a rate, so many utterances."""
    return write_tones
