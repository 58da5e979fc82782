"""SentencePiece vocabularies in both files, and text as it comes from ids."""

import io
import json

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from earful.errors import CheckpointError
from earful.testing import tiny_sentencepiece
from earful.text.incremental import Utf8Stream
from earful.text.sentencepiece import Kind, Piece, SentencePiece

TEXTS = ["hello world", "", "x", "été à la plage", "日本 and 🙂🙃", "a\u2581b", "1,000 dogs; the end."]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A vocabulary from SentencePiece's own trainer, with byte pieces and rules of normalisation."""
    lines = ["hello world this is a test of the tokenizer", "the quick brown fox jumps over the lazy dog"] * 20
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=written,
        vocab_size=320,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=3,
        minloglevel=5,
    )
    path = tmp_path_factory.mktemp("trained") / "tokenizer.model"
    path.write_bytes(written.getvalue())
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tokenizer.model"
    tiny_sentencepiece().save(path)
    return path


@pytest.fixture(params=["trained", "tiny"])
def path(request):
    return request.getfixturevalue(request.param)


@pytest.mark.reference
def test_ids_and_texts_are_those_of_the_library(path):
    reference, ours = sentencepiece.SentencePieceProcessor(model_file=str(path)), SentencePiece.from_file(path)
    assert ours.vocab == reference.vocab_size()
    for id in range(ours.vocab):
        assert ours.piece(id) == reference.id_to_piece(id)
        assert ours.is_special(id) == (reference.is_control(id) or reference.is_unknown(id))
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == reference.encode(text)
        assert ours.decode(ids) == reference.decode(ids)


@pytest.mark.reference
def test_tokenizer_json_gives_the_same_ids_and_texts_in_the_library_that_reads_it(path, tmp_path):
    ours = SentencePiece.from_file(path)
    ours.save(tmp_path / "tokenizer.json")
    reference = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert reference.get_vocab_size() == ours.vocab
    for text in TEXTS:
        ids = ours.encode(text)
        assert reference.encode(text).ids == ids
        assert reference.decode([3, 0, *ids, 3], skip_special_tokens=True) == ours.decode([3, 0, *ids, 3])


def test_either_file_becomes_the_other(path, tmp_path):
    first = SentencePiece.from_file(path)
    first.save(tmp_path / "tokenizer.json")
    second = SentencePiece.from_file(tmp_path / "tokenizer.json")
    second.save(tmp_path / "tokenizer.model")
    third = SentencePiece.from_file(tmp_path / "tokenizer.model")
    assert first.pieces == second.pieces == third.pieces
    assert first.charsmap == second.charsmap == third.charsmap
    for text in TEXTS:
        assert first.encode(text) == second.encode(text) == third.encode(text)
    third.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    first.save(tmp_path / "copy.model")
    assert (tmp_path / "copy.model").read_bytes() == path.read_bytes()


def test_special_ids_stand_for_nothing(tiny):
    tokenizer = SentencePiece.from_file(tiny)
    assert [tokenizer.piece(id) for id in range(4)] == ["<unk>", "<s>", "</s>", "<pad>"]
    assert [tokenizer.token_bytes(id) for id in range(4)] == [b""] * 4
    ids = tokenizer.encode("one two")
    assert tokenizer.decode([3, 3, 0, *ids[:2], 3, *ids[2:], 2]) == "one two"


