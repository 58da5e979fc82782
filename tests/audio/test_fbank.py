import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from earful.audio.fbank import fbank, frame_count, normalise

RATE = 16_000


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(clip: torch.Tensor, bins: int = 80) -> torch.Tensor:
    raw = fbank(clip[None], RATE, bins)
    return normalise(raw, torch.tensor([raw.shape[1]]))[0]


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bins", [24, 40, 80])
def test_equals_transformers(bins):
    from transformers import Speech2TextFeatureExtractor

    theirs = Speech2TextFeatureExtractor(feature_size=bins, num_mel_bins=bins)
    clips = [noise(length, seed=length) * loud for length, loud in [(400, 1), (9_013, 0.01), (16_000, 9), (561, 1)]]
    clips.append(torch.cat([torch.zeros(3000), noise(5000), torch.zeros(3000)]))
    expected = theirs([clip.numpy() for clip in clips], sampling_rate=RATE, padding=True, return_tensors="pt")
    lengths = torch.tensor([frame_count(len(clip), RATE) for clip in clips])
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    ours = normalise(fbank(padded, RATE, bins), lengths)
    mask = torch.arange(ours.shape[1]) < lengths[:, None]
    assert torch.equal(mask.int(), expected["attention_mask"].int())
    for i, length in enumerate(lengths.tolist()):
        if length > 1:  # of a single frame the reference makes NaN
            torch.testing.assert_close(ours[i], expected["input_features"][i], rtol=0, atol=1e-3)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_without_normalisation_equals_transformers():
    from transformers import Speech2TextFeatureExtractor

    clip = noise(7_777)
    theirs = Speech2TextFeatureExtractor(do_ceptral_normalize=False)(clip.numpy(), sampling_rate=RATE)
    expected = torch.from_numpy(np.asarray(theirs["input_features"][0]))
    torch.testing.assert_close(fbank(clip[None], RATE, 80)[0], expected, rtol=0, atol=1e-5)
    for means, variances in [(True, False), (False, True)]:
        extractor = Speech2TextFeatureExtractor(normalize_means=means, normalize_vars=variances)
        expected = torch.from_numpy(np.asarray(extractor(clip.numpy(), sampling_rate=RATE)["input_features"][0]))
        raw = fbank(clip[None], RATE, 80)
        ours = normalise(raw, torch.tensor([raw.shape[1]]), means, variances)[0]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-3)


@given(st.integers(0, 2000))
def test_whole_frames_only(length):
    raw = fbank(noise(1, length), RATE, 24)
    assert raw.shape == (1, frame_count(length, RATE), 24)
    assert frame_count(length, RATE) == (0 if length < 400 else 1 + (length - 400) // 160)


@pytest.mark.parametrize("clip", [torch.zeros(4000), torch.full((4000,), 0.25), torch.zeros(400), torch.zeros(0)])
def test_what_does_not_change_becomes_zero(clip):
    found = features(clip)
    assert found.isfinite().all()
    assert found.abs().sum() == 0 if len(found) else found.shape == (0, 80)


def test_a_single_frame_becomes_zero():
    assert (features(noise(559)) == 0).all()


def test_a_batch_equals_its_clips():
    clips = [noise(length, seed=length) for length in (400, 1234, 8000, 10)]
    lengths = torch.tensor([frame_count(len(clip), RATE) for clip in clips])
    batch = normalise(fbank(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), RATE, 80), lengths)
    for row, clip, length in zip(batch, clips, lengths.tolist(), strict=True):
        torch.testing.assert_close(row[:length], features(clip), rtol=0, atol=1e-5)
        assert (row[length:] == 0).all()


def test_loudness_is_normalised_away():
    clip = noise(8000)
    torch.testing.assert_close(features(clip), features(clip * 0.3), rtol=0, atol=1e-4)
    raw = fbank(torch.stack([clip, clip * 0.5]), RATE, 80)
    torch.testing.assert_close(raw[0] - raw[1], torch.full_like(raw[0], 2 * np.log(2)), rtol=0, atol=1e-4)


def test_a_tone_lights_the_filter_at_its_frequency():
    time_s = torch.arange(RATE, dtype=torch.float64) / RATE

    def loudest(hz: float) -> int:
        return int(fbank(torch.sin(2 * torch.pi * hz * time_s)[None], RATE, 80)[0].mean(0).argmax())

    places = [loudest(hz) for hz in (100, 300, 1000, 3000, 7000)]
    assert places == sorted(set(places))
    assert abs(places[2] - 28) <= 1  # 1000 Hz is 1000 mel of 2840, above 32 mel at 20 Hz


def test_dither_is_seeded_noise():
    clip = torch.zeros(1, 4000)
    first, again = (fbank(clip, RATE, 80, 1.0, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert (first - fbank(clip, RATE, 80)).mean() > 5  # of the logarithm


def test_another_shape_is_refused():
    for samples in (torch.zeros(400), torch.zeros(1, 400, dtype=torch.int16)):
        with pytest.raises(ValueError, match=r"expected float samples of shape \[B, N\], got"):
            fbank(samples, RATE, 80)
