"""Sizes of a Mimi codec, in our own names."""

from __future__ import annotations

import math
from dataclasses import dataclass

STEPS_PER_FRAME = 2  # steps of the transformers to a frame of codes


@dataclass(frozen=True)
class MimiConfig:
    """Convolutions over the samples, a transformer over their output, codes at half its rate; and the way back."""

    rate_hz: int
    channels: int  # of the audio
    ratios: tuple[int, ...]  # of the decoder's transposed convolutions, first to last; the encoder has them reversed
    filters: int  # channels next to the samples
    residual_layers: int  # residual blocks to a ratio
    kernel: int  # of the convolution next to the samples, and of the decoder's first
    residual_kernel: int
    last_kernel: int  # of the last convolution of the encoder, and of the decoder
    dilation_base: int  # of residual block j: dilation_base ** j
    compress: int  # a residual block is so much narrower inside
    dim: int
    layers: int  # of each transformer
    heads: int
    head_dim: int
    mlp_dim: int
    window: int  # steps that a step sees, itself included
    rope_base: float
    norm_eps: float
    codebooks: int  # in all
    semantic_codebooks: int  # of them
    codebook_size: int
    codebook_dim: int
    encodes: bool = True  # False: the half that encodes is left out
    decodes: bool = True

    @property
    def hop(self) -> int:
        """Samples to a step of the transformers."""
        return math.prod(self.ratios)

    @property
    def frame_samples(self) -> int:
        return self.hop * STEPS_PER_FRAME

    @property
    def frame_rate_hz(self) -> float:
        return self.rate_hz / self.frame_samples

    @property
    def frame_s(self) -> float:
        return self.frame_samples / self.rate_hz


# The published model.
MIMI = MimiConfig(
    rate_hz=24_000, channels=1, ratios=(8, 6, 5, 4), filters=64, residual_layers=1, kernel=7, residual_kernel=3,
    last_kernel=3, dilation_base=2, compress=2, dim=512, layers=8, heads=8, head_dim=64, mlp_dim=2048, window=250,
    rope_base=1e4, norm_eps=1e-5, codebooks=32, semantic_codebooks=1, codebook_size=2048, codebook_dim=256,
)  # fmt: skip
