"""Waveforms in batches: what is given back, what is refused, and the same from transformers."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from earful import EncodecFeatureExtractor
from earful.errors import AudioError, CheckpointError

LONG, SHORT = (np.random.default_rng(n).uniform(-1, 1, 30 - 9 * n).astype(np.float32) for n in range(2))
RATE = {"sampling_rate": 24_000}


def test_defaults():
    extractor = EncodecFeatureExtractor()
    assert (extractor.feature_size, extractor.sampling_rate, extractor.padding_value) == (1, 24_000, 0.0)
    assert extractor.chunk_length is extractor.chunk_stride is None
    assert extractor.model_input_names == ("input_values", "padding_mask")


def test_a_batch_is_filled_with_silence():
    batch = EncodecFeatureExtractor()([LONG, SHORT], return_tensors="pt", **RATE)
    assert batch.input_values.shape == (2, 1, 30)
    assert batch.input_values.dtype == torch.float32
    assert torch.equal(batch.input_values[1, 0, :21], torch.from_numpy(SHORT))
    assert not batch.input_values[1, 0, 21:].any()
    assert batch.padding_mask.sum(-1).tolist() == [30, 21]
    assert batch.padding_mask.dtype == torch.int32


@pytest.mark.parametrize(
    "clip", [SHORT, SHORT.astype(np.float64), torch.from_numpy(SHORT), SHORT.tolist(), tuple(SHORT.tolist())]
)
def test_forms_of_a_clip(clip):
    extractor = EncodecFeatureExtractor()
    for audio in (clip, [clip]):
        batch = extractor(audio, return_tensors="np", **RATE)
        np.testing.assert_array_equal(batch.input_values, SHORT[None, None])
        assert batch.input_values.dtype == np.float32


def test_16_bit_samples_are_parts_of_full_scale():
    batch = EncodecFeatureExtractor()(np.array([-32768, 16384], np.int16), **RATE)
    assert batch.input_values[0].tolist() == [[-1.0, 0.5]]


def test_lists_where_no_tensors_are_wanted():
    batch = EncodecFeatureExtractor()([LONG, SHORT], padding=False, **RATE)
    assert list(batch) == ["input_values"]
    assert [values.shape for values in batch.input_values] == [(1, 30), (1, 21)]


def test_no_rate_is_worth_a_warning():
    with pytest.warns(UserWarning, match="expected sampling_rate beside the audio, got none: 24000 Hz?"):
        EncodecFeatureExtractor()(SHORT)


@pytest.mark.parametrize(
    "audio, options, message",
    [
        (SHORT, {"sampling_rate": 16_000}, "expected audio at 24000 Hz, got 16000 Hz"),
        (SHORT, {"padding": True, "truncation": True}, "expected padding or truncation, got both"),
        (
            SHORT,
            {"padding": "shortest"},
            "expected padding of a bool or longest, max_length, do_not_pad, got 'shortest'",
        ),
        (SHORT, {"padding": "max_length"}, "expected max_length beside truncation or padding='max_length', got none"),
        (SHORT, {"truncation": True}, "expected max_length beside truncation"),
        (SHORT, {"return_tensors": "tf"}, "expected return_tensors of 'pt', 'np' or None, got 'tf'"),
        ([LONG, SHORT], {"padding": False, "return_tensors": "pt"}, r"expected clips of one length.*got \[21, 30\]"),
        ([], {}, "expected a clip or a list of clips, got an empty list"),
        (SHORT[None], {}, r"expected audio of shape \[N\], got \[1, 21\]"),
        (np.array([1, 2]), {}, "expected mono float32 samples, got int64"),
        (np.array([1, np.nan]), {}, "expected finite samples, got nan"),
    ],
)
def test_refusals(audio, options, message):
    with pytest.raises(ValueError, match=message):
        EncodecFeatureExtractor()(audio, **{**RATE, **options})


def test_refused_channels_sides_and_arguments():
    with pytest.raises(AudioError, match=r"expected audio of shape \[2, N\], got \[21\]"):
        EncodecFeatureExtractor(feature_size=2)(SHORT, **RATE)
    with pytest.raises(ValueError, match="expected padding_side of 'left' or 'right', got 'both'"):
        EncodecFeatureExtractor(padding_side="both")
    with pytest.raises(TypeError, match="hop"):
        EncodecFeatureExtractor(hop=3)


def test_save_and_load(tmp_path):
    extractor = EncodecFeatureExtractor(2, 16_000, 0.5, 1.0, 0.25, padding_side="left", other={"colour": [1]})
    extractor.save_pretrained(tmp_path)
    assert EncodecFeatureExtractor.from_pretrained(tmp_path) == extractor
    assert extractor.to_dict()["feature_extractor_type"] == "EncodecFeatureExtractor"
    (tmp_path / "preprocessor_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected an object"):
        EncodecFeatureExtractor.from_pretrained(tmp_path)


CALLS = st.fixed_dictionaries(
    {},
    optional={
        "padding": st.sampled_from([None, True, False, "longest", "max_length", "do_not_pad"]),
        "truncation": st.booleans(),
        "max_length": st.integers(1, 40),
        "return_tensors": st.sampled_from(["np", "pt"]),
    },
)
MADE = st.fixed_dictionaries(
    {},
    optional={
        "padding_value": st.sampled_from([0.0, 0.5]),
        "padding_side": st.sampled_from(["left", "right"]),
        "chunk_length_s": st.sampled_from([5 / 24_000, 11 / 24_000]),
        "overlap": st.sampled_from([0.0, 0.3, 1.0]),
    },
)


@pytest.mark.reference
@given(MADE, CALLS, st.lists(st.integers(0, 30), min_size=1, max_size=3), st.sampled_from([1, 2]))
def test_as_transformers(made, call, lengths, channels):
    transformers = pytest.importorskip("transformers")
    rng = np.random.default_rng(0)
    clips = [rng.uniform(-1, 1, (channels, n) if channels > 1 else n).astype(np.float32) for n in lengths]
    audio = clips[0] if len(clips) == 1 else clips
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = outcome(transformers.EncodecFeatureExtractor(channels, **made), audio, call)
    ours = outcome(EncodecFeatureExtractor(channels, **made), audio, call)
    assert type(ours) is type(theirs), (ours, theirs)
    if isinstance(ours, str):
        return
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert isinstance(ours[name], list) or type(ours[name]) is type(theirs[name])
        for here, there in zip(ours[name], theirs[name], strict=True):
            assert here.dtype == there.dtype
            np.testing.assert_array_equal(here, there)


def outcome(extractor, audio, call):
    try:
        return dict(extractor(audio, **call, **RATE))
    except ValueError as error:
        return str(error)


@pytest.mark.reference
def test_files_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.EncodecFeatureExtractor(2, 16_000, chunk_length_s=1.5, overlap=0.1, padding_side="left")
    theirs.save_pretrained(tmp_path)
    ours = EncodecFeatureExtractor.from_pretrained(tmp_path)
    assert ours.to_dict() == theirs.to_dict()
    assert (ours.chunk_length, ours.chunk_stride) == (theirs.chunk_length, theirs.chunk_stride)
    ours.save_pretrained(tmp_path)
    assert transformers.EncodecFeatureExtractor.from_pretrained(tmp_path).to_dict() == theirs.to_dict()
