"""Rooms, noise, telephones and cheap microphones, for speech that was made in perfect silence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
Gains = npt.NDArray[np.float32]  # [bins] of a real Fourier transform
Generator = np.random.Generator

CLEAN = 0.15  # of the examples get another loudness and nothing else
ROOM, TILT, BAND, NOISE, BABBLE, HUM, QUANTISED = 0.45, 0.6, 0.3, 0.8, 0.15, 0.1, 0.06  # shares of the others
SNR_DB = (5.0, 40.0)
GAIN_DB = (-25.0, 6.0)
RT60_S = (0.1, 0.6)
LOWEST_HZ = 30.0  # coloured noise gets no stronger below
SLOPES = (0.0, -0.5, -1.0)  # white, pink, brown: exponents of the frequency
QUIET = 1e-3  # blocks this far below the loudest, in power, are not speech
BLOCK_S = 0.02
WARPED, THROAT = 0.5, (0.87, 1.15)  # share of the examples, and what all their frequencies are multiplied by
MASKED = 0.6  # of the examples lose bands and moments of their spectrogram
BANDS, BAND_SHARE = 2, 0.2  # at most so many, of at most this share of the bins
MOMENTS_PER_S, MOMENT_S = 0.4, 0.2  # how many of them on average, the longest


def change_speed(samples: Samples, factor: float) -> Samples:
    """The samples `factor` times as fast, pitch and all: float32 [N] -> [round(N / factor)], cubic interpolation."""
    position = np.arange(round(len(samples) / factor)) * factor
    whole = position.astype(np.int64)
    t = (position - whole).astype(np.float32)
    a, b, c, d = (np.pad(samples, (1, 3))[whole + i] for i in range(4))
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def degrade(
    rng: Generator, samples: Samples, rate_hz: int, babble: Callable[[], Samples], clean: float = CLEAN
) -> Samples:
    """One example as another microphone in another place would have heard it, with nothing moved in time.

    samples: float32 [N] -> [N], within -1..1. clean: the share of examples that only get another loudness.
    `babble` gives other voices, [N] at any loudness; it is called only where they are wanted.
    """
    if rng.random() >= clean:
        level = speech_level(samples, rate_hz)
        if rng.random() < BABBLE:
            voices = babble()
            snr_db = rng.uniform(SNR_DB[0] + 5, SNR_DB[1])
            samples = samples + voices * _ratio(level, speech_level(voices, rate_hz), snr_db)
        samples = _heard(rng, samples, rate_hz, level)
    samples = np.clip(samples * _decibels(rng.uniform(*GAIN_DB)), -1, 1)
    if rng.random() < QUANTISED:
        samples = mu_law(samples) if rng.random() < 0.6 else np.round(samples * 127) / np.float32(127)
    return samples


def _heard(rng: Generator, samples: Samples, rate_hz: int, level: float) -> Samples:
    """The room, then noise, then the microphone and the line."""
    room = impulse_response(rng, rate_hz) if rng.random() < ROOM else None
    count = len(samples)
    padded = fast_length(
        count + round(RT60_S[1] * rate_hz)
    )  # what the room still says at the end must not come out at the beginning
    hz = np.fft.rfftfreq(padded, 1 / rate_hz).astype(np.float32)
    line = np.ones(len(hz), np.float32)
    if rng.random() < TILT:
        line *= tilt(rng, hz)
    if rng.random() < BAND:
        line *= band(rng, hz)
    spectrum = np.fft.rfft(samples, padded) * line
    if room is not None:
        spectrum *= np.fft.rfft(room, padded)
    heard: Samples = np.fft.irfft(spectrum, padded)[:count].astype(np.float32)
    if rng.random() < NOISE:
        rustle = noise(rng, hz, line, padded)[:count]
        if rng.random() < 0.4:
            rustle *= swell(rng, count, rate_hz)
        heard += rustle * _ratio(level, 1.0, rng.uniform(*SNR_DB))
    return heard


def warp_spectrogram(rng: Generator, mel: Samples, peaks_hz: npt.NDArray[np.floating]) -> Samples:
    """Half of the examples as a longer or shorter throat would have said them: float32 [bins, F] -> [bins, F].

    peaks_hz: [bins] where the bins lie. Source: vocal tract length perturbation (Jaitly and Hinton 2013).
    """
    if rng.random() >= WARPED:
        return mel
    place = np.interp(peaks_hz / rng.uniform(*THROAT), peaks_hz, np.arange(len(peaks_hz)))
    low = np.minimum(place.astype(np.int64), len(peaks_hz) - 2)
    share = (place - low).astype(np.float32)[:, None]
    warped: Samples = mel[low] * (1 - share) + mel[low + 1] * share
    return warped


def mask_spectrogram(rng: Generator, mel: Samples, frame_s: float, share: float = MASKED) -> Samples:
    """Bands of bins and short moments levelled to the mean, in a share of the examples: float32 [bins, F] -> [bins, F].

    frame_s: seconds between frames. Source: SpecAugment (Park et al. 2019), without warping of time.
    """
    if rng.random() >= share:
        return mel
    mel, level = mel.copy(), np.float32(mel.mean())
    bins, count = mel.shape
    for _ in range(rng.integers(BANDS + 1)):
        width = int(rng.integers(round(bins * BAND_SHARE) + 1))
        low = int(rng.integers(bins - width + 1))
        mel[low : low + width] = level
    for _ in range(rng.poisson(MOMENTS_PER_S * count * frame_s)):
        first = int(rng.integers(count))
        mel[:, first : first + int(rng.integers(round(MOMENT_S / frame_s) + 1))] = level
    return mel


def speech_level(samples: Samples, rate_hz: int) -> float:
    """Root mean square of the blocks that hold more than silence; 0.1 where there is none."""
    block = round(BLOCK_S * rate_hz)
    power = np.mean(np.square(samples[: len(samples) // block * block].reshape(-1, block)), axis=1)
    loudest = float(power.max(initial=0))
    return float(np.sqrt(power[power >= QUIET * loudest].mean())) if loudest > 1e-8 else 0.1


def impulse_response(rng: Generator, rate_hz: int) -> Samples:
    """A room: 1 at sample 0, the direct path, then a decaying rustle of reflections a few milliseconds later."""
    rt60_s = rng.uniform(*RT60_S)
    time_s = np.arange(1, round(rt60_s * rate_hz), dtype=np.float32) / np.float32(rate_hz)
    tail = rng.standard_normal(len(time_s), dtype=np.float32) * np.exp(time_s * np.float32(-6.9 / rt60_s))
    tail[: round(rng.uniform(0.001, 0.02) * rate_hz)] = 0
    tail *= _decibels(-rng.uniform(0, 15)) / max(1e-6, float(np.linalg.norm(tail)))
    return np.concatenate([np.ones(1, np.float32), tail])


def noise(rng: Generator, hz: Gains, line: Gains, count: int) -> Samples:
    """Steady noise of level 1, coloured or a mains hum, heard through the gains `line`: float32 [count]."""
    if rng.random() < HUM:
        shape = np.full(len(hz), 1e-4, np.float32)
        mains_hz = rng.choice([50.0, 60.0]) * rng.uniform(0.998, 1.002)
        lines = np.arange(1, 12) * mains_hz
        shape[np.searchsorted(hz, lines)] = rng.uniform(0, 1, len(lines)) / np.arange(1, 12) ** rng.uniform(0.3, 1.5)
    else:
        slope = rng.choice(SLOPES) if rng.random() < 0.6 else rng.uniform(SLOPES[-1], SLOPES[0])
        shape = np.maximum(hz, np.float32(LOWEST_HZ)) ** np.float32(slope)
        if rng.random() < 0.3:
            shape = shape * tilt(rng, hz, 12)
    shape *= np.float32(count / np.sqrt(2 * np.sum(np.square(shape, dtype=np.float64)) * 2))
    normal = rng.standard_normal((2, len(hz)), dtype=np.float32)
    spectrum = (normal[0] + 1j * normal[1]) * (shape * line)
    return np.fft.irfft(spectrum, count).astype(np.float32)


def swell(rng: Generator, count: int, rate_hz: int) -> Samples:
    """A loudness that wanders between 1 and a tenth about once a second: float32 [count]."""
    points = max(2, round(count / rate_hz * rng.uniform(0.3, 3)))
    decibels = rng.uniform(-20, 0, points)
    coarse = np.interp(np.arange(0, count, 64), np.linspace(0, count, points), decibels)
    return np.repeat(10 ** (coarse / 20), 64)[:count].astype(np.float32)


def tilt(rng: Generator, hz: Gains, most_db: float = 8) -> Gains:
    """A smooth random curve over the logarithm of the frequency: gains [bins]."""
    knots = np.log([60.0, 150, 400, 1000, 2200, 4500, 8000])
    return _curve(
        np.interp(np.log(np.maximum(hz[:: len(hz) // 2048 + 1], 60)), knots, rng.uniform(-most_db, most_db, 7)), hz
    )


def band(rng: Generator, hz: Gains) -> Gains:
    """A telephone, or a microphone or codec that stops at 3 to 7 kHz: gains [bins]."""
    telephone = rng.random() < 0.5
    high_hz = rng.uniform(3100, 3800) if telephone else rng.uniform(3000, 7000)
    low_hz = rng.uniform(200, 350) if telephone else rng.choice([20.0, 80.0])
    some = np.maximum(hz[:: len(hz) // 2048 + 1], 1)
    order = rng.integers(4, 20)
    power = 1 / ((1 + (some / high_hz) ** (2 * order)) * (1 + (low_hz / some) ** 6))
    return _curve(10 * np.log10(power + 1e-10), hz)


def _curve(decibels: npt.NDArray[np.floating], hz: Gains) -> Gains:
    """Gains [bins] out of decibels at every so many bins."""
    step = len(hz) // 2048 + 1
    gains = (10 ** (decibels / 20)).astype(np.float32)
    every: Gains = np.interp(np.arange(len(hz)), np.arange(len(gains)) * step, gains).astype(np.float32)
    return every


def mu_law(samples: Samples) -> Samples:
    """Eight bits on a logarithmic scale and back, as telephone lines carry speech (G.711): float32 [N] in -1..1."""
    small = np.sign(samples) * np.log1p(255 * np.abs(samples)) / np.log(256)
    small = np.round(small * 127) / 127
    restored: Samples = (np.sign(small) * np.expm1(np.abs(small) * np.log(256)) / 255).astype(np.float32)
    return restored


def fast_length(count: int) -> int:
    """The next even length of the form 2^a 3^b 5^c, for which Fourier transforms are fast."""
    odd: list[int] = [3**b * 5**c for b in range(10) for c in range(7)]
    return min(n << max(1, ((count - 1) // n).bit_length()) for n in odd)


def _ratio(speech: float, other: float, snr_db: float) -> np.float32:
    return np.float32(speech / max(other, 1e-6) * 10 ** (-snr_db / 20))


def _decibels(decibels: float) -> np.float32:
    return np.float32(10 ** (decibels / 20))
