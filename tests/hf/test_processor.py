import numpy as np
import pytest
import torch

from earful import AutoProcessor, VoxtralRealtimeFeatureExtractor, VoxtralRealtimeProcessor
from earful.errors import CheckpointError
from earful.testing import write_tiny

CLIP = 0.1 * np.random.default_rng(0).standard_normal(3000).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny("voxtral", path=tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def processor(folder):
    return VoxtralRealtimeProcessor.from_pretrained(folder)


def test_geometry_is_in_whole_numbers(processor):
    expected = {
        "num_delay_tokens": 2,
        "num_right_pad_tokens": 13,
        "audio_length_per_tok": 8,
        "raw_audio_length_per_tok": 1280,
        "num_mel_frames_first_audio_chunk": 24,
        "num_samples_first_audio_chunk": 23 * 160 + 200,
        "num_samples_per_audio_chunk": 1680,
    }
    assert {name: getattr(processor, name) for name in expected} == expected


def test_offline(processor):
    plain = processor(CLIP)
    assert plain.input_ids == [[1, 32, 32, 32, 32, 32]]
    assert plain.attention_mask == [[1] * 6]
    assert plain.num_delay_tokens == 2
    slots = 3 + 3 + 13  # of 3000 samples
    assert plain.input_features.shape == (1, 24, 8 * slots)
    both = processor(audio=[CLIP, CLIP[:10]], return_tensors="pt", sampling_rate=16_000, padding=True)
    assert both.input_ids.shape == both.attention_mask.shape == (2, 6)
    torch.testing.assert_close(both.input_features[:1], plain.input_features, rtol=0, atol=1e-6)
    assert isinstance(processor(CLIP, return_tensors="np").input_features, np.ndarray)


def test_streaming(processor):
    first = processor(CLIP, is_streaming=True, return_tensors="pt")
    assert sorted(first) == ["attention_mask", "input_features", "input_ids", "num_delay_tokens"]
    assert first.input_features.shape == (1, 24, (3 * 1280 + 3000) // 160)
    later = processor(CLIP[:1680], is_streaming=True, is_first_audio_chunk=False, return_tensors="pt")
    assert sorted(later) == ["input_features", "num_delay_tokens"]
    assert later.input_features.shape == (1, 24, 8)


def test_streams_are_not_cut_to_16_bits(processor):
    def apart(samples):
        live, whole = processor(samples, is_streaming=True).input_features, processor(samples).input_features
        sure = live.shape[-1] - 2  # the last frames of a chunk hear its end reflected
        return float((live - whole[..., : live.shape[-1]])[..., :sure].abs().max())

    faint = 0.01 * CLIP
    assert apart(faint) > 1e-3
    assert apart(np.floor(faint * 32768) / np.float32(32768)) < 1e-5


def test_refusals(processor):
    with pytest.raises(ValueError, match="expected is_first_audio_chunk=True without is_streaming, got False"):
        processor(CLIP, is_first_audio_chunk=False)
    with pytest.raises(ValueError, match="expected audio or text, got neither"):
        processor()
    with pytest.raises(ValueError, match="expected audio or text, got both"):
        processor(CLIP, text="one")
    with pytest.raises(ValueError, match="expected audio at 16000 Hz, got 8000 Hz: resample it first"):
        processor(CLIP, sampling_rate=8000)
    with pytest.raises(TypeError, match="truncation"):
        processor(CLIP, truncation=True)


def test_text_and_back(processor):
    ids = processor(text=" one two", return_tensors="pt").input_ids
    assert processor.decode(ids[0]) == processor.batch_decode(ids)[0] == " one two"
    assert processor.decode(int(ids[0, 0])) == processor.tokenizer.decode(ids[0, :1].numpy())
    written = [1, 32, 33, *ids[0].tolist(), 2, 11]
    assert processor.decode(written, skip_special_tokens=True) == " one two"
    assert processor.decode(written) == "<s>[STREAMING_PAD][STREAMING_WORD] one two</s><pad>"


def test_cleaned_spaces(processor):
    ids = processor.tokenizer.encode("It 's done , is n't it ? Yes !")
    assert processor.decode(ids, clean_up_tokenization_spaces=True) == "It's done, isn't it? Yes!"
    assert processor.decode(ids, clean_up_tokenization_spaces=False) == processor.decode(ids)
    assert processor.decode(ids) == "It 's done , is n't it ? Yes !"


def test_a_language_mark_is_no_text(processor):
    ids = processor.tokenizer.encode("lang:en what lang:en")
    assert processor.decode(ids) == "lang:en what lang:en"
    assert processor.decode(ids, skip_special_tokens=True) == " what lang:en"


def test_tokenizer(processor):
    tokenizer = processor.tokenizer
    assert len(tokenizer) == tokenizer.vocab_size == 360
    assert tokenizer.all_special_ids == list(range(40))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 11)
    rows = tokenizer([" one two", "", " a"])
    assert [len(row) for row in rows.input_ids] == [len(rows.input_ids[0])] * 3
    for ids, mask, text in zip(rows.input_ids, rows.attention_mask, [" one two", "", " a"], strict=True):
        assert mask == sorted(mask)  # filled from the left
        assert tokenizer.decode([id for id, real in zip(ids, mask, strict=True) if real]) == text
        assert [id for id, real in zip(ids, mask, strict=True) if not real] == [11] * mask.count(0)


def test_saved_alone(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    for kind in (AutoProcessor, VoxtralRealtimeProcessor):
        again = kind.from_pretrained(tmp_path)
        assert type(again) is VoxtralRealtimeProcessor
        assert torch.equal(again(CLIP).input_features, processor(CLIP).input_features)
    processor.tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert [path.name for path in (tmp_path / "tokenizer").iterdir()] == ["tekken.json"]


def test_parts_must_agree(processor):
    VoxtralRealtimeProcessor(VoxtralRealtimeFeatureExtractor(24), processor.tokenizer)
    with pytest.raises(ValueError, match="expected feature_extractor.feature_size of 24 as in the tokenizer, got 128"):
        VoxtralRealtimeProcessor(VoxtralRealtimeFeatureExtractor(), processor.tokenizer)
    with pytest.raises(ValueError, match="expected feature_extractor.n_fft of 400 as in the tokenizer, got 512"):
        VoxtralRealtimeProcessor(VoxtralRealtimeFeatureExtractor(24, n_fft=512), processor.tokenizer)


@pytest.mark.parametrize("layout", ["hf", "mistral"])
def test_auto(layout, tmp_path, processor):
    found = AutoProcessor.from_pretrained(write_tiny("voxtral", layout, path=tmp_path))
    assert type(found) is VoxtralRealtimeProcessor
    assert torch.equal(found(CLIP).input_features, processor(CLIP).input_features)


def test_auto_refuses(tmp_path):
    with pytest.raises(TypeError, match="expected AutoProcessor.from_pretrained"):
        AutoProcessor()
    (tmp_path / "processor_config.json").write_text('{"processor_class": "ClipProcessor"}')
    with pytest.raises(CheckpointError, match=r"expected config.json .* got processor_config.json"):
        AutoProcessor.from_pretrained(tmp_path)
