"""Learns a byte-level BPE vocabulary from text and writes it as a tekken tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Regex
from tokenizers import Tokenizer as Trained
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

from earful.text.tekken import BYTES, OLD_SPECIAL_TOKENS, Tekken

# A piece lies within one word and its leading space; of several spaces the last goes with the word.
WORD_PATTERN = r" ?\S+|\s+(?!\S)|\s+"

# Id to name, as in Mistral's files: the common ones, which mistral-common insists on, and those of streaming speech.
SPEECH_TOKENS = dict(enumerate(OLD_SPECIAL_TOKENS)) | {
    24: "[AUDIO]",
    25: "[BEGIN_AUDIO]",
    32: "[STREAMING_PAD]",
    33: "[STREAMING_WORD]",
    34: "[REPEAT_AUDIO_TEXT]",
}

VERSION = "v7"  # the oldest for which mistral-common takes an audio block; younger ones insist on more names
SLOT_MS = 80

TINY_LINES = (
    " the quick brown fox jumps over the lazy dog and then the other one",
    " one two three four five six seven eight nine ten; the weather is nice today, is it not?",
    " der Fuß, die Füße, größer, schöner, über die Brücke",
    " été, forêt, déjà, élève, café",
    " 日本語 日本 東京 東大 今日 今年",
    " 🙂 🙂🙂 🙃 🙂🎧",
)


def train_tekken(
    lines: Iterable[str],
    pieces: int,
    special_tokens: Mapping[int, str],
    num_special: int,
    audio: Mapping[str, Any] | None = None,
    pattern: str = WORD_PATTERN,
) -> Tekken:
    """Learn `pieces` byte-level pieces, the 256 bytes included, from lines of text.

    A word is learned with its leading space only where the lines have one, so give " good morning".
    special_tokens: id to name; ids below `num_special` without a name are called <SPECIAL_i>.
    Raises `ValueError` where the lines do not hold enough pairs to merge, or an id is outside `num_special`.
    Source: Sennrich et al. 2016, on bytes.
    """
    if not set(special_tokens) <= set(range(num_special)):
        raise ValueError(f"expected special token ids below {num_special}, got {max(special_tokens)}")
    names = [special_tokens.get(rank, f"<SPECIAL_{rank}>") for rank in range(num_special)]
    header = {
        "config": {
            "pattern": pattern,
            "num_vocab_tokens": pieces,
            "default_vocab_size": num_special + pieces,
            "default_num_special_tokens": num_special,
            "version": VERSION,
        },
        "special_tokens": [{"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)],
    }
    if audio is not None:
        header["audio"] = dict(audio)
    return Tekken(header, merged_pieces(train_bpe(lines, pieces, pattern)))


def audio_block(
    hop: int, window: int, bins: int, left_slots: int, delay_slots: int, rate_hz: int = 16_000
) -> dict[str, Any]:
    """The audio block of a streaming model of 80 ms slots; hop and window in samples.

    A slot looks back over the four mel frames that the two convolutions see of its past, and half a window at either
    end: Mistral's own 52.5 ms and 2.5 ms come out of a hop of 160 and a window of 400. Where the hop is longer than
    half the window nothing beyond the slot is needed.
    """
    return {
        "sampling_rate": rate_hz,
        "frame_rate": 1000 / SLOT_MS,
        "audio_encoding_config": {"num_mel_bins": bins, "hop_length": hop, "window_size": window},
        "transcription_format": "streaming",
        "transcription_delay_ms": delay_slots * SLOT_MS,
        "streaming_look_ahead_ms": max(0, window // 2 - hop) * 1000 / rate_hz,
        "streaming_look_back_ms": (window // 2 + 4 * hop) * 1000 / rate_hz,
        "streaming_n_left_pad_tokens": left_slots,
    }


def tiny_tekken(
    hop: int, window: int, bins: int, left_slots: int, delay_slots: int, num_special: int = 40, pieces: int = 320
) -> Tekken:
    """A small tokenizer for tests, always the same: some English words, some pieces with several bytes a character."""
    audio = audio_block(hop, window, bins, left_slots, delay_slots)
    return train_tekken(TINY_LINES, pieces, SPEECH_TOKENS, num_special, audio)


def train_bpe(lines: Iterable[str], pieces: int, pattern: str = WORD_PATTERN) -> Trained:
    """The model behind `train_tekken`, as the `tokenizers` library writes it."""
    trained = Trained(BPE())
    # Split by the pattern, then write every byte as one printable character, as GPT-2 does.
    to_characters = ByteLevel(add_prefix_space=False, use_regex=False)
    trained.pre_tokenizer = Sequence([Split(Regex(pattern), "isolated"), to_characters])
    trainer = BpeTrainer(vocab_size=pieces, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    trained.train_from_iterator(lines, trainer)
    if trained.get_vocab_size() != pieces:
        raise ValueError(f"expected lines with enough pairs for {pieces} pieces, got {trained.get_vocab_size()}")
    return trained


def merged_pieces(trained: Trained) -> list[bytes]:
    """Bytes of each rank: the 256 single bytes, then the merged pieces in the order in which they were learned.

    Merging the pair whose union has the lowest rank then gives the trained segmentation, although the merges
    themselves are not kept: a piece that was learned from one pair is never met as another pair in the same text.
    """
    vocab = trained.get_vocab()
    in_order = sorted(vocab, key=vocab.__getitem__)  # learned pieces have rising ids after the alphabet
    byte_of = _printable_bytes()
    learned = [bytes(byte_of[character] for character in piece) for piece in in_order if len(piece) > 1]
    return [bytes([byte]) for byte in range(BYTES)] + learned


def _printable_bytes() -> dict[str, int]:
    """GPT-2's alphabet: bytes that print stand for themselves, the others are counted from U+0100."""
    printing = [byte for byte in range(BYTES) if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174]
    others = [byte for byte in range(BYTES) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(BYTES + i): byte for i, byte in enumerate(others)}
