"""Log-mel features, offline and by the block."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

LINEAR_HZ = 200 / 3  # Slaney's scale: hertz per mel below the bend
BEND_HZ = 1000.0
LOG_STEP = math.log(6.4) / 27  # above the bend 27 mels multiply the frequency by 6.4


def _mel_to_hz(mel: Tensor) -> Tensor:
    bend = BEND_HZ / LINEAR_HZ
    return torch.where(mel < bend, LINEAR_HZ * mel, BEND_HZ * torch.exp(LOG_STEP * (mel - bend)))


def _hz_to_mel(hz: float) -> float:
    return hz / LINEAR_HZ if hz < BEND_HZ else BEND_HZ / LINEAR_HZ + math.log(hz / BEND_HZ) / LOG_STEP


def mel_edges(rate_hz: int, bins: int) -> Tensor:
    """Where the filters begin, peak and end, in Hz: float64 [bins + 2], filter i at i, i + 1 and i + 2."""
    return _mel_to_hz(torch.linspace(0, _hz_to_mel(rate_hz / 2), bins + 2, dtype=torch.float64, device="cpu"))


@functools.lru_cache
def mel_filters(rate_hz: int, window: int, bins: int) -> Tensor:
    """Triangular filters, evenly spaced on Slaney's mel scale from 0 Hz to half the rate, each of unit area.

    Returns float32 [window // 2 + 1, bins], on the CPU and shared between callers: not to be written to.
    Raises ValueError for sizes below 1.
    Source: Slaney, Auditory Toolbox (1998).
    """
    if rate_hz < 1 or window < 2 or bins < 1:
        raise ValueError(f"expected rate_hz >= 1, window >= 2, bins >= 1, got {rate_hz}, {window}, {bins}")
    # A cached tensor must not remember the mode, the device or the type that its first caller worked in.
    with torch.inference_mode(False):
        hz = torch.arange(window // 2 + 1, dtype=torch.float64, device="cpu") * (rate_hz / window)
        edges = mel_edges(rate_hz, bins)
        low, peak, high = edges[:-2], edges[1:-1], edges[2:]  # [bins]
        rising = (hz[:, None] - low) / (peak - low)
        falling = (high - hz[:, None]) / (high - peak)
        return (torch.minimum(rising, falling).clamp(min=0) * (2 / (high - low))).float()


@functools.lru_cache
def _cached(rate_hz: int, window: int, bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        hann = torch.hann_window(window, dtype=torch.float32, device=device)
        return hann, mel_filters(rate_hz, window, bins).T.contiguous().to(device)


def _constants(rate_hz: int, window: int, bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Periodic Hann window [window] and filters [bins, window // 2 + 1] on a device, made once."""
    return _cached(rate_hz, window, bins, device)


# Dynamo would look through the cache and compute both again in every call. The mark is all that
# torch.compiler.assume_constant_result sets, but that loads Dynamo for everyone, for a second.
_constants._dynamo_marked_constant = True  # type: ignore[attr-defined]


def log_mel(
    samples: Tensor, rate_hz: int, hop: int, window: int, bins: int, log_max: float | None, center: bool
) -> Tensor:
    """Log-mel power, limited to 8 decades below `log_max` and scaled by (log10 + 4) / 4.

    samples: float32 [B, N]  ->  float32 [B, bins, F]
    center=True: a whole signal. Frame j lies around sample hop * j, both ends are reflected; F = N // hop.
    center=False: a piece of one. Frame j covers samples [hop * j, hop * j + window); F = (N - window) // hop + 1.
    log_max: the loudest log10 power that is expected; None takes the maximum of this tensor, which cannot stream.
    On a signal that begins and ends in window // 2 zeros both agree: the reflections are zeros too.
    Raises ValueError for another dtype or shape, and for less than window // 2 + 1 (center) or window samples.
    Source: the features of Whisper (Radford et al. 2022, section 2.2), with a constant maximum.
    """
    if samples.ndim != 2 or samples.dtype != torch.float32:
        raise ValueError(f"expected float32 samples of shape [B, N], got {samples.dtype} {list(samples.shape)}")
    least = window // 2 + 1 if center else window
    if samples.shape[1] < least:
        raise ValueError(f"expected at least {least} samples, got {samples.shape[1]}")
    hann, filters = _constants(rate_hz, window, bins, samples.device)
    spectrum = torch.stft(samples, window, hop, window=hann, center=center, return_complex=True)
    if center:
        spectrum = spectrum[..., : samples.shape[1] // hop]  # the last frame would be half reflection
    power: Tensor = filters @ spectrum.abs().square()  # [B, bins, F]
    log_power = power.clamp(min=1e-10).log10()
    loudest = log_power.max() if log_max is None else log_max
    return (log_power.clamp(min=loudest - 8.0) + 4.0) / 4.0
