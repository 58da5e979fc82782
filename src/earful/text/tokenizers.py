"""Hugging Face's tokenizer.json in their own library: the very ids and the very text of their classes."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from earful.errors import CheckpointError
from earful.text.sentencepiece import SPACE, SentencePiece

SPECIAL_PIECES = ("<unk>", "<s>", "</s>", "<pad>")  # the first ids of Kyutai's vocabularies


class JsonTokenizer:
    """Text to ids and back as the `tokenizers` library does it with a tokenizer.json.

    Special ids stand for no text; so does an id outside the vocabulary.
    Source: the file format of that library.
    """

    def __init__(self, pieces: SentencePiece) -> None:
        """Raises `CheckpointError` for a vocabulary that such a file cannot hold."""
        self.pieces = pieces
        try:
            self._tokenizer = Tokenizer.from_buffer(pieces.to_json())
        except Exception as error:  # the library raises no other kind
            raise CheckpointError(
                f"{pieces.name}: expected a tokenizer, got: {' '.join(str(error).split())}"
            ) from error
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_tokens = {token.content: id for id, token in sorted(added.items()) if token.special}

    @classmethod
    def from_file(cls, path: str | Path) -> JsonTokenizer:
        """Of either kind of file; raises `CheckpointError` naming the file and what is wrong with it."""
        return cls(SentencePiece.from_file(path))

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json, the very one that was read if it was one."""
        Path(path).write_bytes(self.pieces.to_json())

    @property
    def vocab(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without any special token."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        """Text of ids. Special ids stand for nothing, or, when kept, for their names."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not keep_special))


def unigram_json(
    pieces: Sequence[tuple[str, float]], special_pieces: Sequence[str] = SPECIAL_PIECES, charsmap: bytes = b""
) -> str:
    """A tokenizer.json that does what a SentencePiece unigram model with these pieces and scores does.

    pieces: by id, the unknown one first and one for every byte among them. charsmap: the model's own table by which
    text is normalised first, empty for none.
    Text that begins with a space gets no second one.
    Source: the conversion of Kyutai's vocabularies in transformers 5.23.
    """
    ids = {piece: id for id, (piece, _) in enumerate(pieces)}
    normalizers: list[dict[str, object]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    if charsmap:
        normalizers.insert(0, {"type": "Precompiled", "precompiled_charsmap": b64encode(charsmap).decode("ascii")})
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    decoders = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[piece], "content": piece, **plain} for piece in special_pieces],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False},
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": True, "vocab": [list(pair) for pair in pieces]},
    }
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"
