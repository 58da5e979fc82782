"""Kaldi's log-mel filter bank, and features brought to mean 0 and variance 1 over an utterance."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

WINDOW_S, HOP_S = 0.025, 0.010
LOWEST_HZ = 20.0
PRE_EMPHASIS = 0.97
POVEY = 0.85  # the power of a Hann window that Kaldi's own window is
FULL_SCALE = 32768.0  # Kaldi counts in 16-bit steps, and its floor is meant so
FLOOR = torch.finfo(torch.float32).eps
BLOCK = 128  # frames that are worked on at once: these stay in the processor's cache
LEAST_VARIANCE = 1e-10  # fairseq's; a constant feature, as of digital silence, becomes 0 and not NaN


def frame_sizes(rate_hz: int) -> tuple[int, int]:
    """Samples under a frame, and from one frame to the next."""
    return round(WINDOW_S * rate_hz), round(HOP_S * rate_hz)


def frame_count(samples: int, rate_hz: int) -> int:
    """Whole frames in so many samples; those behind the last one are not looked at."""
    window, hop = frame_sizes(rate_hz)
    return max(0, (samples - window) // hop + 1)


def _hz_to_mel(hz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(hz / 700.0)


@functools.lru_cache
def _constants(rate_hz: int, bins: int) -> tuple[Tensor, Tensor]:
    """Window [window] and triangles on the mel scale [size // 2 + 1, bins], none of unit area; float64."""
    with torch.inference_mode(False):  # a cached tensor must not remember the mode of its first caller
        window, _ = frame_sizes(rate_hz)
        size = 1 << (window - 1).bit_length()
        hann = torch.hann_window(window, periodic=False, dtype=torch.float64, device="cpu")
        hz = torch.arange(size // 2 + 1, dtype=torch.float64, device="cpu") * (rate_hz / size)
        lowest, highest = _hz_to_mel(torch.tensor([LOWEST_HZ, rate_hz / 2], dtype=torch.float64)).tolist()
        edges = torch.linspace(lowest, highest, bins + 2, dtype=torch.float64, device="cpu")
        low, peak, high = edges[:-2], edges[1:-1], edges[2:]  # [bins]
        mel = _hz_to_mel(hz)[:, None]
        filters = torch.minimum((mel - low) / (peak - low), (high - mel) / (high - peak)).clamp(min=0)
        filters[-1] = 0  # Kaldi leaves out half the rate
        return hann**POVEY, filters


def fbank(
    samples: Tensor, rate_hz: int, bins: int, dither: float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """Natural log of mel power in frames of 25 ms, every 10 ms.

    samples: float [B, N] in -1..1, on the CPU -> float32 [B, F, bins], F = `frame_count`, 0 for less than a frame.
    dither: how much noise is added to every frame, in 16-bit steps. Raises ValueError for another shape.
    Source: Kaldi (Povey et al. 2011), compute-fbank-feats with its defaults but for the number of bins and no dither.
    """
    if samples.ndim != 2 or not samples.is_floating_point():
        raise ValueError(f"expected float samples of shape [B, N], got {samples.dtype} {list(samples.shape)}")
    window, hop = frame_sizes(rate_hz)
    if samples.shape[1] < window:
        return torch.zeros(len(samples), 0, bins)
    frames = samples.float().unfold(1, window, hop)  # [B, F, window]
    result = torch.empty(*frames.shape[:2], bins)
    for row, into in zip(frames, result, strict=True):
        for some, there in zip(row.split(BLOCK), into.split(BLOCK), strict=True):
            there.copy_(_log_mel(some, rate_hz, bins, dither, generator))
    return result


def _log_mel(
    frames: Tensor, rate_hz: int, bins: int, dither: float, generator: torch.Generator | None
) -> Tensor:  # [F, window] -> [F, bins]
    povey, filters = _constants(rate_hz, bins)
    frames = frames.double() * FULL_SCALE
    if dither:
        frames = frames + dither * torch.randn(frames.shape, dtype=frames.dtype, generator=generator)
    frames = frames - frames.mean(-1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=-1)
    frames = (frames - PRE_EMPHASIS * before) * povey
    spectrum = torch.fft.rfft(frames, 2 * (len(filters) - 1))
    power = spectrum.real.square() + spectrum.imag.square()  # [F, size // 2 + 1], faster than abs()
    mel: Tensor = power @ filters
    return mel.clamp(min=FLOOR).log()


def normalise(features: Tensor, lengths: Tensor, means: bool = True, variances: bool = True) -> Tensor:
    """Each feature over an utterance with mean 0 and variance 1; frames behind its end become 0.

    features: float32 [B, F, bins]; lengths: [B] frames of each utterance -> the same shape.
    A feature that does not change becomes 0. Source: cepstral mean and variance normalisation as in fairseq S2T.
    """
    inside = torch.arange(features.shape[1]) < lengths[:, None]  # [B, F]
    count = lengths.clamp(min=1).double()[:, None, None]
    x = features.double() * inside[:, :, None]
    centred = (x - x.sum(1, keepdim=True) / count) * inside[:, :, None]
    x = centred if means else x
    if variances:
        x = x / (centred.square().sum(1, keepdim=True) / count).clamp(min=LEAST_VARIANCE).sqrt()
    return x.float()
