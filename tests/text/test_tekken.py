"""The tekken tokenizer: the file, encoding, decoding, and everything that can be wrong with a file."""

import copy
import json
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earful.errors import CheckpointError, EarfulError
from earful.text import tekken
from earful.text.bpe import tiny_tekken
from earful.text.tekken import Tekken

# Words of the tiny tokenizer's own text, so that its pieces are met, between arbitrary characters.
TEXTS = st.lists(
    st.sampled_from([" the", " été", "größer", " 日本", "🙂", "  ", "\n", "er, "]) | st.text(max_size=5)
).map("".join)


@pytest.fixture(scope="module")
def tiny():
    return tiny_tekken(hop=160, window=400, bins=8, left_slots=4, delay_slots=3)


@pytest.fixture(scope="module")
def document(tiny):
    return tiny.to_json()


def synthetic(listed: int, specials: int, vocab: int) -> dict:
    """A file of the published layout: the bytes, then pairs of bytes; only the first `vocab - specials` are used."""
    pieces = [bytes([byte]) for byte in range(256)]
    pieces += [bytes([rank // 256 % 256, rank % 256]) + b"x" * (rank // 65536) for rank in range(listed - 256)]
    return {
        "config": {
            "pattern": r"\s?\S+|\s+",
            "num_vocab_tokens": listed,
            "default_vocab_size": vocab,
            "default_num_special_tokens": specials,
            "version": "v7",
        },
        "vocab": [
            {"rank": rank, "token_bytes": b64encode(piece).decode(), "token_str": None}
            for rank, piece in enumerate(pieces)
        ],
    }


@given(text=TEXTS)
def test_text_survives_encoding_and_decoding(tiny, text):
    ids = tiny.encode(text)
    assert tiny.decode(ids) == text
    assert b"".join(map(tiny.token_bytes, ids)) == text.encode()
    assert all(len(tiny.special_tokens) <= id < tiny.vocab for id in ids)


def test_pieces_are_merged_by_rank():
    document = synthetic(listed=256, specials=3, vocab=262)
    for rank, piece in enumerate([b"bc", b"ab", b"abc"], start=256):
        document["vocab"].append({"rank": rank, "token_bytes": b64encode(piece).decode(), "token_str": piece.decode()})
    tokenizer = Tekken.from_json(document)
    assert tokenizer.encode("ab") == [3 + 257]
    assert tokenizer.encode("abc") == [3 + 258]
    assert tokenizer.encode("abcd") == [3 + 258, 3 + ord("d")]
    assert tokenizer.encode("aabc") == [3 + ord("a"), 3 + 258]
    assert tokenizer.encode("<s>") == [3 + ord("<"), 3 + ord("s"), 3 + ord(">")]  # text is never a special token


def test_decoding_drops_special_ids_first(tiny):
    head, tail = (len(tiny.special_tokens) + byte for byte in "é".encode())
    assert tiny.decode([1, 32, head, 33, 33, tail, 2]) == "é"
    assert tiny.decode([head, 33]) == "�"
    assert tiny.decode([1, 32, 2]) == ""
    assert tiny.token_bytes(33) == b""
    assert tiny.token_bytes(head) == b"\xc3"


@pytest.mark.parametrize("id", [-1, 360])
def test_ids_outside_the_vocabulary_are_refused(tiny, id):
    with pytest.raises(ValueError, match=f"expected an id of 0 to 359, got {id}"):
        tiny.decode([id])


def test_special_tokens_by_name(tiny):
    assert tiny.special_id("[STREAMING_PAD]") == 32
    assert tiny.special_id("[STREAMING_WORD]") == 33
    assert tiny.special_tokens["</s>"] == 2
    assert tiny.special_tokens["<SPECIAL_39>"] == 39
    assert list(tiny.special_tokens.values()) == list(range(40))
    with pytest.raises(CheckpointError, match=r"expected a special token \[THINK\], got none"):
        tiny.special_id("[THINK]")


def test_unlisted_ranks_get_names_of_their_own(document):
    listed = [
        {"rank": 7, "token_str": "<pad>", "is_control": True},
        {"rank": 2, "token_str": "</s>", "is_control": True},
    ]
    tokenizer = Tekken.from_json({**document, "special_tokens": listed})
    assert tokenizer.special_tokens["<pad>"] == 7
    assert tokenizer.special_tokens["<SPECIAL_8>"] == 8
    assert len(tokenizer.special_tokens) == 40


def test_a_file_of_the_published_size(tmp_path):
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps(synthetic(listed=150_000, specials=1000, vocab=131_072), indent=2))
    tokenizer = Tekken.from_file(path)
    assert (tokenizer.vocab, len(tokenizer.special_tokens), len(tokenizer.pieces)) == (131_072, 1000, 150_000)
    assert tokenizer.token_bytes(1000) == b"\0"
    assert tokenizer.token_bytes(131_071) == tokenizer.pieces[130_071]
    with pytest.raises(ValueError, match="got 131072"):
        tokenizer.token_bytes(131_072)  # listed, but cut
    assert tokenizer.decode(tokenizer.encode("the whole 日本語")) == "the whole 日本語"


def test_cut_pieces_are_not_used_but_are_saved(tmp_path, document):
    cut = copy.deepcopy(document)
    cut["config"]["default_vocab_size"] -= 50
    tokenizer = Tekken.from_json(cut)
    assert max(tokenizer.encode(" the weather is nice 日本")) < tokenizer.vocab
    tokenizer.save(tmp_path / "tekken.json")
    assert json.loads((tmp_path / "tekken.json").read_bytes()) == cut


def test_saving_writes_back_what_was_read(tmp_path, document):
    document = {**document, "image": {"image_patch_size": 16}, "type": "Tekken"}
    before = copy.deepcopy(document)
    tokenizer = Tekken.from_json(document)
    tokenizer.save(tmp_path / "tekken.json")
    assert json.loads((tmp_path / "tekken.json").read_bytes()) == document == before
    again = Tekken.from_file(tmp_path / "tekken.json")
    assert again.audio == tokenizer.audio == document["audio"]
    assert again.encode(" déjà vu") == tokenizer.encode(" déjà vu")


def test_decoding_needs_no_tiktoken(tmp_path, tiny):
    tiny.save(tmp_path / "tekken.json")
    code = """
import sys
sys.modules["tiktoken"] = None  # as if it were not installed
from earful.text.tekken import Tekken
tokenizer = Tekken.from_file(sys.argv[1])
print(tokenizer.decode([40 + byte for byte in b"spoken"]))
try:
    tokenizer.encode("spoken")
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "tekken.json")], capture_output=True, text=True)
    assert done.stderr == ""
    assert (
        done.stdout == "spoken\nEarfulError expected tiktoken to encode text, got none: pip install 'earful[voxtral]'\n"
    )


def changed(*path, to):
    """A change to a document: the value at a path of keys is replaced, or taken out where `to` is None."""

    def change(document):
        *parents, key = path
        for parent in parents:
            document = document[parent]
        if to is None:
            del document[key]
        else:
            document[key] = to

    return change


BAD = {
    "no config": (changed("config", to=None), "expected config to be of type dict, got none"),
    "no vocab": (changed("vocab", to=None), "expected vocab to be of type list, got none"),
    "vocab is a table": (changed("vocab", to={}), "expected vocab to be of type list, got dict"),
    "no pattern": (changed("config", "pattern", to=None), "expected pattern to be of type str, got none"),
    "pattern is a number": (changed("config", "pattern", to=3), "expected pattern to be of type str, got int"),
    "no size": (changed("config", "default_vocab_size", to=None), "expected default_vocab_size to be of type int"),
    "size is true": (changed("config", "default_vocab_size", to=True), "to be of type int, got bool"),
    "size is a float": (changed("config", "default_vocab_size", to=360.0), "to be of type int, got float"),
    "too many ids": (
        changed("config", "default_vocab_size", to=361),
        "expected a default_vocab_size of 296 to 360 .* got 361",
    ),
    "ids without all bytes": (changed("config", "default_vocab_size", to=295), "of 296 to 360 .* got 295"),
    "absurd specials": (
        changed("config", "default_num_special_tokens", to=10**9),
        "expected 1 to 65536 special tokens, got 1000000000",
    ),
    "no specials": (changed("config", "default_num_special_tokens", to=0), "expected 1 to 65536 special tokens, got 0"),
    "too few specials": (changed("config", "default_num_special_tokens", to=30), "of 286 to 350 .* got 360"),
    "vocab entry is text": (changed("vocab", 300, to="e"), r"expected a rank and base64 bytes in vocab\[300\]"),
    "vocab entry without bytes": (changed("vocab", 300, "token_bytes", to=None), r"vocab\[300\], got: KeyError"),
    "bytes are a number": (changed("vocab", 300, "token_bytes", to=7), r"vocab\[300\], got: TypeError"),
    "bytes are not base64": (changed("vocab", 300, "token_bytes", to="a-_b"), r"vocab\[300\], got: .*base64"),
    "bytes are cut": (changed("vocab", 300, "token_bytes", to="YWI"), r"vocab\[300\], got: .*adding"),
    "no rank": (changed("vocab", 300, "rank", to=None), r"vocab\[300\], got: KeyError"),
    "rank twice": (changed("vocab", 300, "rank", to=299), r"expected rank 300 in vocab\[300\], got 299"),
    "rank is a book": (
        changed("vocab", 300, "rank", to="1" * 10_000),
        r"expected rank 300 in vocab\[300\], got '1{1,20}\.\.\.",
    ),
    "bytes out of order": (
        changed("vocab", 65, "token_bytes", to="Qg=="),
        "expected vocab to begin with the 256 single bytes",
    ),
    "too few pieces": (changed("vocab", to=[]), "expected vocab to begin with the 256 single bytes"),
    "piece twice": (
        changed("vocab", 300, "token_bytes", to="Qg=="),
        "expected 320 different pieces in vocab, none empty, got 319",
    ),
    "empty piece": (
        changed("vocab", 300, "token_bytes", to=""),
        "expected 320 different pieces in vocab, none empty, got 319",
    ),
    "specials are a table": (changed("special_tokens", to={}), "expected special_tokens to be of type list, got dict"),
    "special is text": (
        changed("special_tokens", 5, to="<s>"),
        r"expected an unused rank below 40 in special_tokens\[5\], got None",
    ),
    "special rank is too high": (
        changed("special_tokens", 5, "rank", to=40),
        r"rank below 40 in special_tokens\[5\], got 40",
    ),
    "special rank is true": (changed("special_tokens", 5, "rank", to=True), r"special_tokens\[5\], got True"),
    "special rank is negative": (changed("special_tokens", 5, "rank", to=-1), r"special_tokens\[5\], got -1"),
    "special rank twice": (changed("special_tokens", 5, "rank", to=4), r"special_tokens\[5\], got 4"),
    "special without a name": (
        changed("special_tokens", 5, "token_str", to=None),
        r"expected a token_str in special_tokens\[5\], got None",
    ),
    "special name twice": (
        changed("special_tokens", 5, "token_str", to="<s>"),
        "expected 40 different special tokens, got 39",
    ),
    "audio is a list": (changed("audio", to=[]), "expected audio to be an object, got list"),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD)
def test_bad_files_are_named_in_one_line(tmp_path, document, change, message):
    document = copy.deepcopy(document)
    change(document)
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=message) as raised:
        Tekken.from_file(path)
    assert str(raised.value).startswith(f"{path}: expected ")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < len(str(path)) + 200


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"config": ',
        b"\xff\xfe\x00",
        b"[" * 200_000,
        b"9" * 10_000,
        b"PK\x03\x04",
        b"[]",
        b"null",
        b'"text"',
    ],
    ids=lambda data: repr(data[:8]),
)
def test_what_is_no_json_object_is_named_in_one_line(tmp_path, data):
    path = tmp_path / "tekken.json"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"expected (JSON|a JSON object), got") as raised:
        Tekken.from_file(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_missing_file_folder_and_absurd_file(tmp_path, monkeypatch, tiny):
    with pytest.raises(CheckpointError, match=r"none\.json: expected a readable file, got: No such file"):
        Tekken.from_file(tmp_path / "none.json")
    with pytest.raises(CheckpointError, match="expected a readable file, got: Is a directory"):
        Tekken.from_file(tmp_path)
    tiny.save(tmp_path / "tekken.json")
    size = (tmp_path / "tekken.json").stat().st_size
    monkeypatch.setattr(tekken, "MAX_FILE_BYTES", size)
    assert Tekken.from_file(tmp_path / "tekken.json").vocab == tiny.vocab
    monkeypatch.setattr(tekken, "MAX_FILE_BYTES", size - 1)
    with pytest.raises(CheckpointError, match=f"expected at most {size - 1} bytes, got more"):
        Tekken.from_file(tmp_path / "tekken.json")


@pytest.mark.parametrize("pattern", ["(", "[a", r"\p{Nothing}"])
def test_bad_pattern_is_named_in_one_line_when_it_is_needed(document, pattern):
    tokenizer = Tekken.from_json({**document, "config": {**document["config"], "pattern": pattern}}, "some.json")
    assert tokenizer.decode([40 + ord("a")]) == "a"
    with pytest.raises(CheckpointError, match=r"some\.json: expected a pattern that can be compiled, got: ") as raised:
        tokenizer.encode("a")
    assert "\n" not in str(raised.value)


def test_the_errors_are_the_projects_own():
    assert issubclass(CheckpointError, EarfulError)


# --- mistral-common -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, tiny):
    reader = pytest.importorskip("mistral_common.tokens.tokenizers.tekken")
    path = tmp_path_factory.mktemp("reference") / "tekken.json"
    tiny.save(path)
    return reader.Tekkenizer.from_file(path)


@pytest.mark.reference
@given(text=TEXTS)
def test_encodes_as_the_reference(tiny, theirs, text):
    assert tiny.encode(text) == theirs.encode(text, bos=False, eos=False)


@pytest.mark.reference
@given(st.lists(st.integers(0, 359)))
def test_decodes_as_the_reference_but_for_cut_characters(tiny, theirs, ids):
    text = [id for id in ids if id >= 40]
    assert tiny.decode(ids) == tiny.decode(text) == theirs.decode(text)
    # The reference decodes each run between special tokens alone, so that one within a character destroys it.
    runs, run = [], []
    for id in [*ids, 0]:
        if id < 40:
            runs.append(tiny.decode(run))
            run = []
        else:
            run.append(id)
    assert theirs.decode(ids) == "".join(runs)


@pytest.mark.reference
def test_a_special_token_within_a_character_is_the_documented_difference(tiny, theirs):
    head, tail = (40 + byte for byte in "é".encode())
    assert tiny.decode([head, 33, tail]) == "é"
    assert theirs.decode([head, 33, tail]) == "��"


@pytest.mark.reference
def test_reads_the_vocabulary_as_the_reference(tiny, theirs):
    assert tiny.vocab == theirs.n_words
    assert [tiny.token_bytes(id) for id in range(tiny.vocab)] == [
        theirs.id_to_byte_piece(id) for id in range(tiny.vocab)
    ]
    assert all(theirs.get_special_token(name) == id for name, id in tiny.special_tokens.items())


@pytest.mark.reference
@pytest.mark.parametrize("vocab", [296, 310, 360])
def test_old_files_and_cut_ones_as_the_reference(tmp_path, document, vocab):
    reader = pytest.importorskip("mistral_common.tokens.tokenizers.tekken")
    document = copy.deepcopy(document)
    document["config"] |= {"default_vocab_size": vocab, "version": "v3"}
    del document["special_tokens"], document["audio"]
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps(document))
    ours, theirs = Tekken.from_file(path), reader.Tekkenizer.from_file(path)
    assert ours.special_tokens == {theirs.id_to_piece(id): id for id in range(40)}
    text = " the weather in 東京 today, größer 🙂🎧"
    assert ours.encode(text) == theirs.encode(text, bos=False, eos=False)


@pytest.mark.reference
def test_a_published_file_as_the_reference(tmp_path):
    package = pytest.importorskip("mistral_common")
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    path = Path(package.__file__).parent / "data" / "tekken_240911.json"
    ours, theirs = Tekken.from_file(path), Tekkenizer.from_file(path)
    assert ours.vocab == theirs.n_words == 131_072
    assert ours.to_json() == json.loads(path.read_bytes())

    @given(st.text())
    def same(text):
        ids = ours.encode(text)
        assert ids == theirs.encode(text, bos=False, eos=False)
        assert ours.decode(ids) == theirs.decode(ids) == text

    same()
