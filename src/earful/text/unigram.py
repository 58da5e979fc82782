"""Learning a SentencePiece vocabulary from text."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from earful.text.sentencepiece import SentencePiece

PAD = 3  # the id of the piece that stands for a frame without text, as in Kyutai's vocabularies


def train_unigram(lines: Iterable[str], vocab: int, path: str | Path) -> SentencePiece:
    """A vocabulary of at most `vocab` pieces: the four special ones, every byte, and what the lines are best cut into.

    path: the tokenizer.model to write. Text is taken as it stands. Raises ValueError where there is too little of it,
    or too small a vocabulary. Source: SentencePiece (Kudo and Richardson 2018), whose own trainer this is.
    """
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            pad_id=PAD,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"expected enough text for {vocab} pieces, got: {' '.join(str(error).split())}") from error
    Path(path).write_bytes(model.getvalue())
    return SentencePiece.from_file(path)
