import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from earful.audio.resample import Resampler, resample
from earful.errors import AudioError, StreamClosed

RATES = [4_000, 8_000, 11_025, 15_999, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000, 384_000]


def noise(count: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    from_hz=st.sampled_from(RATES),
    to_hz=st.sampled_from(RATES),
    chunks=st.lists(st.integers(0, 3000), max_size=8),
    seed=st.integers(0, 9),
)
def test_any_chunking_gives_the_whole(from_hz, to_hz, chunks, seed):
    signal = noise(sum(chunks), seed)
    resampler, given_out, at = Resampler(from_hz, to_hz), [], 0
    for chunk in chunks:
        given_out.append(resampler.feed(signal[at : at + chunk]))
        at += chunk
    given_out.append(resampler.finish())
    streamed = np.concatenate(given_out)
    assert streamed.dtype == np.float32
    assert len(streamed) == int(np.floor(len(signal) * to_hz / from_hz + 0.5))
    np.testing.assert_array_equal(streamed, resample(signal, from_hz, to_hz))
    if len(signal) and from_hz != to_hz:
        once = soxr.resample(signal, from_hz, to_hz, quality="HQ")
        np.testing.assert_allclose(streamed[: len(once)], once[: len(streamed)], rtol=0, atol=1e-6)


@pytest.mark.parametrize("from_hz, to_hz", [(48_000, 16_000), (44_100, 16_000), (8_000, 24_000)])
def test_a_tone_stays_where_it_was(from_hz, to_hz):
    seconds = 1.0
    tone = np.sin(2 * np.pi * 1_000 * np.arange(int(seconds * from_hz)) / from_hz)
    wanted = np.sin(2 * np.pi * 1_000 * np.arange(int(seconds * to_hz)) / to_hz)
    middle = slice(to_hz // 10, -to_hz // 10)  # both ends ring
    np.testing.assert_allclose(resample(tone, from_hz, to_hz)[middle], wanted[middle], rtol=0, atol=1e-4)


def test_what_the_new_rate_cannot_hold_is_removed():
    tone = np.sin(2 * np.pi * 11_000 * np.arange(48_000) / 48_000)
    assert np.abs(resample(tone, 48_000, 16_000)[2_000:-2_000]).max() < 1e-4


def test_equal_rates_pass_through_at_once():
    signal = noise(100)
    resampler = Resampler(16_000, 16_000)
    assert np.array_equal(resampler.feed(signal), signal)
    assert len(resampler.finish()) == 0


def test_the_output_does_not_wait_for_the_end():
    resampler = Resampler(48_000, 16_000)
    given_out = sum(len(resampler.feed(noise(480))) for _ in range(200))  # 2 s in chunks of 10 ms
    assert given_out > 2 * 16_000 - 1_600  # within 100 ms


@pytest.mark.parametrize("excess", [-2, 3])
def test_the_length_is_exact_where_the_library_is_off(monkeypatch, excess):
    class Off:
        def __init__(self, *sizes, **options):
            pass

        def resample_chunk(self, samples, last=False):
            return np.ones(100 + excess if last else 0, np.float32)

    monkeypatch.setattr(soxr, "ResampleStream", Off)
    whole = resample(noise(200), 2, 1)
    assert len(whole) == 100
    assert whole.sum() == min(100, 100 + excess)


@pytest.mark.parametrize("rates", [(0, 16_000), (16_000, -1), (16_000.0, 8_000)])
def test_refuses_impossible_rates(rates):
    with pytest.raises(AudioError, match="expected a rate of whole hertz"):
        Resampler(*rates)


@pytest.mark.parametrize("to_hz", [16_000, 8_000])
def test_refuses_samples_that_are_not_mono_float(to_hz):
    with pytest.raises(AudioError, match="expected mono float32 samples, got int16"):
        Resampler(16_000, to_hz).feed(np.zeros(10, np.int16))
    with pytest.raises(AudioError, match="expected finite samples, got nan"):
        Resampler(16_000, to_hz).feed(np.full(10, np.nan))


@pytest.mark.parametrize("to_hz", [16_000, 8_000])
def test_a_finished_stream_is_closed(to_hz):
    resampler = Resampler(16_000, to_hz)
    resampler.finish()
    with pytest.raises(StreamClosed):
        resampler.feed(noise(1))
    with pytest.raises(StreamClosed):
        resampler.finish()
