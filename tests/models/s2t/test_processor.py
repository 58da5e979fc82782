import json

import numpy as np
import pytest
import torch

from earful.errors import AudioError, CheckpointError
from earful.models.s2t.config import EOS, LANGUAGES, UNK, AudioConfig, TextConfig
from earful.models.s2t.processor import S2tText, hear
from earful.testing import tiny_s2t_vocabulary, write_tiny
from tests.helpers import spoken_like

AUDIO = AudioConfig(16_000, 24)


@pytest.fixture
def tokenizer(tmp_path):
    return write_tiny("s2t", path=tmp_path, text={"language_set": "mustc"}) / "sentencepiece.bpe.model"


def text(tokenizer, **settings):
    return S2tText.from_file(tokenizer, TextConfig("mustc", **settings))


def test_features_of_a_batch():
    clips = [spoken_like(np.random.default_rng(0), length) for length in (9_000, 300, 20_000)]
    features, lengths = hear(clips, AUDIO)
    assert features.shape == (3, 123, 24)
    assert lengths.tolist() == [54, 0, 123]
    assert (features[0, 54:] == 0).all()
    assert (features[1] == 0).all()
    torch.testing.assert_close(features[0, :54], hear(clips[:1], AUDIO)[0][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(features[2].mean(0), torch.zeros(24), rtol=0, atol=1e-5)
    torch.testing.assert_close(features[2].std(0, unbiased=False), torch.ones(24), rtol=0, atol=1e-4)


def test_silence_and_clips_shorter_than_a_frame_are_clear():
    features, lengths = hear([np.zeros(16_000, np.float32), np.zeros(399, np.float32)], AUDIO)
    assert lengths.tolist() == [98, 0]
    assert (features == 0).all()
    features, lengths = hear([np.zeros(0, np.float32)], AUDIO)
    assert (features.shape, lengths.tolist()) == ((1, 0, 24), [0])


@pytest.mark.parametrize("clip", [np.zeros((2, 500), np.float32), np.full(500, np.nan), np.zeros(500, np.int16)])
def test_what_is_no_audio_is_refused(clip):
    with pytest.raises(AudioError, match="expected"):
        hear([clip], AUDIO)


def test_text_comes_back(tokenizer):
    ours = text(tokenizer)
    assert list(ours.language_ids) == list(LANGUAGES["mustc"])
    assert list(ours.language_ids.values()) == list(range(4, 12))
    for language, id in ours.language_ids.items():
        ids = ours.encode("the dog is été", language)
        assert (ids[0], ids[-1]) == (id, EOS)
        assert ours.decode(ids) == "the dog is été"
        assert ours.decode(ids, keep_special=True) == f"<lang:{language}> the dog is été</s>"
    assert UNK in ours.encode("the 猫")


def test_the_usual_language(tokenizer):
    assert text(tokenizer).language_id(None) == 4
    assert text(tokenizer, language="de").language_id(None) == 11
    assert text(tokenizer, language="de").language_id("fr") == 5
    with pytest.raises(ValueError, match="expected a language of pt, fr, .*, de, got en"):
        text(tokenizer).language_id("en")
    single = S2tText.from_file(tokenizer, TextConfig())
    assert single.language_id(None) is None
    with pytest.raises(ValueError, match="expected no language, since this model writes only one, got fr"):
        single.language_id("fr")
    assert single.decode([5, *single.encode("the dog")]) == "<lang:fr> the dog"  # a piece like others


def test_case(tokenizer):
    assert text(tokenizer, upper=True).decode(text(tokenizer).encode("the dog")) == "THE DOG"
    assert text(tokenizer, lower=True).encode("THE Dog") == text(tokenizer).encode("the dog")
    assert text(tokenizer).encode("THE Dog") != text(tokenizer).encode("the dog")


def test_ids_come_from_the_list_beside_the_model(tokenizer):
    path = tokenizer.with_name("vocab.json")
    vocabulary = json.loads(path.read_text())
    last = max(vocabulary, key=vocabulary.__getitem__)
    moved = {piece: id + 1 if piece != last and id > 20 else id for piece, id in vocabulary.items()} | {last: 21}
    ids = text(tokenizer).encode("the dog, two")
    path.write_text(json.dumps(moved))
    ours = text(tokenizer)
    assert ours.encode("the dog, two") != ids
    assert ours.decode(ours.encode("the dog, two")) == "the dog, two"
    del moved["▁dog"]
    path.write_text(json.dumps(moved))
    assert text(tokenizer).encode("dog").count(UNK) == 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"<pad>": 2, "</s>": 1}, r"expected ids 0 to 3 for <s> <pad> </s> <unk>, got \[0, 2, 1, 3\]"),
        ({"▁dog": 7}, "expected an id for each piece, got .* that share ids"),
        ({"▁dog": -1}, "expected ▁dog to be a whole number of 0 to"),
        ({"▁dog": "7"}, "expected ▁dog to be a whole number of 0 to"),
    ],
)
def test_a_list_that_cannot_be_is_refused(tokenizer, change, message):
    path = tokenizer.with_name("vocab.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        text(tokenizer)


def test_without_a_list_ids_are_those_of_the_model(tokenizer):
    ids = text(tokenizer).encode("the dog")
    tokenizer.with_name("vocab.json").unlink()
    assert text(tokenizer).encode("the dog") == ids


def test_a_vocabulary_without_its_languages_is_refused(tmp_path):
    path = tmp_path / "sentencepiece.bpe.model"
    tiny_s2t_vocabulary(TextConfig()).save(path)
    with pytest.raises(CheckpointError, match="expected a piece <lang:pt>, got none"):
        S2tText.from_file(path, TextConfig("mustc"))
