import numpy as np
import pytest
import torch

import earful
from earful.errors import AudioError, CheckpointError
from earful.testing import write_tiny
from tests.helpers import spoken_like

RATE = {"sampling_rate": 16_000}
CLIP = spoken_like(np.random.default_rng(0), 8_000)
Extractor, Tokenizer = earful.Speech2TextFeatureExtractor, earful.Speech2TextTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny("s2t", path=tmp_path_factory.mktemp("tiny"), text={"language_set": "mustc", "language": "nl"})


@pytest.fixture(scope="module")
def processor(folder):
    return earful.AutoProcessor.from_pretrained(folder)


def tokenizer_of(folder, **settings):
    return Tokenizer(folder / "vocab.json", folder / "sentencepiece.bpe.model", **settings)


def test_documented_defaults_in_the_documented_order():
    assert Extractor(80, 16000, 80, 0.0, 0.0, True, True, True) == Extractor()
    assert Extractor().model_input_names == ("input_features", "attention_mask")


@pytest.mark.parametrize("clip", [CLIP.astype(np.float64), torch.from_numpy(CLIP), CLIP.tolist(), tuple(CLIP.tolist())])
def test_forms_of_a_clip(clip):
    expected = Extractor()(CLIP, return_tensors="pt", **RATE).input_features
    for audio in (clip, [clip]):
        torch.testing.assert_close(Extractor()(audio, return_tensors="pt", **RATE).input_features, expected)


def test_16_bit_samples_are_parts_of_full_scale():
    levels = (CLIP * 20_000).clip(-32768, 32767).astype(np.int16)
    expected = Extractor()(levels.astype(np.float32) / 32768, **RATE).input_features[0]
    np.testing.assert_array_equal(Extractor()(levels, **RATE).input_features[0], expected)


def test_noise_is_added_where_it_is_asked_for():
    plain = Extractor()(CLIP, **RATE).input_features[0]
    torch.manual_seed(0)
    dithered = Extractor(dither=1.0)(CLIP, **RATE).input_features[0]
    assert 1e-5 < np.abs(plain - dithered).mean() < 0.1
    loud = np.abs(np.zeros(8_000, np.float32))
    assert Extractor(dither=1.0)(loud, **RATE).input_features[0].std() > 0.5


def test_padding_on_the_left():
    extractor = Extractor(padding_side="left", padding_value=3.0)
    batch = extractor([CLIP, CLIP[:5_000]], padding=True, return_tensors="np", **RATE)
    short = Extractor()(CLIP[:5_000], return_tensors="np", **RATE).input_features[0]
    np.testing.assert_array_equal(batch.input_features[1, -len(short) :], short)
    assert (batch.input_features[1, : -len(short)] == 3.0).all()
    assert batch.attention_mask[1].tolist() == [0] * (len(batch.attention_mask[1]) - len(short)) + [1] * len(short)


@pytest.mark.parametrize(
    "call, message",
    [
        ({"sampling_rate": 8_000}, "expected audio at 16000 Hz, got 8000 Hz"),
        ({"return_tensors": "pt"}, "expected clips of one length to make a tensor, got .*: ask for padding"),
        ({"truncation": True}, "expected max_length beside truncation, got none"),
        ({"padding": "max_length"}, "expected max_length beside padding='max_length', got none"),
        ({"padding": "widest"}, "expected padding of a bool or longest, max_length, do_not_pad, got 'widest'"),
        ({"return_tensors": "tf", "padding": True}, "expected return_tensors of 'pt', 'np' or None, got 'tf'"),
    ],
)
def test_requests_that_do_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        Extractor()([CLIP, CLIP[:5_000]], **{**RATE, **call})


def test_what_is_no_clip():
    for wrong in (np.zeros((2, 3, 400), np.float32), np.full(500, np.nan, np.float32), np.zeros(500, np.int32)):
        with pytest.raises(AudioError, match="expected"):
            Extractor()(wrong, **RATE)
    with pytest.raises(ValueError, match="expected padding_side of 'left' or 'right', got 'top'"):
        Extractor(padding_side="top")


def test_no_rate_is_worth_a_warning():
    with pytest.warns(UserWarning, match="expected sampling_rate beside the audio, got none: 16000 Hz?"):
        Extractor()(CLIP)


def test_a_text_becomes_labels(processor):
    alone = processor(text="the dog")
    assert alone.input_ids[0] == processor.tokenizer.lang_code_to_id["nl"]
    batch = processor([CLIP, CLIP], text=["the dog", "a"], padding=True, return_tensors="pt", **RATE)
    assert list(batch) == ["input_features", "attention_mask", "labels"]
    assert batch.labels[0].tolist() == alone.input_ids
    assert batch.labels[1].tolist()[-1] == processor.tokenizer.pad_token_id
    with processor.as_target_processor():
        assert dict(processor("the dog")) == dict(alone)
    assert list(processor(CLIP, **RATE)) == ["input_features", "attention_mask"]
    with pytest.raises(ValueError, match="expected audio, text or both, got neither"):
        processor()


