"""Moshi under the names of the documents: a core model is held, arguments are translated."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from earful.checkpoint.fields import Fields
from earful.checkpoint.files import write_json
from earful.checkpoint.hub import fetch
from earful.hf.arguments import initialise
from earful.hf.config import read_config
from earful.hf.generating import Streamer, choice_of, generated, length_of, lengths, rows_of
from earful.hf.loading import Device, Dtype, OverCore, load_core
from earful.hf.mimi import MimiModel
from earful.hf.mimi import initialise as initialise_codec
from earful.hf.moshi_config import CHOICE, GENERATION, MoshiConfig
from earful.hf.moshi_depth import MoshiDepthDecoder, place_loss
from earful.hf.moshi_inputs import joined, prompt_of
from earful.hf.moshi_text import MoshiForCausalLM
from earful.hf.outputs import (
    MoshiConditionalGenerationGenerateOutput,
    MoshiConditionalGenerationOutputWithPast,
    MoshiDepthOutput,
    MoshiUnconditionalInput,
)
from earful.models.moshi.decode import SpeechWriter, summed
from earful.models.moshi.model import Moshi, TemporalState
from earful.nn.passes import IGNORED
from earful.registry import save_model


class MoshiForConditionalGeneration(OverCore):
    """A voice that listens. Raises ValueError for a configuration that the network does not have."""

    core: Moshi
    config: MoshiConfig
    main_input_name = "input_ids"
    generation_config: dict[str, Any]  # what a folder's generation_config.json says, or would say

    def __init__(self, config: MoshiConfig) -> None:
        super().__init__()
        self.core, self.config, self.generation_config = Moshi(config.to_core()), config, {}
        initialise(self.core.temporal, config.initializer_range)
        initialise(self.core.depth, config.depth_decoder_config.initializer_range)
        initialise_codec(self.core.codec, config.audio_encoder_config)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        config: MoshiConfig | None = None,
        device_map: Device = None,
        dtype: Dtype = None,
        torch_dtype: Dtype = None,
        revision: str | None = None,
    ) -> Self:
        """A model of a folder or a hub id in any known layout, ready to run.

        config: to be used in place of the folder's, of the same sizes. device_map: one device for all of it, "auto" for
        the accelerator if there is one, None for the CPU. dtype, or by its old name torch_dtype: a type or its name,
        None or "auto" for that of the stored weights; the codec stays in float32.
        Raises `CheckpointError` for what cannot be loaded, ValueError for other devices, types and sizes.
        """
        folder = fetch(source, revision)
        core, values, tokenizer = load_core(folder, Moshi, device_map, dtype, torch_dtype, None)
        if config is not None and config.to_core() != core.config:
            raise ValueError(f"{source}: expected a config with the sizes of the checkpoint, got others")
        generation = read_config(folder, GENERATION)
        stored = config or MoshiConfig.from_dict(values)
        return cls.holding(core, stored, tokenizer_file=tokenizer, generation_config=generation).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, and the tokenizer file that it was loaded with, as Hugging Face's files.

        Raises `CheckpointError` for delays and codebooks that these cannot say, and when it cannot write.
        """
        tokenizer = self.tokenizer_file
        save_model(self.core, folder, "hf", tokenizer if tokenizer and tokenizer.is_file() else None)
        if self.generation_config:
            write_json(Path(folder) / GENERATION, self.generation_config)

    @property
    def decoder(self) -> MoshiForCausalLM:
        """The decoder of text alone; it shares its weights with this model, as the other two parts do."""
        return MoshiForCausalLM.holding(self.core.temporal, self.config, generation_config=self.generation_config)

    @property
    def depth_decoder(self) -> MoshiDepthDecoder:
        choice = self.generation_config.get(CHOICE) or {}
        return MoshiDepthDecoder.holding(self.core.depth, self.config.depth_decoder_config, generation_config=choice)

    @property
    def audio_encoder(self) -> MimiModel:
        return MimiModel.holding(self.core.codec, self.config.audio_encoder_config)

    def get_unconditional_inputs(self, num_samples: int = 1) -> MoshiUnconditionalInput:
        """The start alone, in so many rows: what `generate` takes where it is given nothing."""
        start, own = self.core.start(num_samples), self._own
        ones = torch.ones_like(start[:, 0])
        return MoshiUnconditionalInput(start[:, 0], start[:, 1 + own :], start[:, 1 : 1 + own], ones)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        user_input_values: Tensor | None = None,
        user_audio_codes: Tensor | None = None,
        moshi_input_values: Tensor | None = None,
        moshi_audio_codes: Tensor | None = None,
        past_key_values: TemporalState | None = None,
        inputs_embeds: Tensor | None = None,
        text_labels: Tensor | None = None,
        audio_labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MoshiConditionalGenerationOutputWithPast | tuple[object, ...]:
        """Logits [B, T, V] in float32 of the text behind each position; start ids have none.

        input_ids [B, T], and of Moshi and of the user codes [B, Q, T] or, where these are not given, waveforms
        [B, 1, N]; any of the three may be left out, and -1 stands for nothing. Or inputs_embeds [B, T, D]. Without
        labels they are the columns that the model takes: the start first, each codebook as late as its delay.

        text_labels [B, T], audio_labels [B, Q, T], -100 where nothing is asked: gives the loss, as in training. All
        inputs are then of frames, without start and delays, which are put in here; position p predicts frame p, a
        delayed code of it later; and labels may be the inputs themselves.
        Masks and caches as in `MoshiModel`. Raises ValueError for inputs that do not fit each other.
        """
        labelled = text_labels is not None or audio_labels is not None
        given = [
            input_ids,
            self._coded(moshi_audio_codes, moshi_input_values, self._own),
            self._coded(user_audio_codes, user_input_values, self._user),
        ]
        if inputs_embeds is not None and (labelled or any(part is not None for part in given)):
            raise ValueError("expected inputs_embeds or ids and audio, labels going with these, got both")
        late = None
        if inputs_embeds is None:
            ids = joined(self.core, *given)
            if labelled:
                if past_key_values is not None or any(part is None for part in given):
                    raise ValueError("expected whole conversations of text and both voices with labels, got less")
                late = self.core.delayed(ids)  # [B, channels, T]
                ids = torch.cat([self.core.start(len(ids)), late[..., :-1]], dim=-1)
                if attention_mask is not None:
                    attention_mask = F.pad(attention_mask, (1, 0), value=1)[:, :-1]
            inputs_embeds = summed(self.core, ids)
        options: Any = {
            "use_cache": use_cache,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "return_dict": True,
        }
        text = self.decoder(
            attention_mask=attention_mask, past_key_values=past_key_values, inputs_embeds=inputs_embeds, **options
        )
        output = MoshiConditionalGenerationOutputWithPast(**dict(text.items()))
        if text_labels is not None:
            output.loss = place_loss(text.logits, text_labels)
        if audio_labels is not None:
            assert late is not None
            depth = self._depth(text.last_hidden_state, late, audio_labels, options)
            assert depth.loss is not None
            output.loss = depth.loss if output.loss is None else output.loss + depth.loss
            output.depth_loss, output.audio_logits = depth.loss, depth.logits
            output.depth_past_key_values = depth.past_key_values
            output.depth_hidden_states, output.depth_attentions = depth.hidden_states, depth.attentions
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    @property
    def _own(self) -> int:
        return self.core.config.own

    @property
    def _user(self) -> int:
        return self.core.config.temporal.codebooks - self._own

    def _coded(self, codes: Tensor | None, values: Tensor | None, codebooks: int) -> Tensor | None:
        """Codes [B, codebooks, T] of a voice if there are any, else those of its waveforms [B, 1, N]."""
        if codes is not None or values is None:
            return codes
        return self.audio_encoder.encode(values.float(), num_quantizers=codebooks).audio_codes  # type: ignore[union-attr]

    def _depth(self, hidden: Tensor, late: Tensor, labels: Tensor, options: dict[str, Any]) -> MoshiDepthOutput:
        """Every frame's codes, given those before. hidden: [B, T, D]; late, labels: [B, channels and Q, T]."""
        own = self._own
        if labels.shape != late[:, 1 : 1 + own].shape:
            raise ValueError(
                f"expected audio_labels of shape {list(late[:, 1 : 1 + own].shape)}, got {list(labels.shape)}"
            )
        shifted = [
            F.pad(row, (delay, 0), value=IGNORED)[:, : labels.shape[-1]]
            for row, delay in zip(labels.unbind(1), self.core.config.delays[1:], strict=False)
        ]
        output = self.depth_decoder(
            late[:, :own].transpose(1, 2).flatten(0, 1),  # the text and all codes but the last: [B T, Q]
            hidden.flatten(0, 1)[:, None],
            labels=torch.stack(shifted, dim=-1).flatten(0, 1),
            **options,
        )
        assert isinstance(output, MoshiDepthOutput)
        return output

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        user_input_values: Tensor | None = None,
        user_audio_codes: Tensor | None = None,
        moshi_input_values: Tensor | None = None,
        moshi_audio_codes: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        return_audio_waveforms: bool | None = True,
        return_audio_codes: bool | None = None,
        concat_unconditional_inputs: bool | None = True,
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
        return_dict_in_generate: bool = False,
        **depth_options: Any,
    ) -> Tensor | MoshiConditionalGenerationGenerateOutput:
        """What is written and said behind a prompt of T frames, the user being silent from there on.

        input_ids [B, T], and of both voices codes [B, Q, T] or waveforms [B, 1, N] of as many frames: all three, or
        none for a conversation from its start. Or inputs_embeds [B, columns, D] of the columns that the model takes,
        best with the codes that they were made of. The start is put before frames that do not begin with it, unless
        concat_unconditional_inputs is False.
        max_new_tokens, max_length: how many ids are written, or are to be in the end, otherwise 20 new ones. How they
        are chosen is, unless it is asked for, as generation_config says; so are codes, by the same names behind
        `depth_` or `depth_decoder_`. num_return_sequences: so many for each row, of beams or by chance.
        eos_token_id: ids that end a row, which is filled with pad_token_id, or else the start id, from there on.
        streamer: gets the prompt and then each id.

        sequences [R, 1 + T + new] begin with the start and the prompt; audio_codes, if return_audio_codes, and
        audio_sequences [R, 1, N] have the prompt's frames and all that are whole, one less than the new ids. Where
        neither is returned the sequences are, as a tensor, unless return_dict_in_generate.
        Raises ValueError for inputs that do not fit each other and for an attention_mask with zeros.
        """
        if attention_mask is not None and not attention_mask.all():
            raise ValueError("expected an attention_mask of ones, got zeros: all rows have the same prompt")
        depth = self.depth_decoder.choice(**named_for_depth(depth_options))
        asked = {"do_sample": do_sample, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        how = choice_of({**asked, "num_beams": num_beams}, Fields(self.generation_config, GENERATION))
        prompt = prompt_of(
            self.core,
            input_ids,
            self._coded(moshi_audio_codes, moshi_input_values, self._own),
            self._coded(user_audio_codes, user_input_values, self._user),
            inputs_embeds,
            bool(concat_unconditional_inputs),
        )
        begun = prompt.text(self.core)
        length = length_of(begun.shape[1], None, *lengths(max_new_tokens, max_length))
        assert length is not None
        count = length - begun.shape[1]
        writer = SpeechWriter(self.core, prompt, count, rows_of(how, num_return_sequences), depth)
        ends = () if eos_token_id is None else {eos_token_id} if isinstance(eos_token_id, int) else eos_token_id
        filler = self.config.vocab_size if pad_token_id is None else pad_token_id
        ids, scores = generated(writer, begun, count, how, num_return_sequences, streamer, ends, filler)
        if not (return_audio_waveforms or return_audio_codes or return_dict_in_generate):
            return ids
        codes = writer.codes()
        audio = writer.audio(codes) if return_audio_waveforms else None
        return MoshiConditionalGenerationGenerateOutput(audio, ids, scores, codes if return_audio_codes else None)


def named_for_depth(options: dict[str, Any]) -> dict[str, Any]:
    """By their names without the prefix; raises TypeError for an argument that nobody takes."""
    found = {}
    for name, value in options.items():
        plain = name.removeprefix("depth_decoder_").removeprefix("depth_")
        if plain == name or plain not in inspect.signature(MoshiDepthDecoder.choice).parameters:
            raise TypeError(f"generate() got an unexpected keyword argument '{name}'")
        found[plain] = value
    return found
