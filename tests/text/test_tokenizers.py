import io
import json

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from earful.errors import CheckpointError
from earful.text.incremental import Utf8Stream
from earful.text.tokenizers import JsonTokenizer, unigram_json

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
def tokenizer(model):
    pieces = [(model.id_to_piece(id), model.get_score(id)) for id in range(model.vocab_size())]
    return JsonTokenizer(unigram_json(pieces))


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


@given(WORDS)
def test_bytes_one_by_one_are_the_text(tokenizer, words):
    text = " ".join(words)
    stream = Utf8Stream()
    parts = "".join(stream.feed(tokenizer.token_bytes(id)) for id in [3, *tokenizer.encode(text), 0]) + stream.finish()
    assert parts.removeprefix(" ") == text


def test_names(model, tokenizer):
    assert tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3}
    assert [tokenizer.piece(id) for id in (0, 3, 4, 259)] == ["<unk>", "<pad>", "<0x00>", "<0xFF>"]
    the = tokenizer.encode("the")
    assert tokenizer.decode([3, 0, *the], keep_special=True) == "<pad><unk> the"
    assert tokenizer.vocab == model.vocab_size()


@pytest.mark.parametrize("id", [-1, 48_000])
def test_outside_the_vocabulary(tokenizer, id):
    with pytest.raises(ValueError, match=rf"expected an id of 0 to {tokenizer.vocab - 1}, got {id}"):
        tokenizer.token_bytes(id)


def test_saved_as_it_was_read(tokenizer, tmp_path):
    document = json.dumps(json.loads(tokenizer.document))  # another form than ours
    (tmp_path / "a.json").write_text(document, encoding="utf-8")
    JsonTokenizer.from_file(tmp_path / "a.json").save(tmp_path / "b.json")
    assert (tmp_path / "b.json").read_text(encoding="utf-8") == document


def test_refusals(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(CheckpointError, match=r"tokenizer.json: expected a readable file"):
        JsonTokenizer.from_file(path)
    for content, message in [
        (b'{"a": 1}', "expected a tokenizer, got: "),
        (b"\xff", "expected UTF-8"),
        (b"[1]", "expected a tokenizer"),
    ]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"tokenizer.json: {message}"):
            JsonTokenizer.from_file(path)
