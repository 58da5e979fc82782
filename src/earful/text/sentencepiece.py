"""SentencePiece vocabularies: ids to text here, text to ids with the sentencepiece library.

Two files hold the same vocabulary: tokenizer.model, a protocol buffer, and tokenizer.json, which Hugging Face's
libraries read. Either becomes the other.
Source: SentencePiece (Kudo and Richardson 2018), https://github.com/google/sentencepiece (sentencepiece_model.proto).
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from earful.errors import CheckpointError
from earful.text import protobuf

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

MAX_FILE_BYTES = 64 << 20  # published files have 0.1 to 2 MB
SPACE = "\u2581"  # how a space is written in a piece
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
Value = TypeVar("Value", int, float, bytes)
UNIGRAM = 1  # the kind of model that both files can hold


class Kind(IntEnum):
    """What a piece is, by its number in the file."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    text: str
    score: float = 0.0
    kind: Kind = Kind.NORMAL


class SentencePiece:
    """Text to ids and back, as a tokenizer.model or tokenizer.json describes it.

    Decoding needs no library. What a vocabulary has no piece for is written with byte pieces, one to a byte of UTF-8.
    """

    def __init__(self, pieces: Sequence[Piece], charsmap: bytes = b"", name: str = "tokenizer.model") -> None:
        """charsmap: the rules by which text is normalised before it is cut, in SentencePiece's form; name: for errors.

        Raises `CheckpointError` where there is no piece for what is unknown, or a byte piece that is none.
        """
        self.pieces, self.charsmap, self.name = list(pieces), charsmap, name
        unknown = sum(piece.kind == Kind.UNKNOWN for piece in self.pieces)
        if unknown != 1:
            raise CheckpointError(f"{name}: expected one piece for what is unknown, got {unknown}")
        self._bytes = [_bytes(piece, name) for piece in self.pieces]
        self._files: dict[str, bytes] = {}  # the file that this was read from, by its format

    @classmethod
    def from_file(cls, path: str | Path) -> SentencePiece:
        """Read either kind of file; raises `CheckpointError` naming the file and what is wrong with it."""
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise CheckpointError(f"{path}: expected a readable file, got: {error.strerror}") from error
        if len(data) > MAX_FILE_BYTES:
            raise CheckpointError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, got more")
        if data.lstrip()[:1] == b"{":
            result = cls(*_from_json(data, str(path)), str(path))
            result._files["json"] = data
        else:
            result = cls(*_from_model(data, str(path)), str(path))
            result._files["model"] = data
        return result

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json where the name ends so, else a tokenizer.model; raises like `to_json`."""
        Path(path).write_bytes(self.to_json() if str(path).endswith(".json") else self.to_model())

    @property
    def vocab(self) -> int:
        return len(self.pieces)

    def piece(self, id: int) -> str:
        """A piece as the file spells it; raises `ValueError` outside the vocabulary."""
        return self.pieces[self._within(id)].text

    def is_special(self, id: int) -> bool:
        """Whether an id stands for no text; raises `ValueError` outside the vocabulary."""
        return self.pieces[self._within(id)].kind in (Kind.UNKNOWN, Kind.CONTROL)

    def token_bytes(self, id: int) -> bytes:
        """What an id adds to a text: UTF-8, a single byte, or nothing; raises `ValueError` outside the vocabulary."""
        return self._bytes[self._within(id)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids without the space that every text begins with; what is not UTF-8 is replaced."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace").removeprefix(" ")

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without any special one."""
        return self._processor.encode(text)  # type: ignore[no-any-return]

    def cut(self, text: str, **sampling: Any) -> list[str]:
        """A text in pieces, as the file spells them; what is unknown is one as it stands.

        sampling: how pieces are drawn at random for training, under the library's names: enable_sampling, nbest_size,
        alpha.
        """
        return self._processor.encode(text, out_type=str, **sampling)  # type: ignore[no-any-return]

    def _within(self, id: int) -> int:
        if not 0 <= id < len(self.pieces):
            raise ValueError(f"expected an id of 0 to {len(self.pieces) - 1}, got {id}")
        return id

    @cached_property
    def _processor(self) -> SentencePieceProcessor:
        from sentencepiece import SentencePieceProcessor  # most of what is done with a model needs only decoding

        try:
            return SentencePieceProcessor(model_proto=self.to_model())
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(f"{self.name}: expected a SentencePiece model, got: {_line(error)}") from error

    # ------------------------------------------------------------------------------------------- the two kinds of file

    @property
    def _byte_fallback(self) -> bool:
        return any(piece.kind == Kind.BYTE for piece in self.pieces)

    def to_model(self) -> bytes:
        """A tokenizer.model, the one that was read if it was one."""
        if "model" in self._files:
            return self._files["model"]

        def message(numbers: Mapping[str, int], **values: protobuf.Value) -> bytes:
            return protobuf.encoded([(numbers[key], value) for key, value in values.items()])

        parts: list[protobuf.Field] = [
            (MODEL["piece"], message(PIECE, text=piece.text.encode(), score=piece.score, kind=int(piece.kind)))
            for piece in self.pieces
        ]
        trainer = message(TRAINER, model_type=UNIGRAM, vocab_size=self.vocab, byte_fallback=int(self._byte_fallback))
        normalizer = message(NORMALIZER, charsmap=self.charsmap, space_before=1, no_double_spaces=1, spaces_as_pieces=1)
        return protobuf.encoded([*parts, (MODEL["trainer"], trainer), (MODEL["normalizer"], normalizer)])

    def to_json(self) -> bytes:
        """A tokenizer.json, the one that was read if it was one; raises `CheckpointError` for what it cannot say."""
        from earful.text.tokenizers import unigram_json  # imports a library that reading needs not

        if "json" in self._files:
            return self._files["json"]
        if _model_type(self._files.get("model", b"")) != UNIGRAM:
            raise CheckpointError(f"{self.name}: expected a unigram model for tokenizer.json, got another kind")
        kinds = [piece.kind for piece in self.pieces]
        unlike = {"the unknown piece first": kinds[0] != Kind.UNKNOWN, "no pieces of users": Kind.USER_DEFINED in kinds}
        unlike["256 byte pieces"] = kinds.count(Kind.BYTE) != 256
        for what in (what for what, wrong in unlike.items() if wrong):
            raise CheckpointError(f"{self.name}: expected {what} for tokenizer.json, got another vocabulary")
        special = [piece.text for id, piece in enumerate(self.pieces) if self.is_special(id)]
        return unigram_json([(piece.text, piece.score) for piece in self.pieces], special, self.charsmap).encode()


