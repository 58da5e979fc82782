"""Features and texts beside those of transformers, over random clips, texts and settings."""

import random

import numpy as np
import pytest
import torch

import earful
from earful.testing import write_tiny
from tests.helpers import spoken_like
from tests.hf.reference import their_manners

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.reference
RATE = {"sampling_rate": 16_000}
FEATURES = 1e-3  # after the division by the standard deviation, which may be small


def clips_of(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(450, 20_000, rng.integers(1, 4))
    return [spoken_like(rng, int(length)) for length in lengths]


def extractors(**settings):
    return earful.Speech2TextFeatureExtractor(**settings), transformers.Speech2TextFeatureExtractor(**settings)


def same(ours, theirs):
    assert set(ours) == set(theirs)
    for name in ours:
        assert isinstance(ours[name], list) or type(ours[name]) is type(theirs[name])
        for here, there in zip(ours[name], theirs[name], strict=True):
            assert (type(here), here.dtype, here.shape) == (type(there), there.dtype, there.shape)
            np.testing.assert_allclose(here, there, rtol=0, atol=FEATURES if name == "input_features" else 0)


SETTINGS = [
    {},
    {"num_mel_bins": 24, "feature_size": 24},
    {"do_ceptral_normalize": False, "padding_value": -1.5},
    {"normalize_means": False},
    {"normalize_vars": False, "padding_value": 2.0},
    {"return_attention_mask": False, "normalize_means": False, "normalize_vars": False, "do_ceptral_normalize": False},
]
CALLS = [
    {"padding": True, "return_tensors": "pt"},
    {"padding": "longest", "return_tensors": "np", "pad_to_multiple_of": 7},
    {"padding": True, "max_length": 30, "truncation": True, "return_tensors": "pt"},
    {"padding": "max_length", "max_length": 130, "return_tensors": "np"},
    {"padding": "max_length", "max_length": 33, "truncation": True, "pad_to_multiple_of": 8, "return_tensors": "pt"},
    {"padding": False},
    {"padding": "do_not_pad", "max_length": 20, "truncation": True},
    {"padding": True},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_features(settings):
    ours, theirs = extractors(**settings)
    for number, call in enumerate(CALLS):
        clips = clips_of(number)
        forms = [clips, clips[0], [clip.tolist() for clip in clips], [clip.astype(np.float64) for clip in clips]]
        audio = forms[number % len(forms)]
        same(ours(audio, **call, **RATE), theirs(audio, **call, **RATE))
    whole = np.stack([spoken_like(np.random.default_rng(i), 3_000) for i in range(2)])
    same(ours(whole, return_tensors="pt", **RATE), theirs(whole, return_tensors="pt", **RATE))
    masked = {"padding": True, "return_attention_mask": True}
    same(ours(clips_of(9), **masked, **RATE), theirs(clips_of(9), **masked, **RATE))


def test_clips_shorter_than_a_frame():
    ours, theirs = extractors()
    short = np.zeros(399, np.float32)  # of less than 240 samples the reference makes an error
    with their_manners():
        expected = theirs(short, return_tensors="pt", **RATE)
    same(ours(short, return_tensors="pt", **RATE), expected)


@pytest.fixture(scope="module", params=[(None, False), (None, True), ("mustc", False), ("mustc", True)])
def tokenizers(request, tmp_path_factory):
    """The same files in both; of every other pair ours are those that they have written."""
    language_set, upper = request.param
    folder = write_tiny("s2t", path=tmp_path_factory.mktemp("a"), text={"language_set": language_set, "upper": upper})
    with their_manners():
        theirs = transformers.Speech2TextProcessor.from_pretrained(folder)
        if upper:
            folder = tmp_path_factory.mktemp("b")
            theirs.save_pretrained(folder)
    ours = earful.Speech2TextProcessor.from_pretrained(folder)
    assert {**ours.feature_extractor.to_dict(), "feature_extractor_type": None} == {
        **theirs.feature_extractor.to_dict(),
        "feature_extractor_type": None,
    }
    return ours.tokenizer, theirs.tokenizer


def texts():
    rng = random.Random(0)
    letters = "abcdefg the'é.日 THEDog🙂\u2581"
    named = ["<s> a </s>", "the<lang:fr>dog <pad>", "<unk>", "<lang:xx> one"]
    return ["the dog is it", "three fox,  été?", "THE Dog", "", "  ", "it's the thing.", *named] + [
        "".join(rng.choices(letters, k=rng.randint(1, 40))) for _ in range(40)
    ]


def test_names_of_the_tokenizer(tokenizers):
    ours, theirs = tokenizers
    for name in ("vocab_size", "all_special_tokens", "all_special_ids", "lang_code_to_id", "tgt_lang", "prefix_tokens"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("do_upper_case", "do_lower_case", "padding_side", "model_max_length", "model_input_names"):
        assert list([getattr(ours, name)]) == [getattr(theirs, name)] or name == "model_input_names", name
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.get_vocab() == theirs.get_vocab()
    assert len(ours) == len(theirs)


def test_texts_become_ids(tokenizers):
    ours, theirs = tokenizers
    for language in theirs.lang_code_to_id or [None]:
        if language:
            ours.tgt_lang = theirs.tgt_lang = language
        for text in texts():
            assert ours.tokenize(text) == theirs.tokenize(text)
            assert ours.encode(text) == theirs.encode(text)
            assert dict(ours(text)) == dict(theirs(text))
    ids, more = [5, 2, 7], [8, 30]
    for call in ("build_inputs_with_special_tokens", "get_special_tokens_mask", "create_token_type_ids_from_sequences"):
        assert getattr(ours, call)(ids) == getattr(theirs, call)(ids), call
        assert getattr(ours, call)(ids, more) == getattr(theirs, call)(ids, more), call
    given = {"already_has_special_tokens": True}
    assert ours.get_special_tokens_mask(ids, **given) == theirs.get_special_tokens_mask(ids, **given)
    assert ours.convert_tokens_to_ids("▁the") == theirs.convert_tokens_to_ids("▁the")
    assert ours.convert_tokens_to_ids(["▁the", "zz"]) == theirs.convert_tokens_to_ids(["▁the", "zz"])


@pytest.mark.parametrize(
    "call",
    [
        {"padding": True, "return_tensors": "pt"},
        {"padding": "longest", "pad_to_multiple_of": 8, "return_tensors": "np"},
        {"padding": "max_length", "max_length": 12},
        {"padding": "max_length", "max_length": 6, "truncation": True, "return_tensors": "pt"},
        {"max_length": 5},
        {"truncation": True, "max_length": 7, "add_special_tokens": False},
        {"truncation": True, "return_attention_mask": False},
        {},
    ],
)
def test_batches_of_texts(tokenizers, call):
    ours, theirs = tokenizers
    with their_manners():
        for given in (["the dog is a fox", "a", "été"], "the dog is it"):
            here, there = ours(given, **call), theirs(given, **call)
            assert set(here) == set(there)
            for name in here:
                assert type(here[name]) is type(there[name])
                plain = (part if isinstance(part, list) else part.tolist() for part in (here[name], there[name]))
                assert next(plain) == next(plain)
                if "return_tensors" in call:
                    assert here[name].dtype == there[name].dtype


def test_ids_become_texts(tokenizers):
    ours, theirs = tokenizers
    rng = random.Random(1)
    for _ in range(60):
        ids = rng.choices(range(ours.vocab_size + 3), k=12)
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
            assert ours.convert_ids_to_tokens(ids, skip) == theirs.convert_ids_to_tokens(ids, skip)
        pieces = [*theirs.convert_ids_to_tokens(ids), "猫", "▁zzz"]
        assert ours.convert_tokens_to_string(pieces) == theirs.convert_tokens_to_string(pieces)
    rows = torch.tensor([[2, 13, 20, 2, 1], [2, 14, 15, 16, 2]])
    assert ours.batch_decode(rows, True) == theirs.batch_decode(rows, skip_special_tokens=True)


def test_what_we_write_is_read(tmp_path):
    """Model and processor, there and back."""
    folder = write_tiny("s2t", path=tmp_path / "a", text={"language_set": "mustc", "language": "fr", "upper": True})
    earful.Speech2TextForConditionalGeneration.from_pretrained(folder).save_pretrained(tmp_path / "b")
    processor = earful.Speech2TextProcessor.from_pretrained(folder)
    processor.tokenizer.tgt_lang = "nl"
    processor.save_pretrained(tmp_path / "b")
    with their_manners():
        theirs = transformers.Speech2TextProcessor.from_pretrained(tmp_path / "b")
        their_model = transformers.Speech2TextForConditionalGeneration.from_pretrained(tmp_path / "b").eval()
    assert (theirs.tokenizer.tgt_lang, theirs.tokenizer.do_upper_case) == ("nl", True)
    clips = clips_of(3)
    inputs = processor(clips, text=["the dog"] * len(clips), padding=True, return_tensors="pt", **RATE)
    with their_manners():
        their_inputs = theirs(audio=clips, text=["the dog"] * len(clips), padding=True, return_tensors="pt", **RATE)
    same(inputs, their_inputs)
    del inputs["labels"]
    model = earful.Speech2TextForConditionalGeneration.from_pretrained(tmp_path / "b")
    ids = model.generate(**inputs, forced_bos_token_id=5)  # the search of the folder
    assert torch.equal(ids, their_model.generate(**inputs, forced_bos_token_id=5))
    said = processor.batch_decode(ids, skip_special_tokens=True)
    assert said == theirs.batch_decode(ids, skip_special_tokens=True)
    assert all(text.isupper() for text in said)


def test_a_bare_model(tmp_path):
    folder = write_tiny("s2t", path=tmp_path / "a")
    with their_manners():
        theirs = transformers.Speech2TextModel.from_pretrained(folder).eval()
        theirs.save_pretrained(tmp_path / "b")
    ours = earful.Speech2TextModel.from_pretrained(tmp_path / "b")
    given = {"input_features": torch.randn(1, 40, 20), "decoder_input_ids": torch.tensor([[2, 13, 20]])}
    with torch.no_grad():
        torch.testing.assert_close(
            ours(**given).last_hidden_state, theirs(**given).last_hidden_state, rtol=0, atol=1e-4
        )
