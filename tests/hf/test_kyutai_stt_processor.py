import json

import numpy as np
import pytest
import torch

import earful
from earful import AutoFeatureExtractor, AutoProcessor, KyutaiSpeechToTextFeatureExtractor, KyutaiSpeechToTextProcessor
from earful.errors import AudioError, CheckpointError
from earful.hf.kyutai_stt_processor import KyutaiSpeechToTextTokenizer
from earful.testing import tiny_sentencepiece, write_tiny
from earful.text.tokenizers import JsonTokenizer

RATE = 24_000


def clip(samples, seed=0):
    return (0.3 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return KyutaiSpeechToTextTokenizer(JsonTokenizer(tiny_sentencepiece()))


@pytest.fixture(scope="module")
def processor(tokenizer):
    extractor = KyutaiSpeechToTextFeatureExtractor(audio_delay_seconds=2.5, audio_silence_prefix_seconds=1.0)
    return KyutaiSpeechToTextProcessor(extractor, tokenizer)


def test_documented_defaults_in_the_documented_order():
    expected = (1, 24000, 0.0, None, None, 0.0, 0.0)
    made = KyutaiSpeechToTextFeatureExtractor(*expected)
    assert made == KyutaiSpeechToTextFeatureExtractor()
    names = ("feature_size", "sampling_rate", "padding_value", "chunk_length_s", "overlap")
    names += ("audio_delay_seconds", "audio_silence_prefix_seconds")
    assert tuple(getattr(made, name) for name in names) == expected
    assert made.model_input_names == ("input_values", "padding_mask")


@pytest.mark.parametrize(
    "delay, prefix, before, behind",
    [(2.5, 1.0, 24_000, 84_000), (0.5, 0.0, 0, 36_000), (0.0, 0.0, 0, 24_000), (None, None, 0, 24_000)],
)
def test_silences_of_the_published_models(delay, prefix, before, behind):
    extractor = KyutaiSpeechToTextFeatureExtractor(audio_delay_seconds=delay, audio_silence_prefix_seconds=prefix)
    long, short = clip(5_000), clip(3_210, 1)
    batch = extractor([long, short], return_tensors="pt", sampling_rate=RATE)
    assert list(batch) == ["input_values", "padding_mask"]
    assert batch.input_values.shape == (2, 1, before + 5_000 + behind)
    assert batch.input_values.dtype == torch.float32
    assert batch.padding_mask.shape == (2, before + 5_000 + behind)
    for row, samples in enumerate([long, short]):
        values, mask = batch.input_values[row, 0].numpy(), batch.padding_mask[row].numpy()
        assert np.array_equal(values[before : before + len(samples)], samples)
        assert not values[:before].any()
        assert not values[before + len(samples) :].any()
        assert np.array_equal(np.flatnonzero(mask), np.arange(before, before + len(samples)))


def test_clips_that_differ_in_length_need_no_padding():
    extractor = KyutaiSpeechToTextFeatureExtractor(audio_delay_seconds=0.5)
    batch = extractor([clip(100), clip(70)], padding=False, sampling_rate=RATE)
    assert list(batch) == ["input_values"]
    assert [values.shape for values in batch.input_values] == [(1, 36_100), (1, 36_070)]
    with pytest.raises(ValueError, match="padding"):
        extractor([clip(100), clip(70)], padding=False, return_tensors="pt", sampling_rate=RATE)


def test_lengths_are_of_the_audio_alone():
    extractor = KyutaiSpeechToTextFeatureExtractor(audio_silence_prefix_seconds=1.0)
    cut = extractor([clip(100), clip(70)], padding=False, truncation=True, max_length=50, sampling_rate=RATE)
    assert [values.shape for values in cut.input_values] == [(1, RATE + 50 + RATE)] * 2
    filled = extractor(clip(100), padding="max_length", max_length=150, return_tensors="np", sampling_rate=RATE)
    assert filled.input_values.shape == (1, 1, RATE + 150 + RATE)
    assert filled.padding_mask.sum() == 100


def test_two_channels():
    extractor = KyutaiSpeechToTextFeatureExtractor(feature_size=2)
    stereo = np.stack([clip(100), clip(100, 1)])
    batch = extractor(stereo, return_tensors="np", sampling_rate=RATE)
    assert batch.input_values.shape == (1, 2, 100 + RATE)
    assert np.array_equal(batch.input_values[0, :, :100], stereo)


@pytest.mark.parametrize("form", ["array", "list", "tensor", "int16", "float64", "clips", "tensors"])
def test_audio_in_any_form(processor, form):
    samples = np.round(clip(500) * 32767).clip(-32768, 32767)
    floats = (samples / 32768).astype(np.float32)
    given = {
        "array": floats,
        "list": floats.tolist(),
        "tensor": torch.from_numpy(floats),
        "int16": samples.astype(np.int16),
        "float64": floats.astype(np.float64),
        "clips": [floats],
        "tensors": [torch.from_numpy(floats)],
    }[form]
    inputs = processor(given)
    assert isinstance(inputs.input_values, torch.Tensor)
    torch.testing.assert_close(inputs.input_values[0, 0, RATE : RATE + 500], torch.from_numpy(floats), rtol=0, atol=0)


def test_inputs_of_the_processor(processor):
    inputs = processor([clip(500), clip(300)], sampling_rate=RATE, padding=True)
    assert list(inputs) == ["input_values", "padding_mask"]
    moved = inputs.to("cpu", dtype=torch.bfloat16)
    assert moved is inputs
    assert moved.input_values.dtype == torch.bfloat16
    assert not moved.padding_mask.is_floating_point()
    assert isinstance(processor(clip(500), return_tensors="np").input_values, np.ndarray)
    assert isinstance(processor(clip(500), return_tensors=None).input_values, list)


def test_text(processor):
    inputs = processor(text=["the dog", "one"])
    ids = processor.tokenizer.encode("the dog")
    assert inputs.input_ids[0].tolist() == ids
    assert inputs.input_ids[1].tolist() == [3] * (len(ids) - 1) + processor.tokenizer.encode("one")
    assert inputs.attention_mask.sum(-1).tolist() == [len(ids), 1]
    assert processor.batch_decode(inputs.input_ids, skip_special_tokens=True) == ["the dog", "one"]


def test_transcripts(processor, tokenizer):
    ids = [319 + 1, 3, 3, 0, *tokenizer.encode("the dog"), 3, 0, *tokenizer.encode("été, fox"), 3]
    start = tokenizer.vocab_size
    assert processor.decode([start, *ids[1:]], skip_special_tokens=True) == "the dog été, fox"
    assert processor.decode(torch.tensor([48_000, *ids[1:]]), skip_special_tokens=True) == "the dog été, fox"
    assert processor.decode(ids[1:5]) == "<pad><pad><unk> the"
    assert processor.decode([start, 3, 3], skip_special_tokens=True) == ""
    assert processor.batch_decode(torch.tensor([ids, ids]), skip_special_tokens=True) == ["the dog été, fox"] * 2
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (3, 1, 2)
    assert tokenizer.all_special_ids == [0, 1, 2, 3]
    assert len(tokenizer) == tokenizer.vocab_size == tiny_sentencepiece().vocab


def test_saved_and_read_again(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    for again in (
        KyutaiSpeechToTextProcessor.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(str(tmp_path)),
    ):
        assert type(again) is KyutaiSpeechToTextProcessor
        assert again.feature_extractor.to_dict() == {
            **processor.feature_extractor.to_dict(),
            **{key: value for key, value in again.feature_extractor.other.items()},
        }
        assert again.tokenizer.core.pieces.to_json() == processor.tokenizer.core.pieces.to_json()
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(extractor) is KyutaiSpeechToTextFeatureExtractor
    assert (extractor.audio_delay_seconds, extractor.audio_silence_prefix_seconds) == (2.5, 1.0)


def test_settings_in_one_file(processor, tmp_path):
    """As current releases of transformers save a processor."""
    processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text(encoding="utf-8"))
    (tmp_path / "preprocessor_config.json").unlink()
    both = {"feature_extractor": settings, "processor_class": "KyutaiSpeechToTextProcessor"}
    (tmp_path / "processor_config.json").write_text(json.dumps(both), encoding="utf-8")
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again.feature_extractor.audio_delay_seconds == 2.5


@pytest.mark.parametrize("layout", ["hf", "kyutai"])
def test_of_a_checkpoint(layout, tmp_path):
    folder = write_tiny("kyutai_stt", layout, path=tmp_path, model={"delay_s": 1.2, "prefix_s": 0.24})
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor) is KyutaiSpeechToTextProcessor
    extractor = processor.feature_extractor
    assert (extractor.audio_delay_seconds, extractor.audio_silence_prefix_seconds) == (1.2, 0.24)
    assert extractor.sampling_rate == 4_800
    assert AutoFeatureExtractor.from_pretrained(folder) == extractor
    assert processor.decode(processor.tokenizer.encode("the dog")) == "the dog"


def test_refusals(processor, tmp_path):
    with pytest.raises(ValueError, match="expected audio or text, got neither"):
        processor()
    with pytest.raises(ValueError, match="expected audio or text, got both"):
        processor(clip(5), text="one")
    with pytest.raises(ValueError, match="expected audio at 24000 Hz, got 16000 Hz"):
        processor(clip(5), sampling_rate=16_000)
    with pytest.raises(AudioError):
        processor(np.zeros((2, 5), np.float32))
    with pytest.raises(TypeError, match="num_beams"):
        processor(clip(5), num_beams=2)
    with pytest.warns(UserWarning, match="expected sampling_rate beside the audio"):
        processor.feature_extractor(clip(5))
    with pytest.raises(CheckpointError, match="expected config.json"):
        earful.KyutaiSpeechToTextProcessor.from_pretrained(tmp_path)
