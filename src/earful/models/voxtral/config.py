"""Sizes of a Voxtral Realtime model, in our own names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderConfig:
    """The causal audio encoder: two convolutions, then `layers` transformer blocks at half the mel rate."""

    mels: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_dim: int
    window: int  # frames that a frame sees, itself included
    rope_base: float
    norm_eps: float


@dataclass(frozen=True)
class DecoderConfig:
    """The text decoder: one token per slot of 80 ms, conditioned on the delay."""

    vocab: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_dim: int
    window: int  # slots that a slot sees, itself included
    rope_base: float
    norm_eps: float
    ada_dim: int  # inner width of the delay conditioning
    tied: bool = True  # the output head is the embedding


@dataclass(frozen=True)
class AudioConfig:
    """The log-mel front end and the padding around the audio (tekken.json's audio block)."""

    rate_hz: int
    hop: int  # samples between mel frames
    window: int  # samples under one mel frame, and the size of the Fourier transform
    bins: int
    log_max: float | None  # the loudest log10 power; None: of the utterance, which cannot stream
    left_slots: int  # slots of silence before the audio
    delay_slots: int  # the delay where the caller names none
    tail_slots: int = 10  # slots beyond the delay in which the last word is written out


@dataclass(frozen=True)
class SpecialIds:
    """Token ids with a meaning of their own, read from the tokenizer file."""

    bos: int
    eos: int
    blank: int  # [STREAMING_PAD]: nothing to write in this slot
    word: int  # [STREAMING_WORD]: a word was heard, its pieces follow
    filler: int  # what a finished row of a batch is filled with


@dataclass(frozen=True)
class VoxtralConfig:
    encoder: EncoderConfig
    decoder: DecoderConfig
    audio: AudioConfig
    ids: SpecialIds
    mels_per_slot: int  # mel frames to a slot
    downsample: int  # encoder frames to a slot

    @property
    def slot_samples(self) -> int:
        return self.mels_per_slot * self.audio.hop

    @property
    def slot_s(self) -> float:
        return self.slot_samples / self.audio.rate_hz


# Networks to train from nothing, by name; what they hear and write with comes from a tokenizer file.
PRESETS = {
    "builtin-en": (
        EncoderConfig(
            mels=80, dim=256, layers=8, heads=4, kv_heads=4, head_dim=64, mlp_dim=768, window=125, rope_base=1e6,
            norm_eps=1e-5,
        ),
        DecoderConfig(
            vocab=1088, dim=256, layers=4, heads=4, kv_heads=4, head_dim=64, mlp_dim=512, window=125, rope_base=1e6,
            norm_eps=1e-5, ada_dim=32,
        ),
    ),
}  # fmt: skip
