"""The audio encoder under the names of the documents."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from earful.hf.config import VoxtralRealtimeEncoderConfig
from earful.hf.loading import Device, Dtype, load_core
from earful.hf.outputs import VoxtralRealtimeEncoderOutput
from earful.models.voxtral.model import DecoderState, Encoder, EncoderState
from earful.models.voxtral.passes import CHUNK_SLOTS, Ask, encoder_state, padding_state, run

CHUNK_FRAMES = 4 * CHUNK_SLOTS


class VoxtralRealtimeEncoder(nn.Module):
    """Holds the encoder of the core. Raises ValueError for a configuration that the network does not have."""

    main_input_name = "input_features"

    def __init__(self, config: VoxtralRealtimeEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.core = Encoder(config.to_core())
        initialise(self.core, config.initializer_range)

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
        """The encoder of a whole model; arguments and errors as of `VoxtralRealtimeForConditionalGeneration`'s."""
        whole, config, _ = load_core(source, device_map, dtype, torch_dtype, revision)
        return cls.holding(whole.encoder, config.audio_config).eval()

    @classmethod
    def holding(cls, core: Encoder, config: VoxtralRealtimeEncoderConfig) -> Self:
        """Over an encoder that is there already."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model.core, model.config, model.training = core, config, core.training
        return model

    @property
    def device(self) -> torch.device:
        return self.core.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.core.norm.weight.dtype

    def forward(
        self,
        input_features: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: EncoderState | None = None,
        padding_cache: EncoderState | None = None,
        inputs_embeds: Tensor | None = None,
        cache_position: Tensor | None = None,
        use_cache: bool | None = None,
        use_padding_cache: bool | None = None,
        attention_mask: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
    ) -> VoxtralRealtimeEncoderOutput | tuple[object, ...]:
        """input_features [B, M, F], or the convolutions' output [B, F / 2, D], to hidden states [B, F / 2, D].

        past_key_values, padding_cache: states that an earlier call returned; they are moved on in place. attention_mask
        [B, S]: 0 for frames, from the start of the stream, that are not to be looked at.
        Raises ValueError for both inputs or neither, and for states, masks and positions that do not fit them.
        """
        require_one(input_features=input_features, inputs_embeds=inputs_embeds)
        x = inputs_embeds if input_features is None else input_features
        assert x is not None
        state, padding = past_key_values, padding_cache
        if state is None and caching(use_cache, self.config.use_cache, output_attentions):
            state = encoder_state(self.core, len(x), CHUNK_FRAMES)
        if padding is None and use_padding_cache:
            padding = padding_state(self.core, len(x)) if state is None else state
        if input_features is not None:
            x = self.core.embed(x.to(self.dtype), padding)
        require_positions(cache_position, state, x.shape[1])
        ask = Ask(position_ids, keys_of(attention_mask, state, x.shape[1]), output_hidden_states, output_attentions)
        passed = run(self.core, x, state, ask=ask)
        output = VoxtralRealtimeEncoderOutput(
            last_hidden_state=passed.last,
            past_key_values=state,
            hidden_states=passed.hidden if output_hidden_states else None,
            attentions=passed.attentions if output_attentions else None,
            padding_cache=padding,
        )
        return output if return_dict else output.to_tuple()


def initialise(model: nn.Module, spread: float) -> None:
    """Random weights of this standard deviation, biases zero, norms one."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=spread)
        else:
            nn.init.constant_(parameter, float(name.endswith("norm.weight")))


def require_one(**either: object) -> None:
    """Exactly one of two arguments."""
    given = [name for name, value in either.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"expected exactly one of {' and '.join(either)}, got {' and '.join(given) or 'neither'}")


def caching(asked: bool | None, configured: bool, output_attentions: bool) -> bool:
    """Whether to begin a cache. Unless asked, not where gradients are taken: it would hold on to every step's graph."""
    if asked is None:
        return configured and not torch.is_grad_enabled() and not output_attentions
    return asked


def require_positions(cache_position: Tensor | None, state: EncoderState | DecoderState | None, steps: int) -> None:
    """Positions in the stream follow from the state; others than those would be a mistake."""
    if cache_position is None:
        return
    start = int(state.pos[0]) if state is not None else 0
    if cache_position.tolist() != list(range(start, start + steps)):
        raise ValueError(f"expected cache_position of {start} to {start + steps - 1}, got {cache_position.tolist()}")


def keys_of(attention_mask: Tensor | None, state: EncoderState | DecoderState | None, steps: int) -> Tensor | None:
    """The positions that may be looked at, None for all. Raises ValueError for a mask of another length."""
    if attention_mask is None:
        return None
    total = steps + (int(state.pos[0]) if state is not None else 0)
    if attention_mask.ndim != 2 or attention_mask.shape[1] != total:
        raise ValueError(f"expected attention_mask of shape [B, {total}], got {list(attention_mask.shape)}")
    return attention_mask.bool()
