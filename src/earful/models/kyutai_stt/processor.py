"""Audio to what Kyutai Speech-To-Text hears, and text to ids; knows nothing of the network.

The audio stands between two silences: one before it, and one behind it in which the model writes what it holds back.
Source: moshi 0.2.13 (run_inference.py), with which transformers 5.23 agrees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from earful.audio.frames import as_samples
from earful.models.kyutai_stt.config import KyutaiSttConfig
from earful.text.sentencepiece import SentencePiece

EXTRA_S = 1.0  # of silence behind the delay, in which the last word is written to its end


def lead_samples(config: KyutaiSttConfig) -> int:
    """Samples of silence before the audio."""
    return int(config.prefix_s * config.codec.rate_hz)


def tail_samples(config: KyutaiSttConfig) -> int:
    """Samples of silence behind the audio."""
    return int((config.delay_s + EXTRA_S) * config.codec.rate_hz)


class KyutaiSttProcessor:
    """Samples and ids by the config of a model and its tokenizer."""

    def __init__(self, config: KyutaiSttConfig, tokenizer: SentencePiece) -> None:
        self.config, self.tokenizer = config, tokenizer

    def whole(self, clips: Sequence[npt.NDArray[np.floating[Any]]]) -> Tensor:
        """Whole clips [N] at the codec's rate between their silences: float32 [B, 1, N], N of the longest one."""
        before, behind = lead_samples(self.config), tail_samples(self.config)
        samples = np.zeros((len(clips), 1, before + max(map(len, clips)) + behind), np.float32)
        for into, clip in zip(samples, clips, strict=True):
            into[0, before : before + len(clip)] = as_samples(clip)
        return torch.from_numpy(samples)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, no special ones among them."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of what the model wrote; special ids stand for nothing."""
        return self.tokenizer.decode(ids)