def test_a_byte_piece_is_a_byte(tiny):
    tokenizer = SentencePiece.from_file(tiny)
    assert [tokenizer.token_bytes(4 + byte) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert tokenizer.decode([4 + byte for byte in "日".encode()]) == "日"
    assert tokenizer.decode([4 + 0xE6, 4 + 0x97]) == "\ufffd"


@given(st.lists(st.integers(0, 330)))
def test_text_that_comes_in_pieces_is_the_text_of_the_whole(ids):
    tokenizer = tiny_sentencepiece()
    ids = [id % tokenizer.vocab for id in ids]
    stream = Utf8Stream()
    parts = [stream.feed(tokenizer.token_bytes(id)) for id in ids] + [stream.finish()]
    assert "".join(parts).removeprefix(" ") == tokenizer.decode(ids)


@given(st.text())
def test_any_text_can_be_written(text):
    tokenizer = tiny_sentencepiece()
    assert tokenizer.decode(tokenizer.encode(text)).split() == text.replace("\u2581", " ").split()


def test_ids_beyond_the_vocabulary_are_refused(tiny):
    tokenizer = SentencePiece.from_file(tiny)
    for id in (-1, tokenizer.vocab, 48000):
        for use in (tokenizer.piece, tokenizer.token_bytes, tokenizer.is_special, lambda id: tokenizer.decode([id])):
            with pytest.raises(ValueError, match=f"expected an id of 0 to {tokenizer.vocab - 1}, got {id}"):
                use(id)


BAD = {
    "nothing": b"",
    "no unknown piece": b"\n\x03\n\x01a",
    "a piece without text": b"\n\x02\x18\x02",
    "text": b"hello",
    "another number": b"\n\x02\x08\x05",
    "an unknown kind": b"\n\x05\n\x01a\x18\x63",
    "text that is no text": b"\n\x03\n\x01\xff",
    "a byte piece that is none": b"\n\x05\n\x01a\x18\x02\n\x05\n\x01b\x18\x06",
    "json": b"{",
    "json of another kind": b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}',
    "json without a vocabulary": b'{"model": 3}',
    "bad rules": b'{"model": {"vocab": [["a", 0]], "unk_id": 0}, "normalizer": {"precompiled_charsmap": "?"}}',
    "a list of rules": b'{"model": {"vocab": [["a", 0]], "unk_id": 0}, "normalizer": [1]}',
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_vocabulary_is_refused(tmp_path, case):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(BAD[case])
    with pytest.raises(CheckpointError, match=f"^{path}: expected .*, got") as caught:
        SentencePiece.from_file(path)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(CheckpointError, match="expected a readable file, got: No such file or directory"):
        SentencePiece.from_file(tmp_path / "tokenizer.model")


def test_only_a_unigram_model_becomes_a_tokenizer_json(tmp_path):
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["one two three four five six seven"] * 5),
        model_writer=written,
        vocab_size=20,
        hard_vocab_limit=False,
        model_type="bpe",
        minloglevel=5,
    )
    (tmp_path / "tokenizer.model").write_bytes(written.getvalue())
    tokenizer = SentencePiece.from_file(tmp_path / "tokenizer.model")
    assert tokenizer.decode(tokenizer.encode("one five")) == "one five"
    with pytest.raises(CheckpointError, match="expected a unigram model for tokenizer.json, got another kind"):
        tokenizer.save(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda pieces: pieces[1:] + pieces[:1], "the unknown piece first"),
        (lambda pieces: pieces[:4] + pieces[5:], "256 byte pieces"),
        (lambda pieces: [*pieces, Piece("[laugh]", 0.0, Kind.USER_DEFINED)], "no pieces of users"),
    ],
)
def test_what_a_tokenizer_json_cannot_say_is_refused(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=f"expected {message} for tokenizer.json, got another vocabulary"):
        SentencePiece(change(tiny_sentencepiece().pieces)).save(tmp_path / "tokenizer.json")


def test_added_tokens_of_a_tokenizer_json(tmp_path):
    """What is special stands for nothing, other additions are text."""
    vocab = [["<unk>", 0], ["<s>", 0], ["\u2581hi", -1], ["<laugh>", -2], ["<0x41>", -3]]
    added = [{"id": 0, "special": True}, {"id": 1, "special": True}, {"id": 3, "special": False}]
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added, "normalizer": None}))
    kinds = [piece.kind for piece in SentencePiece.from_file(tmp_path / "tokenizer.json").pieces]
    assert kinds == [Kind.UNKNOWN, Kind.CONTROL, Kind.NORMAL, Kind.USER_DEFINED, Kind.BYTE]
    (tmp_path / "plain.json").write_text(json.dumps({"model": {**model, "byte_fallback": False}}))
    assert SentencePiece.from_file(tmp_path / "plain.json").pieces[4] == Piece("<0x41>", -3.0)