def _bytes(piece: Piece, name: str) -> bytes:
    if piece.kind == Kind.BYTE:
        written = BYTE.fullmatch(piece.text)
        if written is None:
            raise CheckpointError(f"{name}: expected a byte piece like <0xE6>, got {piece.text[:40]!r}")
        return bytes.fromhex(written[1])
    if piece.kind in (Kind.UNKNOWN, Kind.CONTROL):
        return b""
    return piece.text.replace(SPACE, " ").encode()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _from_json(data: bytes, name: str) -> tuple[list[Piece], bytes]:
    try:
        document = json.loads(data)
        model = document["model"]
        listed = [(str(text), float(score)) for text, score in model["vocab"]]
        added = {int(token["id"]): bool(token["special"]) for token in document.get("added_tokens") or ()}
        unknown, fallback = model["unk_id"], bool(model.get("byte_fallback"))
        charsmap = _charsmap(document.get("normalizer"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{name}: expected a tokenizer.json of the unigram kind, got: {error!r}") from error
    pieces = []
    for id, (text, score) in enumerate(listed):
        kind = Kind.NORMAL
        if id == unknown:
            kind = Kind.UNKNOWN
        elif id in added:
            kind = Kind.CONTROL if added[id] else Kind.USER_DEFINED
        elif fallback and BYTE.fullmatch(text):
            kind = Kind.BYTE
        pieces.append(Piece(text, score, kind))
    return pieces, charsmap


def _charsmap(normalizer: Mapping[str, Any] | None) -> bytes:
    """The rules among the steps of a normaliser, none where they are not there."""
    steps = (normalizer or {}).get("normalizers", [normalizer or {}])
    return b"".join(binascii.a2b_base64(step.get("precompiled_charsmap") or "", strict_mode=True) for step in steps)


# Numbers of the fields of a tokenizer.model.
MODEL = {"piece": 1, "trainer": 2, "normalizer": 3}
PIECE = {"text": 1, "score": 2, "kind": 3}
TRAINER = {"model_type": 3, "vocab_size": 4, "byte_fallback": 35}
NORMALIZER = {"charsmap": 2, "space_before": 3, "no_double_spaces": 4, "spaces_as_pieces": 5}


def _from_model(data: bytes, name: str) -> tuple[list[Piece], bytes]:
    pieces, charsmap = [], b""
    try:
        for number, value in protobuf.fields(data):
            if number == MODEL["piece"]:
                parts = dict(protobuf.fields(value))
                text = _value(parts, PIECE["text"], bytes).decode()
                score = _value(parts, PIECE["score"], float, 0.0)
                pieces.append(Piece(text, score, Kind(_value(parts, PIECE["kind"], int, Kind.NORMAL))))
            elif number == MODEL["normalizer"]:
                charsmap = _value(dict(protobuf.fields(value)), NORMALIZER["charsmap"], bytes, b"")
    except ValueError as error:
        raise CheckpointError(f"{name}: expected a SentencePiece model, got: {error}") from error
    return pieces, charsmap


def _value(parts: Mapping[int, protobuf.Value], number: int, kind: type[Value], default: Value | None = None) -> Value:
    value = parts.get(number, default)
    if not isinstance(value, kind):
        raise ValueError(f"expected {kind.__name__} in field {number}, got {type(value).__name__}")
    return value


def _model_type(data: bytes) -> Any:
    """Of a tokenizer.model, or of none."""
    trainer = dict(protobuf.fields(data)).get(MODEL["trainer"], b"")
    return dict(protobuf.fields(trainer)).get(TRAINER["model_type"], UNIGRAM)
