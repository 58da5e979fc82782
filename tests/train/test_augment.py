"""Augmentation keeps lengths, times and bounds, and does what its names say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from earful.audio.mel import log_mel, mel_edges
from earful.train.augment import (
    band,
    change_speed,
    degrade,
    fast_length,
    impulse_response,
    mask_spectrogram,
    mu_law,
    noise,
    speech_level,
    swell,
    tilt,
    warp_spectrogram,
)

RATE_HZ = 16_000


def tone(hz: float, seconds: float = 1.0, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


@pytest.mark.parametrize("factor", [0.88, 1.0, 1.14])
def test_speed_moves_pitch_and_length_together(factor):
    changed = change_speed(tone(500), factor)
    assert changed.dtype == np.float32
    assert len(changed) == round(RATE_HZ / factor)
    np.testing.assert_allclose(changed, tone(500 * factor, 1 / factor)[: len(changed)], atol=0.01)


def test_an_example_keeps_its_length_bounds_and_times():
    """A click in silence stays where it is, through every room, microphone and line."""
    click = np.zeros(4 * RATE_HZ, np.float32)
    click[20_000:20_040] = 0.6
    places = []
    for seed in range(60):
        heard = degrade(np.random.default_rng(seed), click, RATE_HZ, lambda: tone(300, 4))
        assert heard.shape == click.shape
        assert heard.dtype == np.float32
        assert np.isfinite(heard).all()
        assert np.abs(heard).max() <= 1
        places.append(int(np.abs(heard).argmax()))
    # at a very low level eight bits leave nothing, and at 5 dB noise may be as loud as so short a click
    assert np.mean([abs(place - 20_020) < 80 for place in places]) > 0.8
    assert np.abs(click).max() == np.float32(0.6)  # the original is left alone


def test_examples_differ_and_repeat_by_their_generator():
    speech = tone(300, 2)
    one, again, other = (degrade(np.random.default_rng(s), speech, RATE_HZ, lambda: speech) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_silence_stays_finite():
    silence = np.zeros(RATE_HZ, np.float32)
    for seed in range(20):
        assert np.isfinite(degrade(np.random.default_rng(seed), silence, RATE_HZ, lambda: silence)).all()


def test_the_level_of_speech_does_not_count_the_silence_around_it():
    alone = speech_level(tone(300), RATE_HZ)
    assert alone == pytest.approx(0.5 / 2**0.5, rel=0.01)
    padded = np.concatenate([np.zeros(3 * RATE_HZ, np.float32), tone(300)])
    assert speech_level(padded, RATE_HZ) == pytest.approx(alone, rel=0.01)


def test_noise_has_level_one_in_every_colour():
    hz = np.fft.rfftfreq(RATE_HZ, 1 / RATE_HZ).astype(np.float32)
    for seed in range(30):
        made = noise(np.random.default_rng(seed), hz, np.ones_like(hz), RATE_HZ)
        assert float(np.sqrt(np.mean(made**2))) == pytest.approx(1, rel=0.7)  # a hum of few lines varies


def test_rooms_begin_with_the_direct_sound_and_decay():
    for seed in range(10):
        room = impulse_response(np.random.default_rng(seed), RATE_HZ)
        assert room[0] == 1
        assert 0.1 * RATE_HZ - 1 <= len(room) <= 0.6 * RATE_HZ
        tail = np.square(room[1:])
        assert not tail[:10].any()
        assert tail[: len(tail) // 2].sum() > 10 * tail[len(tail) // 2 :].sum()


def test_bands_pass_the_voice_and_stop_above():
    hz = np.linspace(0, 8000, 5001, dtype=np.float32)
    for seed in range(20):
        gains = band(np.random.default_rng(seed), hz)
        assert gains.shape == hz.shape
        assert gains[np.searchsorted(hz, 1000)] > 0.95
        assert gains[-1] < 0.8
        assert (np.diff(gains[np.searchsorted(hz, 1500) :]) <= 1e-5).all()


def test_tilts_are_smooth_and_bounded():
    hz = np.linspace(0, 8000, 5001, dtype=np.float32)
    gains = 20 * np.log10(tilt(np.random.default_rng(0), hz))
    assert np.abs(gains).max() <= 8.01
    assert gains.std() > 0.5


def test_mu_law_is_close_and_keeps_small_sounds():
    x = np.linspace(-1, 1, 10_001, dtype=np.float32)
    assert np.abs(mu_law(x) - x).max() < 0.025
    assert len(np.unique(mu_law(x))) <= 255
    small = tone(300, level=0.001)
    assert (mu_law(small) - small).std() < 0.2 * small.std()


def test_swells_stay_between_a_tenth_and_one():
    curve = swell(np.random.default_rng(0), 3 * RATE_HZ, RATE_HZ)
    assert len(curve) == 3 * RATE_HZ
    assert 0.1 <= curve.min() < 0.5 < curve.max() <= 1


def test_fast_lengths_are_even_long_enough_and_close():
    for count in (1, 2, 3, 100, 12_345, 256_000, 265_601):
        length = fast_length(count)
        assert count <= length <= max(2, 1.05 * count + 2)
        assert length % 2 == 0
        for prime in (2, 3, 5):
            while length % prime == 0:
                length //= prime
        assert length == 1


def test_masks_level_whole_bands_and_short_moments_of_most_examples():
    mel = np.random.default_rng(0).standard_normal((80, 1000)).astype(np.float32)
    shares = []
    for seed in range(60):
        masked = mask_spectrogram(np.random.default_rng(seed), mel, 0.02)
        level = masked == mel.mean()
        assert ((masked == mel) | level).all()
        bands, moments = level.all(axis=1), level.all(axis=0)
        assert (level == (bands[:, None] | moments)).all()
        assert bands.sum() <= 2 * 16
        assert moments.mean() < 0.2
        shares.append(level.mean())
    assert 0.3 < np.mean(np.array(shares) == 0) < 0.6
    assert np.mean(shares) < 0.2
    assert np.isfinite(mel).all()
    assert not (mel == mel.mean()).any()  # the original is left alone


def test_a_warped_tone_is_another_tone():
    mel = log_mel(torch.from_numpy(tone(1000))[None], RATE_HZ, 160, 400, 80, 1.5, center=False)[0].numpy()
    peaks_hz = mel_edges(RATE_HZ, 80)[1:-1].numpy()
    heard_hz = []
    for seed in range(40):
        warped = warp_spectrogram(np.random.default_rng(seed), mel, peaks_hz)
        assert warped.shape == mel.shape
        assert warped.dtype == np.float32
        heard_hz.append(peaks_hz[warped.mean(axis=1).argmax()])
    same = np.isclose(heard_hz, peaks_hz[mel.mean(axis=1).argmax()])
    assert 0.3 < same.mean() < 0.8
    assert 850 < min(heard_hz) < 900
    assert 1100 < max(heard_hz) < 1170
