"""What the documents' models over Moshi's transformer over time have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from earful.hf.arguments import caching, initialise, keys_of, require_one, require_positions
from earful.hf.loading import Device, Dtype, OverCore, load_core
from earful.hf.outputs import BaseModelOutputWithPast
from earful.models.moshi.decode import writing_state
from earful.models.moshi.model import Temporal, TemporalState
from earful.nn.passes import CHUNK, Ask, run


class TemporalPart(OverCore):
    """The transformer over time, on its own or out of a whole model, with which it then shares its weights.

    Raises ValueError for a configuration that the network does not have.
    """

    core: Temporal
    main_input_name = "input_ids"
    whole: ClassVar[type[nn.Module]]  # the core model that it is a part of
    config_class: ClassVar[type[Any]]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.core, self.config = Temporal(config.to_temporal()), config
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
        """The part of a whole model; arguments and errors as of that model's."""
        whole, values, _ = load_core(source, cls.whole, device_map, dtype, torch_dtype, revision)
        assert isinstance(whole.temporal, Temporal)
        return cls.holding(whole.temporal, cls.config_class.from_dict(values)).eval()

    def wanted(self, asked: bool | None, name: str) -> bool:
        """What an argument asks for, or else the configuration."""
        return bool(getattr(self.config, name) if asked is None else asked)


class TemporalModel(TemporalPart):
    """Without its head; each family says what its ids are."""

    def embed(self, input_ids: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: TemporalState | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
    ) -> BaseModelOutputWithPast | tuple[object, ...]:
        """Ids, as `embed` takes them, or their embeddings [B, T, D], to hidden states [B, T, D].

        past_key_values: a state that an earlier call returned; it is moved on in place. attention_mask [B, S]: 0 for
        positions, from the start of the stream, that are not to be looked at. Every position sees config.sliding_window
        positions, with and without a cache.
        Raises ValueError for both inputs or neither, and for masks, positions and states that do not fit them.
        """
        require_one(input_ids=input_ids, inputs_embeds=inputs_embeds)
        hidden_too = self.wanted(output_hidden_states, "output_hidden_states")
        weights_too = self.wanted(output_attentions, "output_attentions")
        x = inputs_embeds if input_ids is None else self.embed(input_ids)
        assert x is not None
        state = past_key_values
        if state is None and caching(use_cache, self.config.use_cache, weights_too):
            state = writing_state(self.core, len(x), CHUNK)
        require_positions(cache_position, state, x.shape[1])
        ask = Ask(position_ids, keys_of(attention_mask, state, x.shape[1]), hidden_too, weights_too)
        passed = run(self.core, x, state, ask=ask)
        output = BaseModelOutputWithPast(
            passed.last,
            state,
            passed.hidden if hidden_too else None,
            passed.attentions if weights_too else None,
        )
        return output if self.wanted(return_dict, "return_dict") else output.to_tuple()
