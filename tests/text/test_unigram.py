"""Vocabularies learned from text are what Kyutai's models have: special ids in their places, every byte, both files."""

from __future__ import annotations

from pathlib import Path

import pytest

from earful.text.sentencepiece import SentencePiece
from earful.text.unigram import PAD, train_unigram

LINES = ["turn the lights off", "turn the lights on", "set a timer for ten minutes", "what is the time"] * 5


def test_a_learned_vocabulary(tmp_path: Path) -> None:
    learned = train_unigram(LINES, 300, tmp_path / "tokenizer.model")
    assert learned.vocab <= 300
    assert [learned.piece(id) for id in range(4)] == ["<unk>", "<s>", "</s>", "<pad>"]
    assert learned.is_special(PAD)
    assert {learned.token_bytes(id) for id in range(4, 260)} == {bytes([byte]) for byte in range(256)}
    for line in [*LINES, "été 日本", "  two  spaces"]:
        assert learned.decode(learned.encode(line)) == " ".join(line.split())
    assert len(learned.encode("turn the lights off")) < len(" turn the lights off")


def test_words_alone_are_cut_as_in_their_line(tmp_path: Path) -> None:
    """Training writes word by word."""
    learned = train_unigram(LINES, 300, tmp_path / "tokenizer.model")
    for line in LINES:
        assert learned.encode(line) == [id for word in line.split() for id in learned.encode(word)]


def test_it_can_be_written_as_the_other_file(tmp_path: Path) -> None:
    learned = train_unigram(LINES, 300, tmp_path / "tokenizer.model")
    learned.save(tmp_path / "tokenizer.json")
    again = SentencePiece.from_file(tmp_path / "tokenizer.json")
    assert again.pieces == learned.pieces


def test_too_small_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected enough text for 100 pieces, got: .*Vocabulary size is smaller"):
        train_unigram(LINES, 100, tmp_path / "tokenizer.model")
    assert not (tmp_path / "tokenizer.model").exists()
