import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earful.audio import mel
from earful.audio.frames import Framer
from earful.audio.mel import log_mel, mel_filters

SIZES = [(16000, 160, 400, 128, 8), (16000, 320, 512, 80, 4), (24000, 100, 301, 20, 3)]  # rate, hop, window, bins, slot


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.reference
@pytest.mark.parametrize("log_max", [1.5, 2.3, None])
@pytest.mark.parametrize("loudness", [0.01, 0.1, 0.9])
def test_equals_transformers(log_max, loudness):
    transformers = pytest.importorskip("transformers")
    reference = transformers.VoxtralRealtimeFeatureExtractor(global_log_mel_max=log_max)
    samples = loudness * noise(2, 16077) / 0.1
    samples[1, 5000:] = 0
    for center in (True, False):
        # Without centring the reference drops a frame that we keep.
        theirs = reference._torch_extract_fbank_features(samples, center=center)
        ours = log_mel(samples, 16000, 160, 400, 128, log_max, center)
        if center:
            assert ours.shape == theirs.shape
        elif log_max is None:
            continue  # the frame that it drops counts in its maximum, or not: nothing to compare
        torch.testing.assert_close(ours[..., : theirs.shape[-1]], theirs, rtol=0, atol=1e-6)


@pytest.mark.reference
@pytest.mark.parametrize(
    "rate_hz, window, bins", [(16000, 400, 128), (16000, 512, 80), (24000, 300, 20), (8000, 200, 40)]
)
def test_filters_equal_transformers(rate_hz, window, bins):
    audio_utils = pytest.importorskip("transformers.audio_utils")
    theirs = audio_utils.mel_filter_bank(
        1 + window // 2, bins, 0.0, rate_hz / 2, rate_hz, norm="slaney", mel_scale="slaney"
    )
    np.testing.assert_allclose(mel_filters(rate_hz, window, bins).numpy(), theirs, rtol=1e-6, atol=1e-9)


def test_filters_are_triangles_of_unit_area():
    filters = mel_filters(16000, 16000, 80)  # a bin per hertz, so that sums are integrals
    assert filters.shape == (8001, 80)
    torch.testing.assert_close(filters.sum(0), torch.ones(80), rtol=5e-3, atol=0)
    peaks = filters.argmax(0)
    assert (peaks.diff() > 0).all()
    assert (filters[[0, 8000]] == 0).all()
    below = peaks[peaks < 990].diff()
    assert below.max() - below.min() <= 1  # linear below the bend at 1 kHz


