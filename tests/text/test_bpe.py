"""Learning a byte-level vocabulary, the tokenizer for tests, and the built-in one."""

import random
from importlib.resources import files
from string import ascii_lowercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earful.text.bpe import SPEECH_TOKENS, audio_block, merged_pieces, tiny_tekken, train_bpe, train_tekken
from earful.text.tekken import Tekken

BUILTIN = files("earful") / "builtin" / "tekken.json"

# Few letters make many overlapping pairs (aaa, abab), which is where two ways of merging could part.
LETTERS = "aab éí"


def random_lines(seed: int, lines: int = 60) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(LETTERS, k=draw.randint(1, 30))) for _ in range(lines)]


def segments(trained, text: str) -> list[bytes]:
    """The bytes of each piece, as the library's own model cuts the text."""
    vocab = trained.get_vocab()
    learned = sorted((token for token in vocab if len(token) > 1), key=vocab.__getitem__)
    pieces = dict(zip(learned, merged_pieces(trained)[256:], strict=True))
    single = {token: piece for token, piece in zip(sorted(set(vocab) - set(learned)), SORTED_BYTES, strict=True)}
    return [pieces.get(token) or single[token] for token in trained.encode(text).tokens]


# GPT-2's byte characters in the order of their code points: first the bytes that print, then all the others.
PRINTING = [*range(33, 127), *range(161, 173), *range(174, 256)]
SORTED_BYTES = [bytes([byte]) for byte in [*PRINTING, *(byte for byte in range(256) if byte not in PRINTING)]]


@pytest.fixture(scope="module", params=range(4))
def pair(request):
    """The trained model and the tekken tokenizer of the same lines."""
    lines = random_lines(request.param)
    return train_bpe(lines, 256 + 70), train_tekken(lines, 256 + 70, {0: "<unk>"}, num_special=3)


@given(text=st.text(LETTERS, max_size=60) | st.text(max_size=20))
def test_merging_by_rank_gives_the_trained_segmentation(pair, text):
    trained, tokenizer = pair
    assert [tokenizer.token_bytes(id) for id in tokenizer.encode(text)] == segments(trained, text)


def test_ranks_are_the_bytes_then_the_merges():
    tokenizer = train_tekken(["abab ab", "abab", "abab", " ab"], 256 + 3, {1: "<s>"}, num_special=5)
    assert tokenizer.pieces[:256] == [bytes([byte]) for byte in range(256)]
    assert tokenizer.pieces[256:] == [b"ab", b"abab", b" ab"]
    assert tokenizer.vocab == 5 + 259
    assert tokenizer.special_tokens == {
        "<SPECIAL_0>": 0,
        "<s>": 1,
        "<SPECIAL_2>": 2,
        "<SPECIAL_3>": 3,
        "<SPECIAL_4>": 4,
    }
    assert tokenizer.audio is None


@given(text=st.text(" \n\tab", max_size=20) | st.text(max_size=20))
def test_no_piece_reaches_over_a_word(pair, text):
    _, tokenizer = pair
    assert all(is_within_a_word(tokenizer.token_bytes(id)) for id in tokenizer.encode(text))


def is_within_a_word(piece: bytes) -> bool:
    return piece.isspace() or b" " not in piece[1:]


def test_of_several_spaces_the_last_goes_with_the_word():
    tokenizer = train_tekken([" ab ab"] * 3, 256 + 2, {}, num_special=1)
    assert b" ab" in tokenizer.pieces
    assert [tokenizer.token_bytes(id) for id in tokenizer.encode("   ab")] == [b" ", b" ", b" ab"]


def test_training_is_deterministic():
    lines = random_lines(9)
    first = train_tekken(lines, 320, {}, num_special=1)
    assert train_tekken(iter(lines), 320, {}, num_special=1).to_json() == first.to_json()


def test_too_little_text_and_ids_outside_are_refused():
    with pytest.raises(ValueError, match="expected lines with enough pairs for 300 pieces, got 258"):
        train_tekken(["abc"], 300, {}, num_special=1)
    with pytest.raises(ValueError, match="expected special token ids below 34, got 34"):
        train_tekken(random_lines(0), 256, SPEECH_TOKENS, num_special=34)


