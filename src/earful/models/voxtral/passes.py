"""States for streams of a known length, and audio vectors, as Hugging Face's `forward` and `generate` need them."""

from __future__ import annotations

import torch
from torch import Tensor

from earful.models.voxtral.model import Decoder, DecoderState, Encoder, EncoderState, VoxtralRealtime
from earful.nn.passes import rings, run


def encoder_state(encoder: Encoder, batch: int, frames: int, length: int | None = None) -> EncoderState:
    """A fresh state for calls of at most `frames` encoder frames; length: frames in all, where it is known."""
    layers, pos = rings(encoder, batch, frames, length)
    return EncoderState(encoder.conv1.init_state(batch), encoder.conv2.init_state(batch), layers, pos)


def decoder_state(decoder: Decoder, batch: int, slots: int, length: int | None = None) -> DecoderState:
    """A fresh state for calls of at most `slots` slots; length: slots in all, where it is known."""
    return DecoderState(*rings(decoder, batch, slots, length))


def padding_state(encoder: Encoder, batch: int) -> EncoderState:
    """The part of a fresh state that the convolutions use."""
    pos = torch.zeros(batch, dtype=torch.int64, device=encoder.norm.weight.device)
    return EncoderState(encoder.conv1.init_state(batch), encoder.conv2.init_state(batch), [], pos)


def hear(model: VoxtralRealtime, mel: Tensor, state: EncoderState) -> Tensor:
    """mel: [B, M, slots * mels_per_slot] -> audio vectors [B, slots, D]. Raises ValueError for a part of a slot."""
    frames = model.encoder.embed(mel.to(model.decoder.norm.weight.dtype), state)
    return join(model, run(model.encoder, frames, state).last)


def join(model: VoxtralRealtime, frames: Tensor) -> Tensor:
    """Encoder frames [B, slots * downsample, D_enc] -> audio vectors [B, slots, D]; raises ValueError for others."""
    if frames.shape[1] % model.config.downsample:
        raise ValueError(
            f"expected whole slots of {model.config.mels_per_slot} mel frames, {model.config.downsample} behind the "
            f"convolutions, got {frames.shape[1]} of these"
        )
    return model.projector(frames)  # type: ignore[no-any-return]
