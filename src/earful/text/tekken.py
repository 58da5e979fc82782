"""Mistral's tekken.json: byte-level BPE whose first ids are special tokens."""

from __future__ import annotations

import binascii
import json
import reprlib
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earful.errors import CheckpointError, EarfulError

if TYPE_CHECKING:
    import tiktoken

BYTES = 256  # the first ranks are the single bytes, so that any text can be encoded
MAX_FILE_BYTES = 128 << 20  # published files have 15 to 20 MB
MAX_SPECIAL_TOKENS = 1 << 16  # published files have 1000

# What a file of version 7 or older means when it lists no special tokens.
OLD_SPECIAL_TOKENS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)


class Tekken:
    """Text to ids and back, as a tekken.json describes it.

    Id `i` is special below `len(special_tokens)`, and the piece of rank `i - len(special_tokens)` from there to
    `vocab`; the file may list more pieces than are used. Decoding needs nothing installed, encoding needs tiktoken.
    Source: the tekken.json files published by Mistral, and their reader in mistral-common.
    """

    def __init__(self, header: Mapping[str, Any], pieces: Sequence[bytes], name: str = "tekken.json") -> None:
        """header: the file without its vocab; pieces: the bytes of every listed rank; name: for error messages."""
        self.name = name
        self.pieces = pieces
        self._header = header
        config = _part(header, "config", dict, name)
        self.pattern: str = _part(config, "pattern", str, name)
        self.vocab: int = _part(config, "default_vocab_size", int, name)
        count = _part(config, "default_num_special_tokens", int, name)
        if not 0 < count <= MAX_SPECIAL_TOKENS:
            raise CheckpointError(f"{name}: expected 1 to {MAX_SPECIAL_TOKENS} special tokens, got {count}")
        if not count + BYTES <= self.vocab <= count + len(pieces):
            raise CheckpointError(
                f"{name}: expected a default_vocab_size of {count + BYTES} to {count + len(pieces)} "
                f"({count} special tokens, {len(pieces)} pieces), got {self.vocab}"
            )
        self.special_tokens = _special_tokens(header, count, name)
        self.audio: dict[str, Any] | None = header.get("audio")
        if not isinstance(self.audio, dict | None):
            raise CheckpointError(f"{name}: expected audio to be an object, got {type(self.audio).__name__}")

    @classmethod
    def from_file(cls, path: str | Path) -> Tekken:
        """Read a tekken.json; raises `CheckpointError` naming the file and what is wrong with it."""
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise CheckpointError(f"{path}: expected a readable file, got: {error.strerror}") from error
        if len(data) > MAX_FILE_BYTES:
            raise CheckpointError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, got more")
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, a number too long, nesting too deep
            raise CheckpointError(f"{path}: expected JSON, got: {error}") from error
        return cls.from_json(document, str(path))

    @classmethod
    def from_json(cls, document: Any, name: str = "tekken.json") -> Tekken:
        """Take a parsed tekken.json, which is not changed; raises `CheckpointError` that begins with `name`."""
        if not isinstance(document, dict):
            raise CheckpointError(f"{name}: expected a JSON object, got {type(document).__name__}")
        pieces = _pieces(_part(document, "vocab", list, name), name)
        return cls({key: value for key, value in document.items() if key != "vocab"}, pieces, name)

    def to_json(self) -> dict[str, Any]:
        """The document that `from_json` takes."""
        return {**self._header, "vocab": [_row(rank, piece) for rank, piece in enumerate(self.pieces)]}

    def save(self, path: str | Path) -> None:
        """Write a compact tekken.json."""
        Path(path).write_text(json.dumps(self.to_json(), separators=(",", ":")) + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without any special token; raises `EarfulError` where tiktoken is not installed."""
        offset = len(self.special_tokens)
        return [rank + offset for rank in self._encoding.encode_ordinary(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids: special ids are dropped, then what is not UTF-8 is replaced; raises like `token_bytes`."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one id, none for a special id; raises `ValueError` outside the vocabulary."""
        if not 0 <= id < self.vocab:
            raise ValueError(f"expected an id of 0 to {self.vocab - 1}, got {id}")
        rank = id - len(self.special_tokens)
        return self.pieces[rank] if rank >= 0 else b""

    def special_id(self, token: str) -> int:
        """The id of a special token by its name; raises `CheckpointError` where the file has no such name."""
        if token not in self.special_tokens:
            raise CheckpointError(f"{self.name}: expected a special token {token}, got none of that name")
        return self.special_tokens[token]

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        try:
            import tiktoken
        except ImportError as error:
            raise EarfulError("expected tiktoken to encode text, got none: pip install 'earful[voxtral]'") from error
        used = self.pieces[: self.vocab - len(self.special_tokens)]
        ranks = {piece: rank for rank, piece in enumerate(used)}
        try:
            return tiktoken.Encoding("tekken", pat_str=self.pattern, mergeable_ranks=ranks, special_tokens={})
        except ValueError as error:
            why = " ".join(str(error).split())  # a drawing over several lines
            raise CheckpointError(f"{self.name}: expected a pattern that can be compiled, got: {why}") from error


def _part(table: Mapping[str, Any], key: str, kind: type[Any], name: str) -> Any:
    value = table.get(key)
    if type(value) is not kind:  # not isinstance: True is no size
        got = "none" if key not in table else type(value).__name__
        raise CheckpointError(f"{name}: expected {key} to be of type {kind.__name__}, got {got}")
    return value


def _pieces(rows: list[Any], name: str) -> list[bytes]:
    pieces = []
    for rank, row in enumerate(rows):
        try:
            listed = row["rank"]
            pieces.append(binascii.a2b_base64(row["token_bytes"], strict_mode=True))
        except (TypeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{name}: expected a rank and base64 bytes in vocab[{rank}], got: {error!r}"
            ) from error
        if listed != rank:
            raise CheckpointError(f"{name}: expected rank {rank} in vocab[{rank}], got {reprlib.repr(listed)}")
    if pieces[:BYTES] != [bytes([byte]) for byte in range(BYTES)]:
        raise CheckpointError(
            f"{name}: expected vocab to begin with the {BYTES} single bytes in order, got other pieces"
        )
    different = len(set(pieces) - {b""})
    if different != len(pieces):
        raise CheckpointError(f"{name}: expected {len(pieces)} different pieces in vocab, none empty, got {different}")
    return pieces


def _row(rank: int, piece: bytes) -> dict[str, Any]:
    text: str | None
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    return {"rank": rank, "token_bytes": b64encode(piece).decode("ascii"), "token_str": text}


def _special_tokens(header: Mapping[str, Any], count: int, name: str) -> dict[str, int]:
    """Name to id, ids in order; ids that are not listed are called <SPECIAL_i>."""
    rows = header.get("special_tokens")
    if rows is None:
        rows = [{"rank": rank, "token_str": text} for rank, text in enumerate(OLD_SPECIAL_TOKENS[:count])]
    if not isinstance(rows, list):
        raise CheckpointError(f"{name}: expected special_tokens to be of type list, got {type(rows).__name__}")
    names: dict[int, str] = {}
    for index, row in enumerate(rows):
        rank, text = (row.get("rank"), row.get("token_str")) if isinstance(row, dict) else (None, None)
        if type(rank) is not int or not 0 <= rank < count or rank in names:
            got = reprlib.repr(rank)
            raise CheckpointError(
                f"{name}: expected an unused rank below {count} in special_tokens[{index}], got {got}"
            )
        if type(text) is not str:
            raise CheckpointError(f"{name}: expected a token_str in special_tokens[{index}], got {reprlib.repr(text)}")
        names[rank] = text
    special_tokens = {names.get(rank, f"<SPECIAL_{rank}>"): rank for rank in range(count)}
    if len(special_tokens) != count:
        raise CheckpointError(f"{name}: expected {count} different special tokens, got {len(special_tokens)}")
    return special_tokens
