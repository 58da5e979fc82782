"""What a forward pass returns, under the names of the documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from earful.models.mimi.model import DecodeState, EncodeState
from earful.models.moshi.codes import DepthCache
from earful.models.moshi.model import TemporalState
from earful.models.s2t.passes import Cache
from earful.models.voxtral.model import DecoderState, EncoderState


@dataclass
class ModelOutput:
    """Fields by attribute, by name and, as in a tuple of those that are not None, by number."""

    def __getitem__(self, key: str | int | slice) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def keys(self) -> list[str]:
        """The names of the fields that are not None."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    def values(self) -> list[Any]:
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.keys()]

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())


@dataclass
class VoxtralRealtimeEncoderOutput(ModelOutput):
    """Of the encoder, and of `get_audio_features`, which fills in `pooler_output`."""

    last_hidden_state: Tensor  # [B, frames, D]
    pooler_output: Tensor | None = None  # [B, slots, D] as the decoder hears them
    past_key_values: EncoderState | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    padding_cache: EncoderState | None = None


@dataclass
class VoxtralRealtimeCausalLMOutputWithPast(ModelOutput):
    loss: Tensor | None = None
    logits: Tensor | None = None  # [B, T, V] float32
    past_key_values: DecoderState | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    encoder_past_key_values: EncoderState | None = None
    padding_cache: EncoderState | None = None


@dataclass
class MimiEncoderOutput(ModelOutput):
    """The two caches are one state of the whole encoder."""

    audio_codes: Tensor  # int64 [B, Q, frames]
    encoder_past_key_values: EncodeState | None = None
    padding_cache: EncodeState | None = None


@dataclass
class MimiDecoderOutput(ModelOutput):
    audio_values: Tensor  # [B, channels, N]
    decoder_past_key_values: DecodeState | None = None


@dataclass
class MimiOutput(ModelOutput):
    audio_codes: Tensor  # int64 [B, Q, frames]
    audio_values: Tensor  # [B, channels, N]
    encoder_past_key_values: EncodeState | None = None
    decoder_past_key_values: DecodeState | None = None


@dataclass
class BaseModelOutputWithPast(ModelOutput):
    last_hidden_state: Tensor  # [B, T, D]
    past_key_values: TemporalState | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class CausalLMOutputWithPast(ModelOutput):
    loss: Tensor | None = None
    logits: Tensor | None = None  # [B, T, V] float32
    past_key_values: TemporalState | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class GenerateDecoderOnlyOutput(ModelOutput):
    """Of `generate` with return_dict_in_generate; the state has taken in all ids but the last."""

    sequences: Tensor  # int64 [B, L]
    past_key_values: TemporalState | None = None


@dataclass
class BaseModelOutput(ModelOutput):
    """Of an encoder."""

    last_hidden_state: Tensor  # [B, S, D]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class Seq2SeqModelOutput(ModelOutput):
    last_hidden_state: Tensor  # [B, T, D] of the decoder
    past_key_values: Cache | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None  # [B, S, D]
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None


@dataclass
class Seq2SeqLMOutput(ModelOutput):
    loss: Tensor | None = None
    logits: Tensor | None = None  # [B, T, V] float32
    past_key_values: Cache | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None  # [B, S, D]
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None


@dataclass
class GenerateEncoderDecoderOutput(ModelOutput):
    """Of `generate` with return_dict_in_generate."""

    sequences: Tensor  # int64 [B * num_return_sequences, L]
    sequences_scores: Tensor | None = None  # float32, one for each row of sequences


@dataclass
class MoshiCausalLMOutputWithPast(ModelOutput):
    loss: Tensor | None = None
    logits: Tensor | None = None  # [B, T, V] float32
    last_hidden_state: Tensor | None = None  # [B, T, D]
    past_key_values: TemporalState | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MoshiDepthOutput(ModelOutput):
    """Of the depth decoder: N frames, T codes of each."""

    loss: Tensor | None = None
    logits: Tensor | None = None  # [N, T, V] float32
    past_key_values: DepthCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None  # [N, T, D] each
    attentions: tuple[Tensor, ...] | None = None  # [N, H, T, T] each


@dataclass
class MoshiConditionalGenerationOutputWithPast(ModelOutput):
    """What begins with `depth_` is there where labels were given, and so is the loss, which is of both decoders."""

    loss: Tensor | None = None
    logits: Tensor | None = None  # [B, T, V] float32
    last_hidden_state: Tensor | None = None  # [B, T, D]
    past_key_values: TemporalState | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    depth_loss: Tensor | None = None
    audio_logits: Tensor | None = None  # [B T, Q, V] float32
    depth_past_key_values: DepthCache | None = None
    depth_hidden_states: tuple[Tensor, ...] | None = None  # [B T, Q, D] each
    depth_attentions: tuple[Tensor, ...] | None = None  # [B T, H, Q, Q] each

    @property
    def decoder_hidden_states(self) -> tuple[Tensor, ...] | None:
        """The page's name."""
        return self.hidden_states

    @property
    def decoder_attentions(self) -> tuple[Tensor, ...] | None:
        """The page's name."""
        return self.attentions


@dataclass
class MoshiConditionalGenerationGenerateOutput(ModelOutput):
    """R rows: as many as inputs, times num_return_sequences."""

    audio_sequences: Tensor | None = None  # [R, 1, N] float32
    sequences: Tensor | None = None  # int64 [R, L]
    sequences_scores: Tensor | None = None  # float32 [R], of beams
    audio_codes: Tensor | None = None  # int64 [R, Q, frames]


@dataclass
class MoshiUnconditionalInput(ModelOutput):
    input_ids: Tensor | None = None  # int64 [B, 1]
    user_audio_codes: Tensor | None = None  # int64 [B, Q, 1]
    moshi_audio_codes: Tensor | None = None  # int64 [B, Q, 1]
    attention_mask: Tensor | None = None  # int64 [B, 1]
