"""Mimi under the names of the documents: a core model is held, arguments are translated."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from earful.hf.arguments import caching
from earful.hf.loading import Device, Dtype, OverCore, dtype_of, load_core
from earful.hf.mimi_config import MimiConfig
from earful.hf.outputs import MimiDecoderOutput, MimiEncoderOutput, MimiOutput
from earful.models.mimi.model import DecodeState, EncodeState, Mimi
from earful.models.mimi.ragged import encode_ragged
from earful.registry import save_model

CHUNK_FRAMES = 12  # the most frames in one call of a stream: rings are so much longer than the window


class MimiModel(OverCore):
    """Audio to codes and back. Raises ValueError for a configuration that the network does not have."""

    core: Mimi
    config: MimiConfig
    main_input_name = "input_values"

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self.core, self.config = Mimi(config.to_core()), config
        initialise(self.core, config)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device_map: Device = None,
        dtype: Dtype = None,
        torch_dtype: Dtype = None,
        revision: str | None = None,
    ) -> Self:
        """A codec of a folder or a hub id in any known layout, ready to run.

        device_map: one device for all of it, "auto" for the accelerator if there is one, None for the CPU. dtype, or by
        its old name torch_dtype: None, "auto" and float32 all mean float32, in which the codes are chosen.
        Raises `CheckpointError` for what cannot be loaded, ValueError for other devices and types.
        """
        for asked in (dtype_of(dtype), dtype_of(torch_dtype)):
            if asked not in (None, torch.float32):
                raise ValueError(f"expected a codec in float32, got {asked}")
        core, config, _ = load_core(source, Mimi, device_map, dtype, torch_dtype, revision)
        return cls.holding(core.float(), MimiConfig.from_dict(config)).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model as Hugging Face's files; raises `CheckpointError` when it cannot."""
        save_model(self.core, folder, "hf")
        self.config.save_pretrained(folder)

    @torch.no_grad()
    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        encoder_past_key_values: EncodeState | None = None,
        padding_cache: EncodeState | None = None,
        use_streaming: bool | None = None,
        return_dict: bool | None = None,
    ) -> MimiEncoderOutput | tuple[object, ...]:
        """input_values [B, channels, N] to audio_codes int64 [B, num_quantizers, frames], a frame for each one begun.

        padding_mask: not looked at; behind its end a row has the codes of silence. use_streaming: begin a stream, N
        being of whole frames in each call; the two caches of the output are one state, either of which goes on with it,
        and which is moved on in place. Raises ValueError for other lengths and shapes, for a number of codebooks that
        the model does not have, and in a model that only decodes.
        """
        config = self.core.config
        state = encoder_past_key_values if padding_cache is None else padding_cache
        if None not in (encoder_past_key_values, padding_cache) and encoder_past_key_values is not padding_cache:
            raise ValueError("expected encoder_past_key_values and padding_cache of one call, got those of two")
        codebooks = config.codebooks if num_quantizers is None else num_quantizers
        if not config.semantic_codebooks <= codebooks <= config.codebooks:
            raise ValueError(
                f"expected num_quantizers of {config.semantic_codebooks} to {config.codebooks}, got {codebooks}"
            )
        shape = list(input_values.shape)
        if len(shape) != 3 or shape[1] != config.channels or not shape[2]:
            raise ValueError(f"expected input_values of shape [B, {config.channels}, N], got {shape}")
        if state is None and (self.config.use_streaming if use_streaming is None else use_streaming):
            state = self.core.init_encode_state(len(input_values), CHUNK_FRAMES)
        if state is None:
            codes = encode_ragged(self.core, input_values, codebooks)
        elif shape[2] % config.frame_samples:
            raise ValueError(f"expected whole frames of {config.frame_samples} samples in a stream, got {shape[2]}")
        else:
            pieces = input_values.split(CHUNK_FRAMES * config.frame_samples, dim=-1)
            codes = torch.cat([self.core.encode(piece, codebooks, state) for piece in pieces], dim=-1)
        output = MimiEncoderOutput(codes, encoder_past_key_values=state, padding_cache=state)
        return output.to_tuple() if return_dict is False else output

    def decode(
        self,
        audio_codes: Tensor,
        padding_mask: Tensor | None = None,
        decoder_past_key_values: DecodeState | None = None,
        return_dict: bool | None = None,
        *,
        use_cache: bool | None = None,
    ) -> MimiDecoderOutput | tuple[object, ...]:
        """audio_codes int64 [B, Q, frames] of the first Q codebooks to audio_values [B, channels, N].

        padding_mask [..., N]: its length is the most samples that are given back. use_cache: begin a stream; the cache
        of the output goes on with it, and is moved on in place. Raises ValueError for codes that the model does not
        have, and in a model that only encodes.
        """
        config = self.core.config
        if audio_codes.ndim != 3 or not 1 <= audio_codes.shape[1] <= config.codebooks:
            raise ValueError(
                f"expected audio_codes of shape [B, 1 to {config.codebooks}, frames], got {list(audio_codes.shape)}"
            )
        if audio_codes.numel() and not 0 <= audio_codes.min() <= audio_codes.max() < config.codebook_size:
            raise ValueError(
                f"expected codes of 0 to {config.codebook_size - 1}, "
                f"got {int(audio_codes.min())} to {int(audio_codes.max())}"
            )
        state = decoder_past_key_values
        if state is None and caching(use_cache, self.config.use_cache, output_attentions=False):
            state = self.core.init_decode_state(len(audio_codes), CHUNK_FRAMES)
        if state is None:
            audio = self.core.decode(audio_codes)
        else:
            with torch.no_grad():  # a state would hold on to every call's graph
                pieces = audio_codes.split(CHUNK_FRAMES, dim=-1)
                audio = torch.cat([self.core.decode(piece, state) for piece in pieces], dim=-1)
        if padding_mask is not None:
            audio = audio[..., : padding_mask.shape[-1]]
        output = MimiDecoderOutput(audio, decoder_past_key_values=state)
        return output.to_tuple() if return_dict is False else output

    def forward(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        audio_codes: Tensor | None = None,
        encoder_past_key_values: EncodeState | None = None,
        decoder_past_key_values: DecodeState | None = None,
        return_dict: bool | None = None,
        *,
        use_streaming: bool | None = None,
        use_cache: bool | None = None,
    ) -> MimiOutput | tuple[object, ...]:
        """`encode` and `decode` in one: audio_values are as long as the mask, or without one as input_values.

        audio_codes: those of an earlier `encode`, which is then left out. Otherwise as the two, and so are the errors.
        """
        encoder_state = encoder_past_key_values
        if audio_codes is None:
            encoded = self.encode(
                input_values, padding_mask, num_quantizers, encoder_state, use_streaming=use_streaming
            )
            assert isinstance(encoded, MimiEncoderOutput)
            audio_codes, encoder_state = encoded.audio_codes, encoded.encoder_past_key_values
        mask = input_values if padding_mask is None else padding_mask
        decoded = self.decode(audio_codes, mask, decoder_past_key_values, use_cache=use_cache)
        assert isinstance(decoded, MimiDecoderOutput)
        output = MimiOutput(audio_codes, decoded.audio_values, encoder_state, decoded.decoder_past_key_values)
        return output.to_tuple() if return_dict is False else output

    def get_encoded_length(self, input_length: int | Tensor) -> Tensor:
        """How many frames so many samples give."""
        frame = self.core.config.frame_samples
        return (torch.as_tensor(input_length) + frame - 1) // frame

    def get_audio_codes_mask(self, padding_mask: Tensor, padding_side: str = "right") -> Tensor:
        """Which frames have samples in them: bool [B, frames of the longest row], of a mask [B, N], 1 for samples."""
        lengths = self.get_encoded_length(padding_mask.sum(-1))
        mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
        return mask if padding_side == "right" else mask.flip(-1)


def initialise(core: Mimi, config: MimiConfig) -> None:
    """Random weights as transformers begins with; all of the codebooks are zeros."""
    for name, weight in core.named_parameters():
        if weight.ndim == 3:
            nn.init.kaiming_normal_(weight)
        elif weight.ndim == 2:
            nn.init.normal_(weight, std=config.initializer_range)
        elif name.endswith("_scale.weight"):
            nn.init.constant_(weight, config.layer_scale_initial_scale)
