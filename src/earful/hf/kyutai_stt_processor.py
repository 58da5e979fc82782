"""Audio and text to what Kyutai Speech-To-Text takes, and ids back to text, under the names of the documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from earful.checkpoint.files import replacing, write_json
from earful.checkpoint.hub import fetch
from earful.hf.encodec import EncodecFeatureExtractor, batch_of
from earful.hf.extractor import FILE
from earful.hf.features import BatchFeature
from earful.hf.tokenizer import Ids, Tokenizer
from earful.models.kyutai_stt.processor import EXTRA_S
from earful.registry import open_checkpoint, tokenizer_of
from earful.text.tokenizers import JsonTokenizer

TOKENIZER = "tokenizer.json"


@dataclass
class KyutaiSpeechToTextFeatureExtractor(EncodecFeatureExtractor):
    """Clips of one rate as one batch, each between two silences.

    audio_silence_prefix_seconds: silence before the audio. audio_delay_seconds: by how much the text lags behind the
    audio; silence of that length and one second more follows it. The others as of `EncodecFeatureExtractor`.
    """

    audio_delay_seconds: float | None = 0.0
    audio_silence_prefix_seconds: float | None = 0.0

    def __call__(
        self,
        raw_audio: Any,
        padding: bool | str | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
    ) -> BatchFeature:
        """input_values [B, channels, N], the silences included; with padding also padding_mask [B, N], 1 for the audio.

        Arguments, warnings and errors as of `EncodecFeatureExtractor`; lengths are those of the audio alone.
        """
        batch = super().__call__(raw_audio, padding, truncation, max_length, None, sampling_rate)
        before = int((self.audio_silence_prefix_seconds or 0.0) * self.sampling_rate)
        behind = int(((self.audio_delay_seconds or 0.0) + EXTRA_S) * self.sampling_rate)
        values = [np.pad(clip, ((0, 0), (before, behind))) for clip in batch.input_values]
        masks = [np.pad(mask, (before, behind)) for mask in batch.padding_mask] if "padding_mask" in batch else None
        return batch_of(values, masks, return_tensors)


class KyutaiSpeechToTextTokenizer(Tokenizer):
    """Text to ids and back; what `processor.tokenizer` is. Adds no special ids of its own."""

    def __init__(self, core: JsonTokenizer) -> None:
        self.core = core
        names = core.special_tokens
        self.pad_token_id = names.get("<pad>", 0)
        self.bos_token_id, self.eos_token_id, self.unk_token_id = map(names.get, ("<s>", "</s>", "<unk>"))

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> Self:
        """Of a folder or a hub id in any known layout; raises `CheckpointError` for what cannot be read."""
        folder = fetch(source, revision)
        path: Path | None = folder / TOKENIZER
        if not (folder / TOKENIZER).is_file():
            path = tokenizer_of(folder, open_checkpoint(folder)[1])
        assert path is not None
        return cls(JsonTokenizer.from_file(path))

    @property
    def vocab_size(self) -> int:
        return self.core.vocab

    @property
    def all_special_ids(self) -> list[int]:
        return list(self.core.special_tokens.values())

    def encode(self, text: str) -> list[int]:
        return self.core.encode(text)

    def text_of(self, ids: list[int], skip_special_tokens: bool) -> str:
        return self.core.decode(ids, keep_special=not skip_special_tokens)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json and its companion; raises `CheckpointError` when it cannot."""
        with replacing(Path(folder) / TOKENIZER) as temporary:
            self.core.save(temporary)
        write_json(Path(folder) / "tokenizer_config.json", tokenizer_config(self))


def tokenizer_config(tokenizer: KyutaiSpeechToTextTokenizer) -> dict[str, Any]:
    names = {id: name for name, id in tokenizer.core.special_tokens.items()}
    kinds = ("bos", "eos", "pad", "unk")
    ids = {f"{kind}_token": getattr(tokenizer, f"{kind}_token_id") for kind in kinds}
    return {
        **{kind: names[id] for kind, id in ids.items() if id in names},
        "clean_up_tokenization_spaces": False,
        "padding_side": tokenizer.padding_side,
        "processor_class": "KyutaiSpeechToTextProcessor",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


class KyutaiSpeechToTextProcessor:
    """A feature extractor and a tokenizer."""

    model_input_names: ClassVar[tuple[str, ...]] = KyutaiSpeechToTextFeatureExtractor.model_input_names

    def __init__(
        self, feature_extractor: KyutaiSpeechToTextFeatureExtractor, tokenizer: KyutaiSpeechToTextTokenizer
    ) -> None:
        self.feature_extractor, self.tokenizer = feature_extractor, tokenizer

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> Self:
        """Of a folder or a hub id in any known layout; raises `CheckpointError` for what cannot be read."""
        folder = fetch(source, revision)
        return cls(
            KyutaiSpeechToTextFeatureExtractor.from_pretrained(folder),
            KyutaiSpeechToTextTokenizer.from_pretrained(folder),
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files of the feature extractor and of the tokenizer; raises `CheckpointError` when it cannot."""
        extractor = {**self.feature_extractor.to_dict(), "processor_class": type(self).__name__}
        write_json(Path(folder) / FILE, extractor)
        self.tokenizer.save_pretrained(folder)

    def __call__(
        self,
        audio: Any = None,
        *,
        text: str | Sequence[str] | None = None,
        sampling_rate: int | None = None,
        padding: bool | str | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """What the model takes of one clip or a list of them, or the ids of a text or of several.

        audio: arrays, tensors or lists of floats in -1..1, or arrays of int16, at the extractor's rate; gives
        input_values [B, 1, N] and padding_mask [B, N]. text: gives input_ids and attention_mask [B, T], without special
        ids. Raises ValueError for audio and text together or neither, and what the extractor raises.
        """
        if (audio is None) == (text is None):
            raise ValueError(f"expected audio or text, got {'neither' if audio is None else 'both'}")
        if text is not None:
            return self.tokenizer(text, return_tensors=return_tensors)
        rate = self.feature_extractor.sampling_rate if sampling_rate is None else sampling_rate
        return self.feature_extractor(audio, padding, truncation, max_length, return_tensors, rate)

    def decode(
        self, token_ids: int | Ids, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """The text of one row of ids."""
        return self.tokenizer.decode(token_ids, skip_special_tokens, clean_up_tokenization_spaces)

    def batch_decode(
        self,
        sequences: Iterable[Ids],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The texts of rows of ids."""
        return self.tokenizer.batch_decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
