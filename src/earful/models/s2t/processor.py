"""Audio to features and text to ids, as Speech2Text wants them; knows nothing of the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from earful.audio.fbank import fbank, frame_count, normalise
from earful.audio.frames import as_samples
from earful.checkpoint.fields import MAX_JSON_BYTES, Fields
from earful.errors import CheckpointError
from earful.models.s2t.config import EOS, LANGUAGES, UNK, AudioConfig, TextConfig
from earful.text.sentencepiece import SentencePiece

Clip = npt.NDArray[np.floating[Any]]
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3
MOST_IDS = 1 << 20


def hear(clips: Sequence[Clip], audio: AudioConfig, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Features of whole clips [N] in -1..1: float32 [B, F, bins], F of the longest one, and frames of each [B] int64.

    Behind the end of a clip there are zeros; one shorter than a frame has none. most: frames of a clip, of which those
    behind are left out before the others are normalised. Raises AudioError for what is no audio.
    """
    lengths = torch.tensor([frame_count(len(clip), audio.rate_hz) for clip in clips])
    features = torch.zeros(len(clips), int(lengths.max()), audio.bins)
    for into, clip, count in zip(features, clips, lengths.tolist(), strict=True):
        into[:count] = fbank(torch.from_numpy(as_samples(clip))[None], audio.rate_hz, audio.bins, audio.dither)[0]
    if most is not None:
        features, lengths = features[:, :most], lengths.clamp(max=most)
    return normalise(features, lengths, audio.means, audio.variances), lengths


def vocabulary_of(tokenizer: Path, pieces: SentencePiece) -> dict[str, int]:
    """Ids by piece: of the vocab.json beside a SentencePiece model, or of fairseq's dictionary, which has its name, or,
    where there is neither, as the model counts.

    Raises `CheckpointError` where it is none, or the special ids are others than those of every published model.
    """
    path, dictionary = tokenizer.with_name("vocab.json"), tokenizer.with_suffix(".txt")
    if path.is_file():
        return read_vocabulary(path)
    if dictionary.is_file():
        return _checked(_dictionary(dictionary), dictionary)
    return _checked({piece.text: id for id, piece in enumerate(pieces.pieces)}, tokenizer)


def read_vocabulary(path: Path) -> dict[str, int]:
    """Ids by piece, of a vocab.json; raises like `vocabulary_of`."""
    fields = Fields.from_file(path)
    return _checked({piece: fields.whole(piece, 0, MOST_IDS) for piece in fields.values}, path)


def _checked(vocabulary: dict[str, int], path: Path) -> dict[str, int]:
    found = [vocabulary.get(piece) for piece in SPECIAL]
    if found != list(range(len(SPECIAL))):
        raise CheckpointError(f"{path}: expected ids 0 to 3 for {' '.join(SPECIAL)}, got {found}")
    if len(set(vocabulary.values())) != len(vocabulary):
        raise CheckpointError(f"{path}: expected an id for each piece, got {len(vocabulary)} pieces that share ids")
    return vocabulary


def _dictionary(path: Path) -> dict[str, int]:
    """A dictionary of fairseq: a piece and how often it came to a line; the special ones are not in it."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_JSON_BYTES).decode()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a dictionary, got: {error}") from error
    pieces = [line.rpartition(" ")[0] for line in text.splitlines() if line]
    return {piece: id for id, piece in enumerate((*SPECIAL, *pieces))}


class S2tText:
    """Text to ids and back.

    Raises `CheckpointError` for a model whose languages have no pieces.
    """

    def __init__(self, pieces: SentencePiece, vocabulary: Mapping[str, int], text: TextConfig) -> None:
        self.pieces, self.vocabulary, self.text = pieces, dict(vocabulary), text
        known = {piece.text: id for id, piece in enumerate(pieces.pieces)}
        self.names = {id: piece for piece, id in vocabulary.items()}
        self._bytes = {piece: pieces.token_bytes(id) for piece, id in known.items()}
        self.special = set(range(len(SPECIAL)))
        self.language_ids: dict[str, int] = {}  # by language, in the order of the published list
        for language in LANGUAGES[text.language_set] if text.language_set else ():
            name = f"<lang:{language}>"
            if name not in known:
                raise CheckpointError(f"{pieces.name}: expected a piece {name}, got none")
            self.language_ids[language] = known[name]
        self.special |= set(self.language_ids.values())

    @classmethod
    def from_file(cls, tokenizer: Path, text: TextConfig) -> S2tText:
        """Of a SentencePiece model and what lies beside it; raises `CheckpointError` for what cannot be read."""
        pieces = SentencePiece.from_file(tokenizer)
        return cls(pieces, vocabulary_of(tokenizer, pieces), text)

    def language_id(self, language: str | None) -> int | None:
        """The id that a text in a language begins with, None for a model of one language.

        language: None for the usual one. Raises ValueError for one that the model does not have.
        """
        if not self.language_ids:
            if language is not None:
                raise ValueError(f"expected no language, since this model writes only one, got {language}")
            return None
        language = language or self.text.language or next(iter(self.language_ids))
        if language not in self.language_ids:
            raise ValueError(f"expected a language of {', '.join(self.language_ids)}, got {language}")
        return self.language_ids[language]

    def cut(self, text: str, **sampling: Any) -> list[str]:
        """The pieces of a text; `sampling` as of `SentencePiece.cut`."""
        return self.pieces.cut(text.lower() if self.text.lower else text, **sampling)

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """What the model is to write: the language where it has several, the pieces, the end of the text."""
        first = self.language_id(language)
        ids = [self.vocabulary.get(piece, UNK) for piece in self.cut(text)]
        return [*([] if first is None else [first]), *ids, EOS]

    def words(self, ids: Iterable[int]) -> list[tuple[int, int]]:
        """For each word of what `decode` gives, the first id that it is written with and the one behind its last."""
        found: list[tuple[int, int]] = []
        inside, free = False, None  # the first id that belongs to no word yet: a space belongs to what follows
        for at, id in enumerate(ids):
            if id in self.special:
                continue
            free = at if free is None else free
            for character in self._written(self.names.get(id, f"{SPECIAL[UNK]} ")).decode("utf-8", "replace"):
                if character.isspace():
                    inside = False
                    continue
                found.append((found.pop()[0] if inside else at if free is None else free, at + 1))
                inside, free = True, None
        return found

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        """Text of ids. Special ids stand for nothing, or, when kept, for their names with a space behind each.

        An id that the vocabulary does not have is written as <unk>, as the reference does.
        """
        kept = (id for id in ids if keep_special or id not in self.special)
        return self.join(self.names.get(id, self.names[UNK]) for id in kept)

    def join(self, pieces: Iterable[str]) -> str:
        """Text of pieces, as `decode` writes it; one that is not known stands for itself."""
        special, runs = {self.names[id] for id in self.special}, []
        for is_special, run in groupby(pieces, key=lambda piece: piece in special):
            if is_special:
                runs += [piece + " " for piece in run]
            else:
                said = b"".join(map(self._written, run)).decode("utf-8", "replace").lstrip(" ")
                runs.append(said.upper() if self.text.upper else said)
        return "".join(runs).strip()

    def _written(self, piece: str) -> bytes:
        return self._bytes.get(piece, piece.encode())
