"""Audio and text to what Speech2Text takes, and ids back to text, under the names of the documents."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from earful.checkpoint.fields import shown
from earful.checkpoint.files import write_json
from earful.checkpoint.hub import fetch
from earful.hf.extractor import FILE, Extractor, cut_length, filled_length
from earful.hf.features import BatchFeature, clips_of, require_rate
from earful.hf.s2t_tokenizer import Speech2TextTokenizer
from earful.hf.tokenizer import Ids
from earful.models.s2t.config import AudioConfig
from earful.models.s2t.processor import hear
from earful.models.voxtral.processor import to_float


@dataclass
class Speech2TextFeatureExtractor(Extractor):
    """Kaldi's log-mel filter bank, each feature brought to mean 0 and variance 1 over an utterance.

    num_mel_bins: how many features a frame has; feature_size is only passed on. padding_value: what stands behind the
    end of an utterance. dither: how much noise is added to every frame, in 16-bit steps. do_ceptral_normalize: without
    it, neither normalize_means nor normalize_vars. return_attention_mask is only passed on, since a call decides. Keys
    of a file that mean nothing here are kept and written again.
    """

    model_input_names: ClassVar[tuple[str, ...]] = ("input_features", "attention_mask")

    feature_size: int = 80
    sampling_rate: int = 16000
    num_mel_bins: int = 80
    padding_value: float = 0.0
    dither: float = 0.0
    do_ceptral_normalize: bool = True
    normalize_means: bool = True
    normalize_vars: bool = True

    def __call__(
        self,
        raw_speech: Any,
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
        return_attention_mask: bool | None = None,
    ) -> BatchFeature:
        """input_features [B, F, num_mel_bins] of one clip or a list, and attention_mask int32 [B, F], 1 for its frames.

        raw_speech: arrays, tensors or lists of floats in -1..1, or arrays of int16; a clip of less than 25 ms has no
        frame. padding: True or "longest", "max_length", or False or "do_not_pad". max_length: in frames. truncation:
        cut what is longer, before it is normalised. pad_to_multiple_of: rounds lengths up. Without return_tensors ("pt"
        or "np") the values are lists of arrays, which may differ in length.
        Warns where no sampling_rate is given. Raises ValueError for another one, for clips of another shape, a missing
        max_length, and for tensors of clips that differ in length.
        """
        if sampling_rate is None:
            warnings.warn(f"expected sampling_rate beside the audio, got none: {self.sampling_rate} Hz?", stacklevel=2)
        require_rate(sampling_rate, self.sampling_rate)
        most = cut_length(truncation, max_length, pad_to_multiple_of)
        features, lengths = hear([to_float(clip) for clip in clips_of(raw_speech)], self._audio, most)
        rows = [row[:length].numpy() for row, length in zip(features, lengths.tolist(), strict=True)]
        masks = [np.ones(len(row), np.int32) for row in rows]
        length = filled_length(max(map(len, rows)), padding, max_length, pad_to_multiple_of) or 0
        batch = {"input_features": [self._filled(row, length, self.padding_value) for row in rows]}
        if return_attention_mask is not False:
            batch["attention_mask"] = [self._filled(mask, length, 0) for mask in masks]
        different = sorted({len(row) for row in batch["input_features"]})
        if return_tensors and len(different) > 1:
            raise ValueError(f"expected clips of one length to make a tensor, got {shown(different)}: ask for padding")
        return BatchFeature(
            {name: np.stack(rows) for name, rows in batch.items()} if return_tensors else batch, return_tensors
        )

    @property
    def _audio(self) -> AudioConfig:
        means, variances = (
            self.do_ceptral_normalize and wanted for wanted in (self.normalize_means, self.normalize_vars)
        )
        return AudioConfig(self.sampling_rate, self.num_mel_bins, means, variances, self.dither)

    def _filled(self, row: Any, length: int, value: float) -> Any:
        missing = max(0, length - len(row))
        sides = (0, missing) if self.padding_side == "right" else (missing, 0)
        return np.pad(row, [sides] + [(0, 0)] * (row.ndim - 1), constant_values=value)


class Speech2TextProcessor:
    """A feature extractor and a tokenizer."""

    model_input_names: ClassVar[tuple[str, ...]] = Speech2TextFeatureExtractor.model_input_names

    def __init__(self, feature_extractor: Speech2TextFeatureExtractor, tokenizer: Speech2TextTokenizer) -> None:
        self.feature_extractor, self.tokenizer = feature_extractor, tokenizer
        self._takes_text = False

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> Self:
        """Of a folder or a hub id; raises `CheckpointError` for what cannot be read."""
        folder = fetch(source, revision)
        return cls(Speech2TextFeatureExtractor.from_pretrained(folder), Speech2TextTokenizer.from_pretrained(folder))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files of the feature extractor and of the tokenizer; raises `CheckpointError` when it cannot."""
        extractor = {**self.feature_extractor.to_dict(), "processor_class": type(self).__name__}
        write_json(Path(folder) / FILE, extractor)
        self.tokenizer.save_pretrained(folder)

    def __call__(
        self,
        audio: Any = None,
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
        return_attention_mask: bool | None = None,
        *,
        text: str | Sequence[str] | None = None,
    ) -> BatchFeature:
        """What the feature extractor makes of audio, what the tokenizer makes of text, or both with the ids as labels.

        All other arguments are for both. Raises ValueError for neither, and what the two raise.
        """
        if self._takes_text:
            audio, text = None, audio if text is None else text
        if audio is None and text is None:
            raise ValueError("expected audio, text or both, got neither")
        labels = batch = None
        if text is not None:
            labels = self.tokenizer(
                text,
                padding=padding,
                truncation=truncation,
                max_length=max_length,
                pad_to_multiple_of=pad_to_multiple_of,
                return_tensors=return_tensors,
                return_attention_mask=return_attention_mask,
            )
        if audio is not None:
            batch = self.feature_extractor(
                audio,
                padding,
                max_length,
                bool(truncation),
                pad_to_multiple_of,
                return_tensors,
                sampling_rate,
                return_attention_mask,
            )
            if labels is not None:
                batch["labels"] = labels["input_ids"]
        found = labels if batch is None else batch
        assert found is not None
        return found

    @contextmanager
    def as_target_processor(self) -> Iterator[None]:
        """Within it the first argument of a call is text. The page's older way to `text=`."""
        self._takes_text = True
        try:
            yield
        finally:
            self._takes_text = False

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
