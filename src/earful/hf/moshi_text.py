"""Moshi's decoder of text alone, under the names of the documents."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from earful.checkpoint.fields import Fields
from earful.checkpoint.hub import fetch
from earful.hf.config import read_config
from earful.hf.generating import Streamer, choice_of, generated, length_of, lengths, rows_of
from earful.hf.moshi_config import GENERATION, MoshiConfig
from earful.hf.outputs import MoshiCausalLMOutputWithPast
from earful.hf.temporal import TemporalModel, TemporalPart
from earful.models.moshi.decode import writing_state
from earful.models.moshi.model import Moshi, TemporalState
from earful.nn.passes import PLAIN, Ask, next_token_loss, run
from earful.nn.state import select


class MoshiModel(TemporalModel):
    """The decoder without its head, for text ids [B, T]. Raises ValueError for sizes that the network does not have."""

    whole = Moshi
    config_class = MoshiConfig

    def embed(self, input_ids: Tensor) -> Tensor:
        """input_ids [B, T] to their embeddings [B, T, D]; raises ValueError for another shape."""
        if input_ids.ndim != 2:
            raise ValueError(f"expected input_ids of shape [B, T], got {list(input_ids.shape)}")
        return self.core.text_embed(input_ids)  # type: ignore[no-any-return]


class MoshiForCausalLM(TemporalPart):
    """The decoder with its head, for text without audio. Raises ValueError for sizes that the network does not have."""

    whole = Moshi
    config_class = MoshiConfig
    generation_config: dict[str, Any]  # what a folder's generation_config.json says, or would say

    def __init__(self, config: MoshiConfig) -> None:
        super().__init__(config)
        self.generation_config = {}

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None, **options: Any) -> Self:
        """The part of a whole model; arguments and errors as of `MoshiForConditionalGeneration`'s."""
        folder = fetch(source, revision)
        model = super().from_pretrained(folder, **options)
        model.generation_config = read_config(folder, GENERATION)
        return model

    @property
    def model(self) -> MoshiModel:
        """The decoder without its head; it shares its weights with this model."""
        return MoshiModel.holding(self.core, self.config)

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
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
    ) -> MoshiCausalLMOutputWithPast | tuple[object, ...]:
        """Logits [B, T, V] in float32 of ids [B, T] or of embeddings [B, T, D]; the start id has none.

        labels [B, T], -100 where nothing is asked: gives the loss of each from the logits before it. logits_to_keep: so
        many of the last positions, 0 for all, or which ones. Otherwise as `MoshiModel`, and so are the errors.
        """
        outputs = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            output_attentions,
            output_hidden_states,
            return_dict=True,
            cache_position=cache_position,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        last = outputs.last_hidden_state[:, kept]
        logits = self.core.logits(last)
        output = MoshiCausalLMOutputWithPast(
            None if labels is None else next_token_loss(logits, labels),
            logits,
            last,
            outputs.past_key_values,
            outputs.hidden_states,
            outputs.attentions,
        )
        return output if self.wanted(return_dict, "return_dict") else output.to_tuple()

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        max_new_tokens: int | None = None,
        max_length: int | None = None,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        num_beams: int | None = None,
        num_return_sequences: int = 1,
        eos_token_id: int | Collection[int] | None = None,
        pad_token_id: int | None = None,
        streamer: Streamer | None = None,
    ) -> Tensor:
        """The prompt [B, L] and ids behind it [B * num_return_sequences, T]; 20 where no length is asked for.

        attention_mask [B, L]: 0 for what a prompt is filled up with in front. How ids are chosen is, unless it is
        asked for, as generation_config says. eos_token_id: ids that end a row, which is filled with pad_token_id, or
        else the start id, from there on. streamer: gets the prompt and then each id.
        Raises ValueError for inputs that do not fit each other.
        """
        asked = {"do_sample": do_sample, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        how = choice_of({**asked, "num_beams": num_beams}, Fields(self.generation_config, GENERATION))
        length = length_of(input_ids.shape[1], None, *lengths(max_new_tokens, max_length))
        assert length is not None
        count = length - input_ids.shape[1]
        writer = TextWriter(self.model, input_ids, attention_mask, count, rows_of(how, num_return_sequences))
        ends = () if eos_token_id is None else {eos_token_id} if isinstance(eos_token_id, int) else eos_token_id
        filler = self.config.vocab_size if pad_token_id is None else pad_token_id
        return generated(writer, input_ids, count, how, num_return_sequences, streamer, ends, filler)[0]


class TextWriter:
    """As `lockstep.Writer` wants one: text behind prompts [B, L], `rows` for each of them."""

    state: TemporalState

    def __init__(self, model: MoshiModel, prompt: Tensor, mask: Tensor | None, count: int, rows: int) -> None:
        self.model = model
        self.seen, self.positions = None, None
        if mask is not None and not mask.all():
            self.seen = F.pad(mask.bool(), (0, count), value=True).repeat_interleave(rows, 0)  # [R, L + count]
            self.positions = (self.seen.cumsum(-1) - 1).clamp(min=0)
        state = writing_state(model.core, len(prompt), prompt.shape[1], prompt.shape[1] + count)
        hidden = self._run(prompt, state, slice(None, None, rows))  # [B, D]
        index = torch.arange(len(prompt), device=prompt.device).repeat_interleave(rows)
        self.state, self.logits = select(state, index), model.core.logits(hidden[index])

    def take(self, ids: Tensor, last: bool) -> None:
        if not last:
            self.logits = self.model.core.logits(self._run(ids[:, None], self.state))

    def _run(self, ids: Tensor, state: TemporalState, rows: slice = slice(None)) -> Tensor:
        """What the model makes of the last of new ids [R, T]; rows: of the mask."""
        begin = int(state.pos[0])
        end = begin + ids.shape[1]
        ask = PLAIN
        if self.seen is not None and self.positions is not None:
            ask = Ask(self.positions[rows, begin:end], self.seen[rows, :end])
        return run(self.model.core, self.model.embed(ids), state, ask=ask).last[:, -1]
