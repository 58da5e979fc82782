"""Audio and text to what the model takes, and ids back to text, under the names of the documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from earful.checkpoint.hub import fetch
from earful.hf.features import (
    BatchFeature,
    VoxtralRealtimeFeatureExtractor,
    clips_of,
    require_padding,
    require_rate,
)
from earful.hf.tokenizer import Ids, Tokenizer
from earful.models.voxtral.processor import VoxtralProcessor

LANGUAGE = re.compile(r"^lang:[a-z]{2}")  # some models of the family begin a transcript with it


class VoxtralRealtimeTokenizer(Tokenizer):
    """Text to ids and back; what `processor.tokenizer` is. Adds no special ids of its own."""

    def __init__(self, core: VoxtralProcessor) -> None:
        self.core = core
        self.bos_token_id, self.eos_token_id = core.ids.bos, core.ids.eos
        self.pad_token_id = core.ids.filler

    @property
    def vocab_size(self) -> int:
        return self.core.tekken.vocab

    @property
    def all_special_ids(self) -> list[int]:
        return list(self.core.tekken.special_tokens.values())

    def encode(self, text: str) -> list[int]:
        """Raises `EarfulError` where tiktoken is not installed."""
        return self.core.encode(text)

    def text_of(self, ids: list[int], skip_special_tokens: bool) -> str:
        """A language mark at the beginning is skipped with the special ids."""
        text = self.core.decode(ids, keep_special=not skip_special_tokens)
        return LANGUAGE.sub("", text) if skip_special_tokens else text

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tekken.json; raises `CheckpointError` when it cannot."""
        self.core.save_tokenizer(Path(folder))


class VoxtralRealtimeProcessor:
    """A feature extractor and a tokenizer that agree, and the lengths by which a stream is cut.

    Raises ValueError where the extractor's sizes are not those of the tokenizer's audio block.
    """

    model_input_names = ("input_features", "attention_mask", "input_ids", "num_delay_tokens")

    def __init__(self, feature_extractor: VoxtralRealtimeFeatureExtractor, tokenizer: VoxtralRealtimeTokenizer) -> None:
        self.feature_extractor, self.tokenizer = feature_extractor, tokenizer
        self.core = VoxtralProcessor(tokenizer.core.tekken, feature_extractor.global_log_mel_max)
        agreed = VoxtralRealtimeFeatureExtractor.of(self.core.audio)
        for name, expected in vars(agreed).items():
            if (got := getattr(feature_extractor, name)) != expected:
                raise ValueError(f"expected feature_extractor.{name} of {expected} as in the tokenizer, got {got}")

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> Self:
        """Of a folder or a hub id in any known layout; raises `CheckpointError` for what cannot be read."""
        core = VoxtralProcessor.from_folder(fetch(source, revision))
        return cls(VoxtralRealtimeFeatureExtractor.of(core.audio), VoxtralRealtimeTokenizer(core))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write processor_config.json and tekken.json; raises `CheckpointError` when it cannot."""
        self.core.save(Path(folder))

    @property
    def num_delay_tokens(self) -> int:
        return self.core.audio.delay_slots

    @property
    def num_right_pad_tokens(self) -> int:
        return self.core.right_slots

    @property
    def audio_length_per_tok(self) -> int:
        return self.core.mels_per_slot

    @property
    def raw_audio_length_per_tok(self) -> int:
        return self.core.slot_samples

    @property
    def num_mel_frames_first_audio_chunk(self) -> int:
        return self.core.first_mels

    @property
    def num_samples_first_audio_chunk(self) -> int:
        return self.core.first_samples

    @property
    def num_samples_per_audio_chunk(self) -> int:
        return self.core.chunk_samples

    def __call__(
        self,
        audio: Any = None,
        is_streaming: bool = False,
        is_first_audio_chunk: bool | None = True,
        *,
        text: str | Sequence[str] | None = None,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """What the model takes of one clip or a list of them, or the ids of a text or of several.

        audio: arrays, tensors or lists of floats in -1..1, or arrays of int16. Gives input_ids and attention_mask
        [B, L], the prompt, but for later chunks of a stream; input_features [B, bins, F]; num_delay_tokens.
        text: gives input_ids and attention_mask [B, T], no special ids among them.
        Raises ValueError for audio and text together or neither, and for another rate.
        """
        require_rate(sampling_rate, self.feature_extractor.sampling_rate)
        require_padding(padding)
        if (audio is None) == (text is None):
            raise ValueError(f"expected audio or text, got {'neither' if audio is None else 'both'}")
        if text is not None:
            return self.tokenizer(text, return_tensors=return_tensors)
        if not is_streaming and not is_first_audio_chunk:
            raise ValueError("expected is_first_audio_chunk=True without is_streaming, got False")
        clips = clips_of(audio)
        data: dict[str, Any] = {}
        if is_first_audio_chunk:
            prompt = self.core.prompt
            data["input_ids"] = [list(prompt) for _ in clips]
            data["attention_mask"] = [[1] * len(prompt) for _ in clips]
        if not is_streaming:
            data["input_features"] = self.core.whole(clips)
        else:
            data["input_features"] = self.core.first(clips) if is_first_audio_chunk else self.core.later(clips)
        data["num_delay_tokens"] = self.num_delay_tokens
        return BatchFeature(data, return_tensors)

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
