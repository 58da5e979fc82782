"""Text to the ids of Speech2Text and back, under the names of the documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, overload

from earful.checkpoint.fields import Fields, shown
from earful.checkpoint.files import replacing, write_json
from earful.checkpoint.hub import fetch
from earful.hf.extractor import filled_length
from earful.hf.features import BatchFeature
from earful.hf.tokenizer import Ids, Tokenizer, plain
from earful.models.s2t.config import BOS, EOS, PAD, UNK
from earful.models.s2t.config_hf import TOKENIZER, read_text
from earful.models.s2t.processor import SPECIAL, S2tText, read_vocabulary
from earful.text.sentencepiece import SentencePiece

VOCABULARY, SETTINGS = "vocab.json", "tokenizer_config.json"
SAMPLING = ("enable_sampling", "nbest_size", "alpha")


class Speech2TextTokenizer(Tokenizer):
    """Text to ids and back; of several languages the one in `tgt_lang` is the first id of every text.

    do_upper_case: texts are written in capitals. do_lower_case: they are read in small letters. lang_codes: the name of
    a set of languages, "mustc", or none. additional_special_tokens: pieces of the vocabulary that stand for no text.
    sp_model_kwargs: how pieces are drawn at random in training: enable_sampling, nbest_size, alpha.
    Raises `CheckpointError` for files that cannot be read, ValueError for what such models do not have.
    """

    padding_side = "right"
    model_input_names = ("input_ids", "attention_mask")
    bos_token_id, pad_token_id, eos_token_id, unk_token_id = BOS, PAD, EOS, UNK

    def __init__(
        self,
        vocab_file: str | Path,
        spm_file: str | Path,
        bos_token: str = "<s>",
        eos_token: str = "</s>",
        pad_token: str = "<pad>",
        unk_token: str = "<unk>",
        do_upper_case: bool = False,
        do_lower_case: bool = False,
        tgt_lang: str | None = None,
        lang_codes: str | None = None,
        additional_special_tokens: Sequence[str] | None = None,
        sp_model_kwargs: Mapping[str, Any] | None = None,
        *,
        model_max_length: int | None = None,
    ) -> None:
        if (got := (bos_token, pad_token, eos_token, unk_token)) != SPECIAL:
            raise ValueError(f"expected the special tokens {' '.join(SPECIAL)}, got {' '.join(map(str, got))}")
        if unknown := (sp_model_kwargs or {}).keys() - set(SAMPLING):
            raise ValueError(f"expected sp_model_kwargs of {', '.join(SAMPLING)}, got {', '.join(sorted(unknown))}")
        given: dict[str, Any] = {
            "do_upper_case": do_upper_case,
            "do_lower_case": do_lower_case,
            "tgt_lang": tgt_lang,
            "lang_codes": lang_codes,
        }
        text = read_text(Fields(given, type(self).__name__))
        core = S2tText(SentencePiece.from_file(spm_file), read_vocabulary(Path(vocab_file)), text)
        self._hold(core, additional_special_tokens or (), dict(sp_model_kwargs or {}), model_max_length, {})

    def _hold(
        self,
        core: S2tText,
        additional: Sequence[str],
        sampling: dict[str, Any],
        model_max_length: int | None,
        other: dict[str, Any],
    ) -> None:
        if missing := [token for token in additional if token not in core.vocabulary]:
            raise ValueError(f"expected additional_special_tokens of the vocabulary, got {shown(missing)}")
        self.core, self.sp_model_kwargs, self.model_max_length, self.other = core, sampling, model_max_length, other
        self.lang_codes = core.text.language_set
        self.lang_code_to_id = dict(core.language_ids)
        languages = [f"<lang:{language}>" for language in self.lang_code_to_id]
        # In the order of transformers: the four of their own names, then the others.
        four = [core.names[id] for id in (BOS, EOS, UNK, PAD)]
        self.all_special_tokens = list(dict.fromkeys([*four, *languages, *additional]))
        self.additional_special_tokens = self.all_special_tokens[len(SPECIAL) :]
        core.special |= set(self.all_special_ids)
        longest_first = sorted(self.all_special_tokens, key=len, reverse=True)
        self._apart = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> Self:
        """Of a folder or a hub id; raises `CheckpointError` for what cannot be read."""
        folder = fetch(source, revision)
        path = folder / SETTINGS
        fields = Fields.from_file(path) if path.is_file() else Fields({}, str(path))
        core = S2tText.from_file(folder / TOKENIZER, read_text(fields))
        other = dict(fields.values)
        additional = [
            token["content"] if isinstance(token, Mapping) else token
            for token in other.pop("additional_special_tokens", None) or ()
        ]
        sampling, longest = other.get("sp_model_kwargs") or {}, fields.values.get("model_max_length")
        tokenizer = cls.__new__(cls)
        tokenizer._hold(core, additional, sampling, longest if isinstance(longest, int) else None, other)
        return tokenizer

    def save_pretrained(self, folder: str | Path) -> None:
        """Write vocabulary and tokenizer_config.json; raises `CheckpointError` when it cannot."""
        languages = len(self.lang_code_to_id)
        named = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIAL, strict=True))
        values = {
            "do_upper_case": self.do_upper_case,
            "do_lower_case": self.do_lower_case,
            "lang_codes": self.lang_codes,
            "tgt_lang": self.tgt_lang,
            "additional_special_tokens": self.additional_special_tokens[languages:],
            "sp_model_kwargs": self.sp_model_kwargs,
            "model_max_length": self.model_max_length,
            "tokenizer_class": type(self).__name__,
        }
        set_here = {name: value for name, value in values.items() if value not in (None, [], {})}
        write_json(Path(folder) / SETTINGS, {**self.other, **named, **set_here})
        self.save_vocabulary(folder)

    def save_vocabulary(self, save_directory: str | Path, filename_prefix: str | None = None) -> tuple[str, str]:
        """Write vocab.json and the SentencePiece model, and return where; filename_prefix: stands before both names."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        vocabulary, pieces = (Path(save_directory) / (prefix + name) for name in (VOCABULARY, TOKENIZER))
        write_json(vocabulary, self.core.vocabulary)
        with replacing(pieces) as temporary:
            temporary.write_bytes(self.core.pieces.to_model())
        return str(vocabulary), str(pieces)

    # -------------------------------------------------------------------------------------------------- the vocabulary

    @property
    def vocab_size(self) -> int:
        return len(self.core.vocabulary)

    def get_vocab(self) -> dict[str, int]:
        """Ids by piece."""
        return dict(self.core.vocabulary)

    @property
    def all_special_ids(self) -> list[int]:
        return [self.core.vocabulary[token] for token in self.all_special_tokens]

    @property
    def do_upper_case(self) -> bool:
        return self.core.text.upper

    @property
    def do_lower_case(self) -> bool:
        return self.core.text.lower

    @property
    def tgt_lang(self) -> str | None:
        """The language of the texts; None where there is only one. Raises ValueError when set to another."""
        return self.core.text.language or next(iter(self.lang_code_to_id), None)

    @tgt_lang.setter
    def tgt_lang(self, language: str) -> None:
        self.core.language_id(language)
        self.core.text = replace(self.core.text, language=language)

    def set_tgt_lang_special_tokens(self, tgt_lang: str) -> None:
        """The same as setting `tgt_lang`."""
        self.tgt_lang = tgt_lang

    @property
    def prefix_tokens(self) -> list[int]:
        """The ids that every text begins with."""
        return [id for id in [self.core.language_id(None)] if id is not None]

    # -------------------------------------------------------------------------------------------------- text and pieces

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text; where it has the name of a special id, that id's piece."""
        return [
            piece
            for number, part in enumerate(self._apart.split(text))
            if part
            for piece in ([part] if number % 2 else self.core.cut(part, **self.sp_model_kwargs))
        ]

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]: ...
    def convert_tokens_to_ids(self, tokens: str | list[str]) -> int | list[int]:
        """The id of a piece or of several, that of <unk> for what is none."""
        if isinstance(tokens, str):
            return self.core.vocabulary.get(tokens, UNK)
        return [self.core.vocabulary.get(token, UNK) for token in tokens]

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: Ids, skip_special_tokens: bool = False) -> list[str]: ...
    def convert_ids_to_tokens(self, ids: int | Ids, skip_special_tokens: bool = False) -> str | list[str]:
        """The piece of an id or of several, <unk> for what is none."""
        names = self.core.names
        if isinstance(ids, int):
            return names.get(ids, names[UNK])
        return [names.get(id, names[UNK]) for id in plain(ids) if not (skip_special_tokens and id in self.core.special)]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """The text of pieces."""
        return self.core.join(tokens)

    # ---------------------------------------------------------------------------------------------------- text and ids

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text, with the language before them and the end behind."""
        ids = self.convert_tokens_to_ids(self.tokenize(text))
        return self.build_inputs_with_special_tokens(ids) if add_special_tokens else ids

    def text_of(self, ids: list[int], skip_special_tokens: bool) -> str:
        return self.core.decode(ids, keep_special=not skip_special_tokens)

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """The ids of a text, or of two as one, with the language before them and the end behind."""
        return [*self.prefix_tokens, *token_ids_0, *(token_ids_1 or ()), EOS]

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for each special id, 0 for others, of what `build_inputs_with_special_tokens` makes of the ids.

        already_has_special_tokens: of token_ids_0 as they are; raises ValueError for a second row beside them.
        """
        if not already_has_special_tokens:
            return [*[1] * len(self.prefix_tokens), *[0] * len([*token_ids_0, *(token_ids_1 or ())]), 1]
        if token_ids_1 is not None:
            raise ValueError("expected one row of ids that have their special ids, got two")
        return [int(id in self.core.special) for id in token_ids_0]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """0 for each id of a text with its special ids, 1 for each of a second text."""
        return [0] * len(self.build_inputs_with_special_tokens(token_ids_0)) + [1] * len(token_ids_1 or ())

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> BatchFeature:
        """input_ids and attention_mask: rows of one text or lists of rows of several, or as tensors [B, T].

        padding: True or "longest", "max_length", or False or "do_not_pad". truncation: cut texts such that they have
        max_length ids, the special ones counted; None: where max_length is given without padding. max_length is
        model_max_length where it is left out. Raises ValueError for tensors of texts that differ in length.
        """
        if truncation is None:
            truncation = max_length is not None and padding is False
        most = self.model_max_length if max_length is None else max_length
        fixed = len(self.build_inputs_with_special_tokens([])) if add_special_tokens else 0
        room = max(0, most - fixed) if truncation and most is not None else None
        rows = []
        for line in [text] if isinstance(text, str) else text:
            ids = self.convert_tokens_to_ids(self.tokenize(line))[:room]
            rows.append(self.build_inputs_with_special_tokens(ids) if add_special_tokens else ids)
        lengths = sorted({len(row) for row in rows})
        length = filled_length(lengths[-1] if lengths else 0, padding, most, pad_to_multiple_of) or 0
        if return_tensors and lengths[:-1] and length < lengths[-1]:
            raise ValueError(f"expected texts of one length to make a tensor, got {shown(lengths)}: ask for padding")
        data = {"input_ids": [self._filled(row, length, self.pad_token_id) for row in rows]}
        if return_attention_mask is not False:
            data["attention_mask"] = [self._filled([1] * len(row), length, 0) for row in rows]
        if isinstance(text, str) and return_tensors is None:
            return BatchFeature({name: row for name, (row,) in data.items()})
        return BatchFeature(data, return_tensors)
