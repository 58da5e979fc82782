"""Learning a SentencePiece vocabulary from text."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from earful.text.sentencepiece import SentencePiece

PAD = 3  # the id of the piece that stands for a frame without text, as in Kyutai's vocabularies


def train_unigram(lines: Iterable[str], vocab: int, path: str | Path) -> SentencePiece:
    """A vocabulary of at most `vocab` pieces: the four special ones, every byte, and what the lines are best cut into.

    path: the tokenizer.model to write. Text is taken as it stands. Raises ValueError where there is too little of it,
    or too small a vocabulary. Source: SentencePiece (Kudo and Richardson 2018), whose own trainer this is.
    """
    return _train(lines, vocab, path, byte_fallback=True, pad_id=PAD)


def train_pieces(lines: Iterable[str], vocab: int, path: str | Path, tags: Sequence[str] = ()) -> SentencePiece:
    """The same without bytes, as fairseq has it: <s>, <pad>, </s>, <unk>, then `tags`, then what lines are cut into."""
    ids = {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3}
    return _train(lines, vocab, path, user_defined_symbols=list(tags), **ids)


def _train(lines: Iterable[str], vocab: int, path: str | Path, **options: Any) -> SentencePiece:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="identity",
            num_threads=1,
            minloglevel=2,
            **options,
        )
    except RuntimeError as error:
        raise ValueError(f"expected enough text for {vocab} pieces, got: {' '.join(str(error).split())}") from error
    Path(path).write_bytes(model.getvalue())
    return SentencePiece.from_file(path)
