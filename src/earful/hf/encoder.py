"""The audio encoder under the names of the documents."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from torch import Tensor

from earful.hf.arguments import caching, initialise, keys_of, require_one, require_positions
from earful.hf.config import VoxtralRealtimeConfig, VoxtralRealtimeEncoderConfig
from earful.hf.loading import Device, Dtype, OverCore, load_core
from earful.hf.outputs import VoxtralRealtimeEncoderOutput
from earful.models.voxtral.model import Encoder, EncoderState, VoxtralRealtime
from earful.models.voxtral.passes import encoder_state, padding_state
from earful.nn.passes import CHUNK, Ask, run

CHUNK_FRAMES = 4 * CHUNK


class VoxtralRealtimeEncoder(OverCore):
    """Holds the encoder of the core. Raises ValueError for a configuration that the network does not have."""

    core: Encoder
    config: VoxtralRealtimeEncoderConfig
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
        whole, values, _ = load_core(source, VoxtralRealtime, device_map, dtype, torch_dtype, revision)
        return cls.holding(whole.encoder, VoxtralRealtimeConfig.from_dict(values).audio_config).eval()

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
