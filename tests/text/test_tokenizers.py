import io
import json

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from earful.errors import CheckpointError
from earful.text.tokenizers import JsonTokenizer

LINES = [" the quick brown fox jumps over the lazy dog", " one two three four five six", " café été déjà élève"]


@pytest.fixture(scope="module")
def model():
    """A SentencePiece model as Kyutai's are: unigram, byte fallback, <unk> <s> </s> <pad> first."""
    data = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 30),
        model_writer=data,
        model_type="unigram",
        vocab_size=320,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=data.getvalue())


@pytest.fixture(scope="module")
def tokenizer(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    path.write_bytes(model.serialized_model_proto())
    return JsonTokenizer.from_file(path)


WORDS = st.lists(st.text(st.sampled_from("thequickbrownfxéà日🙂,.'"), min_size=1, max_size=8), max_size=8)


@given(WORDS)
def test_ids_are_sentencepieces(model, tokenizer, words):
    text = " ".join(words)
    ids = tokenizer.encode(text)
    assert ids == model.encode(text)
    assert tokenizer.decode(ids) == model.decode(ids) == text


@given(WORDS, st.lists(st.sampled_from([0, 1, 2, 3, 48_000]), max_size=9))
def test_special_and_unknown_ids_say_nothing(tokenizer, words, noise):
    ids = tokenizer.encode(" ".join(words))
    mixed = [id for pair in zip(ids, [*noise, *[3] * len(ids)], strict=False) for id in pair] + noise
    assert tokenizer.decode(mixed) == tokenizer.decode(ids)


def test_names(model, tokenizer):
    assert tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3}
    the = tokenizer.encode("the")
    assert tokenizer.decode([3, 0, *the], keep_special=True) == "<pad><unk> the"
    assert tokenizer.vocab == model.vocab_size()


def test_saved_as_it_was_read(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "ours.json")
    document = json.dumps(json.loads((tmp_path / "ours.json").read_bytes()))  # another form than ours
    (tmp_path / "a.json").write_text(document, encoding="utf-8")
    JsonTokenizer.from_file(tmp_path / "a.json").save(tmp_path / "b.json")
    assert (tmp_path / "b.json").read_bytes() == document.encode()


def test_refusals(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(CheckpointError, match=r"tokenizer.json: expected a readable file"):
        JsonTokenizer.from_file(path)
    unreadable = {"type": "BPE", "vocab": [["<unk>", 0.0]], "unk_id": 0}  # for the library, not for SentencePiece
    for content, message in [
        (b'{"a": 1}', "expected a tokenizer.json of the unigram kind, got: "),
        (b"\xff", "expected a SentencePiece model, got: "),
        (json.dumps({"model": unreadable}).encode(), "expected a tokenizer, got: "),
    ]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"tokenizer.json: {message}"):
            JsonTokenizer.from_file(path)
