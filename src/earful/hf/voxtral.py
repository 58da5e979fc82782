"""Voxtral Realtime under the names of the documents: a core model is held, arguments are translated."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from earful.hf.arguments import caching, initialise, keys_of, require_one, require_positions
from earful.hf.config import VoxtralRealtimeConfig
from earful.hf.encoder import VoxtralRealtimeEncoder
from earful.hf.generating import Streamer, collected, length_of, sampling_of
from earful.hf.loading import Device, Dtype, OverCore, load_core
from earful.hf.outputs import VoxtralRealtimeCausalLMOutputWithPast, VoxtralRealtimeEncoderOutput
from earful.models.voxtral.decode import hear_chunks, hear_whole, write
from earful.models.voxtral.model import DecoderState, EncoderState, VoxtralRealtime
from earful.models.voxtral.passes import decoder_state, join
from earful.nn.passes import CHUNK, Ask, next_token_loss, run
from earful.registry import save_model


class VoxtralRealtimeForConditionalGeneration(OverCore):
    """Transcribes features that the processor made. Raises ValueError for a configuration that the network has not."""

    core: VoxtralRealtime
    config: VoxtralRealtimeConfig
    main_input_name = "input_ids"

    def __init__(self, config: VoxtralRealtimeConfig) -> None:
        super().__init__()
        self.core, self.config = VoxtralRealtime(config.to_core()), config
        initialise(self.core, config.text_config.initializer_range)
        initialise(self.core.encoder, config.audio_config.initializer_range)

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
        """A model of a folder or a hub id in any known layout, ready to run.

        device_map: one device for all of it, "auto" for the accelerator if there is one, None for the CPU. dtype, or by
        its old name torch_dtype: a type or its name, None or "auto" for that of the stored weights.
        Raises `CheckpointError` for what cannot be loaded, ValueError for other devices and types.
        """
        core, values, tokenizer = load_core(source, VoxtralRealtime, device_map, dtype, torch_dtype, revision)
        return cls.holding(core, VoxtralRealtimeConfig.from_dict(values), tokenizer_file=tokenizer).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, and the tokenizer file that it was loaded with, as Hugging Face's files.

        A model that was made from a configuration has none: `processor.save_pretrained` writes one, and without it the
        folder cannot be loaded again. Raises `CheckpointError` when it cannot write.
        """
        save_model(self.core, folder, "hf", self.tokenizer_file)

    @property
    def audio_tower(self) -> VoxtralRealtimeEncoder:
        """The encoder alone; it shares its weights with this model."""
        return VoxtralRealtimeEncoder.holding(self.core.encoder, self.config.audio_config)

    def get_audio_features(
        self,
        input_features: Tensor | None = None,
        padding_cache: EncoderState | None = None,
        encoder_inputs_embeds: Tensor | None = None,
        past_key_values: EncoderState | None = None,
        use_cache: bool | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
    ) -> VoxtralRealtimeEncoderOutput | tuple[object, ...]:
        """input_features [B, M, slots * mels] to audio vectors [B, slots, D], in `pooler_output`.

        Otherwise as the encoder's `forward`. Raises ValueError like that, and for a part of a slot.
        """
        output = self.audio_tower(
            input_features,
            past_key_values=past_key_values,
            padding_cache=padding_cache,
            inputs_embeds=encoder_inputs_embeds,
            use_cache=use_cache,
            use_padding_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        assert isinstance(output, VoxtralRealtimeEncoderOutput)
        output.pooler_output = join(self.core, output.last_hidden_state)
        return output if return_dict else output.to_tuple()

    def forward(
        self,
        input_ids: Tensor | None = None,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DecoderState | None = None,
        encoder_past_key_values: EncoderState | None = None,
        padding_cache: EncoderState | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        cache_position: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        num_delay_tokens: int | Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
    ) -> VoxtralRealtimeCausalLMOutputWithPast | tuple[object, ...]:
        """Logits [B, T, V] in float32 of ids [B, T], one for each slot of the features [B, M, T * mels].

        Ids may be given as embeddings [B, T, D], features as the output of the encoder's convolutions [B, frames, D].
        The three caches are states that an earlier call returned; they are moved on in place. attention_mask [B, S]: 0
        for slots, from the start of the stream, that are not to be looked at. labels [B, T], -100 where nothing is
        asked: gives the loss of each from the logits before it. num_delay_tokens: one for all rows or one for each.
        Raises ValueError for inputs that do not fit each other.
        """
        require_one(input_ids=input_ids, inputs_embeds=inputs_embeds)
        require_one(input_features=input_features, encoder_inputs_embeds=encoder_inputs_embeds)
        decoder = self.core.decoder
        cached = caching(use_cache, self.config.use_cache, output_attentions)
        heard = self.get_audio_features(
            input_features, padding_cache, encoder_inputs_embeds, encoder_past_key_values, cached
        )
        assert isinstance(heard, VoxtralRealtimeEncoderOutput)
        audio = heard.pooler_output
        x = decoder.embed(input_ids) if inputs_embeds is None else inputs_embeds
        assert audio is not None
        assert x is not None
        if x.shape[:2] != audio.shape[:2]:
            raise ValueError(
                f"expected ids of shape {list(audio.shape[:2])}, one per slot of audio, got {list(x.shape[:2])}"
            )
        state = past_key_values
        if state is None and cached:
            state = decoder_state(decoder, len(x), CHUNK)
        require_positions(cache_position, state, x.shape[1])
        ask = Ask(position_ids, keys_of(attention_mask, state, x.shape[1]), output_hidden_states, output_attentions)
        passed = run(decoder, x + audio, state, decoder.gains(self._delay(num_delay_tokens, len(x))), ask)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = decoder.logits(passed.last[:, kept])
        output = VoxtralRealtimeCausalLMOutputWithPast(
            loss=None if labels is None else next_token_loss(logits, labels),
            logits=logits,
            past_key_values=state,
            hidden_states=passed.hidden if output_hidden_states else None,
            attentions=passed.attentions if output_attentions else None,
            encoder_past_key_values=heard.past_key_values,
            padding_cache=heard.padding_cache,
        )
        return output if return_dict else output.to_tuple()

    def _delay(self, num_delay_tokens: int | Tensor | None, rows: int) -> Tensor:
        slots = self.config.default_num_delay_tokens if num_delay_tokens is None else num_delay_tokens
        return torch.as_tensor(slots, device=self.device).expand(rows)

    def generate(
        self,
        input_ids: Tensor,
        input_features: Tensor | Iterable[Tensor],
        *,
        attention_mask: Tensor | None = None,
        num_delay_tokens: int | Tensor | None = None,
        max_new_tokens: int | None = None,
        max_length: int | None = None,
        do_sample: bool = False,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        eos_token_id: int | Collection[int] | None = None,
        pad_token_id: int | None = None,
        streamer: Streamer | None = None,
    ) -> Tensor:
        """The prompt and what is written behind it [B, T], one id per slot.

        input_features: of whole clips [B, M, F]; or an iterable of chunks, the first of as many slots as the prompt has
        ids, the others of one slot each: then one id is written for each chunk, before the next one is asked for.
        max_new_tokens, max_length: fewer ids than there are slots. eos_token_id: ids that end a row, which is filled
        with pad_token_id from there on; an empty list never does. do_sample: draw at random, by default with a
        temperature of 1 from the 50 likeliest. streamer: gets the prompt and then each id.
        Raises ValueError for inputs that do not fit each other and for a mask that is not all ones.
        """
        if attention_mask is not None and not attention_mask.all():
            raise ValueError("expected an attention_mask of ones, got zeros: all rows have the same prompt")
        core, ids, prompt = self.core, self.core.config.ids, input_ids.shape[1]
        whole = input_features if isinstance(input_features, Tensor) else None
        slots = None if whole is None else -(-whole.shape[-1] // core.config.mels_per_slot)
        length = length_of(prompt, slots, max_new_tokens, max_length)
        ends = {ids.eos} if eos_token_id is None else {eos_token_id} if isinstance(eos_token_id, int) else eos_token_id
        if pad_token_id is None:  # without one of its own a model fills rows with what ends them
            pad_token_id = next(iter(ends), ids.eos) if ids.filler == ids.eos else ids.filler
        heard = hear_chunks(core, input_features, prompt) if whole is None else hear_whole(core, whole, prompt)
        written = write(
            core,
            input_ids,
            heard,
            self._delay(num_delay_tokens, len(input_ids)),
            sampling_of(do_sample, temperature, top_k, top_p),
            ends,
            pad_token_id,
            None if whole is None else length,
        )
        with torch.no_grad():
            return collected(input_ids, islice(written, None if length is None else length - prompt), streamer)
