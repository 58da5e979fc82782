import copy
import pickle

import numpy as np
import pytest
import torch

from earful import BatchFeature, VoxtralRealtimeFeatureExtractor
from earful.errors import AudioError
from earful.testing import write_tiny

CLIP = 0.1 * np.random.default_rng(0).standard_normal(3000).astype(np.float32)


def test_batch_feature_is_a_dictionary_with_attributes():
    batch = BatchFeature({"a": [1, 2], "b": torch.ones(2)})
    assert batch["a"] == batch.a == [1, 2]
    assert list(batch.keys()) == ["a", "b"]
    assert dict(**batch) == dict(batch.items())
    batch["c"] = 3
    assert batch.c == 3
    with pytest.raises(AttributeError, match="missing"):
        batch.missing  # noqa: B018
    for again in (copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert again.a == [1, 2]


def test_tensor_types():
    data = {"ids": [[1, 2]], "delay": 6, "x": torch.ones(2)}
    plain, tensors, arrays = (BatchFeature(data, kind) for kind in (None, "pt", "np"))
    assert plain.data == data
    assert [tensors.ids.dtype, tensors.delay.dtype, tensors.x.dtype] == [torch.int64, torch.int64, torch.float32]
    assert tensors.delay.shape == ()
    assert [type(value) for value in arrays.values()] == [np.ndarray] * 3
    with pytest.raises(ValueError, match="expected return_tensors of 'pt', 'np' or None, got 'tf'"):
        BatchFeature(data, "tf")


@pytest.mark.parametrize(
    "args, options, dtype",
    [
        (["cpu"], {"dtype": torch.bfloat16}, torch.bfloat16),
        (["cpu", torch.float64], {}, torch.float64),
        ([torch.float16], {}, torch.float16),
        ([], {"dtype": torch.float16}, torch.float16),
        (["cpu"], {}, torch.float32),
    ],
)
def test_only_floats_change_their_type(args, options, dtype):
    batch = BatchFeature({"ids": torch.tensor([1]), "x": torch.ones(2), "text": "as it is"})
    assert batch.to(*args, **options) is batch
    assert batch.x.dtype == dtype
    assert batch.ids.dtype == torch.int64
    assert batch.text == "as it is"


def test_all_tensors_move():
    for args, options in ([["meta"], {}], [[], {"device": "meta", "dtype": torch.float16}]):
        batch = BatchFeature({"ids": torch.tensor([1]), "x": torch.ones(2)}).to(*args, **options)
        assert batch.ids.device.type == batch.x.device.type == "meta"


def test_a_type_alone_moves_nothing():
    batch = BatchFeature({"ids": torch.ones(1, dtype=torch.int64, device="meta"), "x": torch.ones(2, device="meta")})
    batch.to(torch.float16)
    assert batch.ids.device.type == batch.x.device.type == "meta"
    assert batch.x.dtype == torch.float16


def test_documented_defaults():
    extractor = VoxtralRealtimeFeatureExtractor()
    assert vars(extractor) == {
        "feature_size": 128,
        "sampling_rate": 16000,
        "hop_length": 160,
        "n_fft": 400,
        "win_length": 400,
        "padding_value": 0.0,
        "global_log_mel_max": 1.5,
    }


@pytest.mark.parametrize("clip", [CLIP, CLIP.astype(np.float64), torch.from_numpy(CLIP), CLIP.tolist()])
def test_forms_of_a_clip(clip):
    extractor = VoxtralRealtimeFeatureExtractor(feature_size=20)
    expected = extractor(CLIP).input_features
    assert expected.shape == (1, 20, 18)
    assert torch.equal(extractor(clip, sampling_rate=16000).input_features, expected)
    both = extractor([clip, clip], return_tensors="np").input_features
    np.testing.assert_allclose(both, expected.numpy().repeat(2, 0), atol=1e-6)


def test_rows_and_pieces():
    extractor = VoxtralRealtimeFeatureExtractor(feature_size=20)
    rows = extractor(np.stack([CLIP, CLIP[::-1]])).input_features
    assert rows.shape == (2, 20, 18)
    uneven = extractor([CLIP, CLIP[:1000]]).input_features
    assert (uneven[1, :, 8:] == uneven[1, :, 8:].min()).all()
    assert extractor(CLIP, center=False).input_features.shape == (1, 20, (3000 - 400) // 160)


def test_refusals():
    extractor = VoxtralRealtimeFeatureExtractor()
    with pytest.raises(ValueError, match="expected audio at 16000 Hz, got 44100 Hz"):
        extractor(CLIP, sampling_rate=44100)
    with pytest.raises(ValueError, match="expected padding of True or 'longest', got False"):
        extractor(CLIP, padding=False)
    with pytest.raises(TypeError, match="return_attention_mask"):
        extractor(CLIP, return_attention_mask=True)
    with pytest.raises(AudioError, match="got int64"):
        extractor([1, 2, 3])
    with pytest.raises(ValueError, match="expected padding_value to be 0.0, got 1.0"):
        VoxtralRealtimeFeatureExtractor(padding_value=1.0)


def test_of_a_checkpoint(tmp_path):
    folder = write_tiny("voxtral", "mistral", path=tmp_path, audio={"hop": 320, "window": 512, "log_max": 1.0})
    extractor = VoxtralRealtimeFeatureExtractor.from_pretrained(folder)
    assert (extractor.hop_length, extractor.n_fft, extractor.win_length) == (320, 512, 512)
    assert (extractor.feature_size, extractor.global_log_mel_max) == (24, 1.0)