def test_audio_block_gives_the_published_figures():
    assert audio_block(hop=160, window=400, bins=128, left_slots=32, delay_slots=6) == {
        "sampling_rate": 16000,
        "frame_rate": 12.5,
        "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
        "transcription_format": "streaming",
        "transcription_delay_ms": 480,
        "streaming_look_ahead_ms": 2.5,
        "streaming_look_back_ms": 52.5,
        "streaming_n_left_pad_tokens": 32,
    }


def test_the_tiny_tokenizer_has_pieces_that_cut_characters():
    tiny = tiny_tekken(hop=160, window=400, bins=8, left_slots=4, delay_slots=3)
    assert tiny.to_json() == tiny_tekken(160, 400, 8, 4, 3).to_json()
    assert (tiny.vocab, len(tiny.special_tokens)) == (360, 40)
    learned = tiny.pieces[256:]
    assert any(not piece.isascii() and piece.decode("utf-8", "replace").count("�") == 0 for piece in learned)
    assert any("�" in piece.decode("utf-8", "replace") for piece in learned)
    small = tiny_tekken(160, 400, 8, 4, 3, num_special=35, pieces=260)
    assert small.vocab == 295


def test_the_built_in_tokenizer():
    tokenizer = Tekken.from_file(str(BUILTIN))
    assert (tokenizer.vocab, len(tokenizer.special_tokens), len(tokenizer.pieces)) == (1088, 64, 1024)
    names = {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 11, "[AUDIO]": 24, "[BEGIN_AUDIO]": 25, "[STREAMING_PAD]": 32}
    names |= {"[STREAMING_WORD]": 33, "[REPEAT_AUDIO_TEXT]": 34, "<SPECIAL_63>": 63}
    assert names.items() <= tokenizer.special_tokens.items()
    assert tokenizer.audio == audio_block(hop=320, window=512, bins=80, left_slots=2, delay_slots=12)
    assert all(is_within_a_word(piece) for piece in tokenizer.pieces)
    # What is spelled out, and the digits, take one slot each.
    digits = ["zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert all(len(tokenizer.encode(f" {word}")) == 1 for word in [*ascii_lowercase, *digits])


# --- mistral-common -------------------------------------------------------------------------------------------------


@pytest.mark.reference
@pytest.mark.parametrize(
    "hop, window, bins, left_slots, delay_slots", [(160, 400, 128, 32, 6), (320, 512, 80, 2, 12), (80, 200, 8, 1, 30)]
)
def test_mistral_common_takes_the_whole_file(tmp_path, hop, window, bins, left_slots, delay_slots):
    reader = pytest.importorskip("mistral_common.tokens.tokenizers.mistral")
    ours = tiny_tekken(hop, window, bins, left_slots, delay_slots)
    ours.save(tmp_path / "tekken.json")
    theirs = reader.MistralTokenizer.from_file(str(tmp_path / "tekken.json")).instruct_tokenizer
    audio = theirs.audio_encoder.audio_config
    assert theirs.tokenizer.n_words == ours.vocab
    assert audio.get_num_delay_tokens() == delay_slots
    assert audio.n_left_pad_tokens == left_slots
    assert audio.n_right_pad_tokens() == delay_slots + 11
    assert audio.raw_audio_length_per_tok == 1280
    assert audio.audio_length_per_tok == 1280 // hop
    assert theirs.audio_encoder.encode_streaming_tokens() == [32] * (left_slots + delay_slots)


@pytest.mark.reference
def test_mistral_common_takes_the_built_in_file():
    reader = pytest.importorskip("mistral_common.tokens.tokenizers.mistral")
    theirs = reader.MistralTokenizer.from_file(str(BUILTIN)).instruct_tokenizer
    ours = Tekken.from_file(str(BUILTIN))
    assert theirs.tokenizer.special_ids == set(ours.special_tokens.values())
    text = " what's the weather like in größer 東京 today"
    assert ours.encode(text) == theirs.tokenizer.encode(text, bos=False, eos=False)