def test_cases_of_letters(folder):
    lower, upper = tokenizer_of(folder, do_lower_case=True), tokenizer_of(folder, do_upper_case=True)
    assert lower.encode("THE Dog</s>") == lower.encode("the dog</s>")
    assert upper.encode("THE Dog") != upper.encode("the dog")
    ids = lower.encode("the dog")
    assert lower.decode(ids) == "the dog</s>"
    assert upper.decode(ids, skip_special_tokens=True) == "THE DOG"


def test_languages(folder):
    tokenizer = tokenizer_of(folder, lang_codes="mustc", tgt_lang="de")
    assert (tokenizer.lang_codes, tokenizer.tgt_lang, tokenizer.prefix_tokens) == ("mustc", "de", [11])
    tokenizer.set_tgt_lang_special_tokens("pt")
    assert tokenizer.encode("a")[0] == 4
    assert tokenizer_of(folder, lang_codes="mustc").tgt_lang == "pt"
    with pytest.raises(ValueError, match="expected a language of pt, fr, .*, got xx"):
        tokenizer.tgt_lang = "xx"
    single = tokenizer_of(folder)
    assert (single.lang_codes, single.tgt_lang, single.lang_code_to_id, single.prefix_tokens) == (None, None, {}, [])
    assert single.decode([5, 13, 2], skip_special_tokens=True).startswith("<lang:fr>")  # a piece like others
    also = tokenizer_of(folder, additional_special_tokens=["<lang:fr>"])
    assert also.decode([5, 13, 2], skip_special_tokens=True) == "the"
    with pytest.raises(ValueError, match="expected no language, since this model writes only one, got fr"):
        single.tgt_lang = "fr"


def test_pieces_by_chance(folder):
    tokenizer = tokenizer_of(folder, sp_model_kwargs={"enable_sampling": True, "nbest_size": -1, "alpha": 0.1})
    cuts = {tuple(tokenizer.tokenize("the thing is there")) for _ in range(40)}
    assert len(cuts) > 5
    assert {tokenizer.convert_tokens_to_string(cut) for cut in cuts} == {"the thing is there"}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"bos_token": "[CLS]"}, r"expected the special tokens <s> <pad> </s> <unk>, got \[CLS\] <pad>"),
        ({"sp_model_kwargs": {"reverse": True}}, "expected sp_model_kwargs of enable_sampling, .*, got reverse"),
        (
            {"additional_special_tokens": ["<x>"]},
            r"expected additional_special_tokens of the vocabulary, got \['<x>'\]",
        ),
        ({"lang_codes": "flores"}, "expected lang_codes to be one of mustc, got 'flores'"),
    ],
)
def test_settings_that_do_not_fit(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        tokenizer_of(folder, **settings)


def test_texts_that_do_not_fit(processor):
    with pytest.raises(
        ValueError, match=r"expected texts of one length to make a tensor, got \[3, 4\]: ask for padding"
    ):
        processor.tokenizer(["a", "the dog"], return_tensors="pt")
    with pytest.raises(ValueError, match="expected one row of ids that have their special ids, got two"):
        processor.tokenizer.get_special_tokens_mask([1], [2], already_has_special_tokens=True)
    with pytest.raises(TypeError, match="return_offsets_mapping"):
        processor.tokenizer("a", return_offsets_mapping=True)


def test_there_and_back(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = earful.Speech2TextProcessor.from_pretrained(tmp_path)
    assert again.feature_extractor.to_dict() == processor.feature_extractor.to_dict()
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert (again.tokenizer.tgt_lang, again.tokenizer.model_max_length) == ("nl", 1024)
    assert again.tokenizer.all_special_tokens == processor.tokenizer.all_special_tokens
    paths = processor.tokenizer.save_vocabulary(tmp_path, "mine")
    assert [path.rpartition("/")[2] for path in paths] == ["mine-vocab.json", "mine-sentencepiece.bpe.model"]
    assert Tokenizer(*paths).get_vocab() == processor.tokenizer.get_vocab()
    sampled = Tokenizer(*paths, sp_model_kwargs={"enable_sampling": True}, additional_special_tokens=["<lang:fr>"])
    sampled.save_pretrained(tmp_path / "sampled")
    once_more = Tokenizer.from_pretrained(tmp_path / "sampled")
    assert once_more.sp_model_kwargs == {"enable_sampling": True}
    assert once_more.all_special_tokens[-1] == "<lang:fr>"


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="expected"):
        earful.Speech2TextProcessor.from_pretrained(tmp_path)
