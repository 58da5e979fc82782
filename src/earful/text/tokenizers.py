"""Hugging Face's tokenizer.json through their own library: the very ids and the very text of their classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer

from earful.errors import CheckpointError

MAX_FILE_BYTES = 64 << 20  # published files have 0.3 MB, those of large vocabularies 20 MB


class JsonTokenizer:
    """Text to ids and back, as a tokenizer.json describes it.

    Special ids stand for no text; so does an id outside the vocabulary.
    Source: the file format of the `tokenizers` library.
    """

    def __init__(self, document: str, name: str = "tokenizer.json") -> None:
        """document: the file's content; name: how a `CheckpointError` for what is not understood begins."""
        self.name, self.document = name, document
        try:
            self._tokenizer = Tokenizer.from_str(document)
        except Exception as error:  # the library raises no other kind
            raise CheckpointError(f"{name}: expected a tokenizer, got: {' '.join(str(error).split())}") from error
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_tokens = {token.content: id for id, token in sorted(added.items()) if token.special}

    @classmethod
    def from_file(cls, path: str | Path) -> JsonTokenizer:
        """Read a tokenizer.json; raises `CheckpointError` naming the file and what is wrong with it."""
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise CheckpointError(f"{path}: expected a readable file, got: {error.strerror}") from error
        if len(data) > MAX_FILE_BYTES:
            raise CheckpointError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, got more")
        try:
            return cls(data.decode("utf-8"), str(path))
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path}: expected UTF-8, got: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the file as it was read."""
        Path(path).write_text(self.document, encoding="utf-8")

    @property
    def vocab(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without any special token."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        """Text of ids. Special ids stand for nothing, or, when kept, for their names."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not keep_special))