@pytest.mark.parametrize("rate_hz, hop, window, bins, slot", SIZES)
def test_a_tone_lights_the_filter_at_its_frequency(rate_hz, hop, window, bins, slot):
    filters = mel_filters(rate_hz, window, bins)
    tone_hz = rate_hz / window * (window // 8)  # exactly a bin
    time_s = torch.arange(rate_hz // 4, dtype=torch.float64) / rate_hz
    tone = torch.sin(2 * torch.pi * tone_hz * time_s).float()[None]
    features = log_mel(tone, rate_hz, hop, window, bins, 1.5, center=False)
    loudest = features[0].argmax(0)
    assert ((loudest - filters[window // 8].argmax()).abs() <= 1).all()  # narrow filters share a tone's main lobe


def test_silence_is_the_floor():
    features = log_mel(torch.zeros(2, 1600), 16000, 160, 400, 128, 1.5, center=True)
    assert features.shape == (2, 128, 10)
    assert (features == -0.625).all()


def test_maximum_of_the_tensor():
    samples = noise(2, 3200)
    samples[1, :1600] = 0
    features = log_mel(samples, 16000, 160, 400, 128, None, center=True)
    assert features.max() - features.min() == pytest.approx(2.0)  # 8 decades, over 4
    assert features[1].max() != features[0].max()
    fixed = log_mel(samples, 16000, 160, 400, 128, 100.0, center=True)
    assert (fixed == (92.0 + 4.0) / 4.0).all()


@pytest.mark.parametrize("rate_hz, hop, window, bins, slot", SIZES)
@pytest.mark.parametrize("extra", [0, 1, 99])
def test_number_of_frames(rate_hz, hop, window, bins, slot, extra):
    samples = noise(3, 7 * hop + window + extra)
    for center, frames in ((True, samples.shape[1] // hop), (False, (samples.shape[1] - window) // hop + 1)):
        features = log_mel(samples, rate_hz, hop, window, bins, 1.5, center)
        assert features.shape == (3, bins, frames)
        assert features.dtype == torch.float32


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.sampled_from(SIZES),
    chunks=st.lists(st.integers(0, 3000), max_size=10),
    silence=st.integers(1, 2),
    seed=st.integers(0, 9),
)
def test_streams_like_offline(sizes, chunks, silence, seed):
    """Blocks of a Framer give the features of the whole signal between zeros, however it was cut.

    The spectra are equal to the bit, frame by frame; the filters are a matrix product that may add in another order
    for another number of frames: relative errors of 1e-7 on sums of positive terms, under a logarithm over 4.
    """
    rate_hz, hop, window, bins, mels_per_slot = sizes
    signal = noise(sum(chunks), seed=seed)
    before = window // 2
    framer = Framer(mels_per_slot * hop, before, after=window - before - hop)
    pieces, at = [], 0
    for chunk in [*chunks, None]:
        if chunk is None:
            framer.finish(silence)
        else:
            framer.feed(signal[at : at + chunk].numpy())
            at += chunk
        if framer.ready:
            block = torch.from_numpy(framer.take(framer.ready))[None]
            pieces.append(log_mel(block, rate_hz, hop, window, bins, 1.5, center=False))
    streamed = torch.cat(pieces, dim=-1)

    slots = -(-len(signal) // (mels_per_slot * hop)) + silence
    padded = torch.zeros(1, before + slots * mels_per_slot * hop + window)
    padded[0, before : before + len(signal)] = signal
    whole = log_mel(padded, rate_hz, hop, window, bins, 1.5, center=False)
    assert streamed.shape[-1] == slots * mels_per_slot
    torch.testing.assert_close(streamed, whole[..., : streamed.shape[-1]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate_hz, hop, window, bins, slot", SIZES)
def test_centred_equals_uncentred_between_silences(rate_hz, hop, window, bins, slot):
    silence = window // 2 + 1
    signal = torch.nn.functional.pad(noise(2, 20 * hop), (silence, silence))
    centred = log_mel(signal, rate_hz, hop, window, bins, 1.5, center=True)
    extended = torch.nn.functional.pad(signal, (window // 2, window // 2))
    uncentred = log_mel(extended, rate_hz, hop, window, bins, 1.5, center=False)
    torch.testing.assert_close(centred, uncentred[..., : centred.shape[-1]], rtol=0, atol=1e-6)


def test_cached_tensors_forget_their_first_callers_mode():
    mel._cached.cache_clear()
    mel_filters.cache_clear()
    with torch.inference_mode(), torch.device("meta"):
        log_mel(torch.zeros(1, 400, device="cpu"), 16000, 160, 400, 128, 1.5, center=False)
    samples = noise(1, 400).requires_grad_()
    log_mel(samples, 16000, 160, 400, 128, 1.5, center=False).sum().backward()
    assert samples.grad.abs().sum() > 0


def test_compiles_to_one_graph():
    compiled = torch.compile(log_mel, fullgraph=True, backend="eager")
    mel._cached.cache_clear()
    for _ in range(2):
        samples = noise(1, 1520)
        torch.testing.assert_close(
            compiled(samples, 16000, 160, 400, 128, 1.5, False), log_mel(samples, 16000, 160, 400, 128, 1.5, False)
        )
    assert mel._cached.cache_info().misses == 1


@pytest.mark.parametrize(
    "samples, center, message",
    [
        (torch.zeros(400), True, r"got torch.float32 \[400\]"),
        (torch.zeros(1, 400, dtype=torch.int16), True, r"got torch.int16 \[1, 400\]"),
        (torch.zeros(1, 200), True, "expected at least 201 samples, got 200"),
        (torch.zeros(1, 399), False, "expected at least 400 samples, got 399"),
    ],
)
def test_refuses(samples, center, message):
    with pytest.raises(ValueError, match=message):
        log_mel(samples, 16000, 160, 400, 128, 1.5, center)


def test_refuses_impossible_filters():
    with pytest.raises(ValueError, match="expected rate_hz >= 1, window >= 2, bins >= 1, got 16000, 1, 80"):
        mel_filters(16000, 1, 80)
