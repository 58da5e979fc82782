"""Speech2Text under the names of the documents: a core model is held, arguments are translated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from earful.generate.beam import Hypothesis
from earful.hf.arguments import caching, initialise, keys_of, require_one, require_positions
from earful.hf.generating import length_of, sampling_of
from earful.hf.loading import Device, Dtype, OverCore, load_core
from earful.hf.outputs import BaseModelOutput, GenerateEncoderDecoderOutput, Seq2SeqLMOutput, Seq2SeqModelOutput
from earful.hf.s2t_config import Speech2TextConfig
from earful.models.s2t.config import EOS, PAD, START, S2tConfig
from earful.models.s2t.decode import write
from earful.models.s2t.model import Memory, Speech2Text
from earful.models.s2t.passes import Ask, Cache, decode, encode, label_loss, shifted
from earful.registry import save_model


class _Held(OverCore):
    """What both models have in common: the whole network, which one of them shows without its head."""

    core: Speech2Text
    config: Speech2TextConfig
    main_input_name = "input_features"

    def __init__(self, config: Speech2TextConfig) -> None:
        super().__init__()
        self.core, self.config = Speech2Text(config.to_core()), config
        initialise(self.core, config.init_std)
        with torch.no_grad():
            self.core.decoder.embed.weight[PAD] = 0

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
        """A model of a folder or a hub id, ready to run.

        device_map: one device for all of it, "auto" for the accelerator if there is one, None for the CPU. dtype, or by
        its old name torch_dtype: a type or its name, None or "auto" for that of the stored weights.
        Raises `CheckpointError` for what cannot be loaded, ValueError for other devices and types.
        """
        core, values, tokenizer = load_core(source, Speech2Text, device_map, dtype, torch_dtype, revision)
        return cls.holding(core, Speech2TextConfig.from_dict(values), tokenizer_file=tokenizer).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, and the vocabulary that it was loaded with if there was one, as Hugging Face's files.

        Raises `CheckpointError` when it cannot.
        """
        known = self.tokenizer_file is not None and self.tokenizer_file.is_file()
        save_model(self.core, folder, "hf", self.tokenizer_file if known else None)


class Speech2TextModel(_Held):
    """The network without its head. Raises ValueError for a configuration that the network does not have."""

    def forward(
        self,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        decoder_head_mask: Tensor | None = None,
        cross_attn_head_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | Sequence[Any] | None = None,
        past_key_values: Cache | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
    ) -> Seq2SeqModelOutput | tuple[object, ...]:
        """Features [B, F, bins] and the ids of a text [B, T] to hidden states [B, T, D].

        attention_mask [B, F]: 1 for frames, then 0 for padding, None for frames alone. decoder_attention_mask [B, S]: 0
        for ids, from the start of the text, that no other one sees; without one every id sees all before it.
        decoder_inputs_embeds [B, T, D]: instead of ids, their embeddings times config.d_model ** 0.5 where these are
        scaled. Head masks [H] or [layers, H] multiply the weights of the heads, of the encoder, of the decoder and of
        what it sees of the encoder. encoder_outputs: what the encoder gave in an earlier call, instead of features.
        past_key_values: what an earlier call returned, moved on in place; the utterance is in it and nothing is heard.
        Raises ValueError for inputs that do not fit each other.
        """
        require_one(decoder_input_ids=decoder_input_ids, decoder_inputs_embeds=decoder_inputs_embeds)
        config = self.config
        hidden_too = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        weights_too = config.output_attentions if output_attentions is None else output_attentions
        heard: BaseModelOutput | None = None
        if past_key_values is None:
            require_one(input_features=input_features, encoder_outputs=encoder_outputs)
            if encoder_outputs is None:
                assert input_features is not None
                heard = self._hear(input_features, attention_mask, Ask(hidden_too, weights_too, head_mask))
            else:
                heard = BaseModelOutput(*encoder_outputs) if isinstance(encoder_outputs, Sequence) else encoder_outputs
            memory, state = self._remember(heard.last_hidden_state, attention_mask), None
        else:
            memory, state = past_key_values.memory, past_key_values.state
        given = decoder_input_ids if decoder_inputs_embeds is None else decoder_inputs_embeds
        assert given is not None
        if len(given) != len(memory.mask):
            raise ValueError(f"expected a text for each of {len(memory.mask)} utterances, got {len(given)}")
        if state is None and caching(use_cache, config.use_cache, output_attentions=False):
            state = self.core.decoder.init_state(len(given))
        require_positions(cache_position, state, given.shape[1])
        real = keys_of(decoder_attention_mask, state, given.shape[1])
        ask = Ask(hidden_too, weights_too, decoder_head_mask, cross_attn_head_mask)
        embedded = decoder_inputs_embeds
        passed = decode(self.core.decoder, decoder_input_ids, embedded, memory, state, real, ask)
        output = Seq2SeqModelOutput(
            passed.last,
            None if state is None else past_key_values or Cache(state, memory),
            passed.hidden if hidden_too else None,
            passed.attentions if weights_too else None,
            passed.crosses if weights_too else None,
            None if heard is None else heard.last_hidden_state,
            None if heard is None else heard.hidden_states,
            None if heard is None else heard.attentions,
        )
        return output if (config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _hear(self, features: Tensor, attention_mask: Tensor | None, ask: Ask) -> BaseModelOutput:
        require_features(features, self.core.config)
        passed = encode(self.core.encoder, features.to(self.dtype), frames_of(attention_mask, features), ask)
        hidden = passed.hidden if ask.hidden else None
        return BaseModelOutput(passed.last, hidden, passed.attentions if ask.attentions else None)

    def _remember(self, heard: Tensor, attention_mask: Tensor | None) -> Memory:
        frames, most = frames_of(attention_mask), heard.shape[1]
        every = torch.full((len(heard),), most, device=heard.device)
        return self.core.decoder.remember(heard, every if frames is None else self.core.encoder.steps(frames, most))


class Speech2TextForConditionalGeneration(_Held):
    """Transcribes or translates features that the processor made.

    Raises ValueError for a configuration that the network does not have.
    """

    @property
    def model(self) -> Speech2TextModel:
        """The network without its head; it shares its weights with this model."""
        return Speech2TextModel.holding(self.core, self.config, tokenizer_file=self.tokenizer_file)

    def forward(
        self,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        decoder_head_mask: Tensor | None = None,
        cross_attn_head_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | Sequence[Any] | None = None,
        past_key_values: Cache | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
    ) -> Seq2SeqLMOutput | tuple[object, ...]:
        """Logits [B, T, V] in float32 of the ids that follow each of a text.

        labels [B, T], -100 where nothing is asked: gives their loss, each from the logits in its place; without ids the
        decoder reads the start and the labels but for the last. Otherwise as `Speech2TextModel`, and so are the errors.
        """
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = shifted(labels)
        outputs = self.model(
            input_features,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            head_mask,
            decoder_head_mask,
            cross_attn_head_mask,
            encoder_outputs,
            past_key_values,
            decoder_inputs_embeds,
            use_cache,
            output_attentions,
            output_hidden_states,
            return_dict=True,
            cache_position=cache_position,
        )
        logits = self.core.decoder.logits(outputs.last_hidden_state)
        loss = None if labels is None else label_loss(logits, labels)
        rest = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        output = Seq2SeqLMOutput(loss, logits, **rest)
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        forced_bos_token_id: int | Sequence[int | None] | None = None,
        num_beams: int | None = None,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        length_penalty: float | None = None,
        early_stopping: bool | Literal["never"] | None = None,
        do_sample: bool = False,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        num_return_sequences: int = 1,
        return_dict_in_generate: bool = False,
        output_scores: bool = False,
    ) -> Tensor | GenerateEncoderDecoderOutput:
        """Texts [B * num_return_sequences, L]: the start id, what is written, the end id, then padding.

        inputs, or by its other name input_features [B, F, bins]; attention_mask [B, F]: 1 for frames, then 0 for
        padding. An utterance of no frames has the empty text. What is None is as the checkpoint says.
        forced_bos_token_id: the first id, of all texts or of each utterance's. num_beams: 1 is greedy. max_length: ids
        at most, the start counted; max_new_tokens: without it. num_return_sequences: the best ones of each utterance,
        best first. do_sample: draw at random instead, by default with a temperature of 1 from the 50 likeliest.
        return_dict_in_generate: an output with `sequences`, and with output_scores their `sequences_scores`,
        log-probabilities over a power of the length.
        Raises ValueError for inputs that do not fit each other.
        """
        require_one(inputs=inputs, input_features=input_features)
        features = input_features if inputs is None else inputs
        assert features is not None
        require_features(features, self.core.config)
        asked: dict[str, Any] = {"length_penalty": length_penalty, "early_stopping": early_stopping}
        asked |= {"beams": num_beams, "max_length": length_of(1, None, max_new_tokens, max_length)}
        usual = replace(self.core.config.decoding, beams=1) if do_sample else self.core.config.decoding
        sampling = sampling_of(do_sample, temperature, top_k, top_p)
        how = replace(usual, **{name: value for name, value in asked.items() if value is not None}, sampling=sampling)
        require_count(num_return_sequences, None if do_sample else how.beams)
        texts = write(
            self.core,
            features.to(self.dtype),
            frames_of(attention_mask, features),
            how,
            for_each(self.core.config.first_id if forced_bos_token_id is None else forced_bos_token_id, len(features)),
            num_return_sequences if do_sample else 1,
        )
        chosen = [text for best in texts for text in filled(best, num_return_sequences)]
        longest = max(len(text.ids) for text in chosen)
        rows = [[START, *text.ids, *[PAD] * (longest - len(text.ids))] for text in chosen]
        ids = torch.tensor(rows, device=self.device)
        if not return_dict_in_generate:
            return ids
        scores = torch.tensor([text.score for text in chosen], device=self.device) if output_scores else None
        return GenerateEncoderDecoderOutput(ids, scores)


def require_count(wanted: int, beams: int | None) -> None:
    """So many texts of each utterance; None for as many as are drawn."""
    if wanted < 1 or (beams is not None and wanted > beams):
        expected = "at least 1" if beams is None else f"1 to the {beams} beams"
        raise ValueError(f"expected num_return_sequences of {expected}, got {wanted}")


def for_each(forced: int | Sequence[int | None] | None, utterances: int) -> Sequence[int | None]:
    """The first id of each utterance's text."""
    if forced is None or isinstance(forced, int):
        return [forced] * utterances
    if len(forced) != utterances:
        raise ValueError(f"expected a first id for each of {utterances} utterances, got {len(forced)}")
    return forced


def filled(texts: list[Hypothesis], count: int) -> list[Hypothesis]:
    """So many texts; where fewer were found, ones without a word that are worth nothing."""
    return [*texts, *[Hypothesis([EOS], -math.inf)] * count][:count]


def require_features(features: Tensor, config: S2tConfig) -> None:
    if features.ndim != 3 or features.shape[2] != config.audio.bins:
        raise ValueError(f"expected input_features of shape [B, F, {config.audio.bins}], got {list(features.shape)}")


def frames_of(attention_mask: Tensor | None, features: Tensor | None = None) -> Tensor | None:
    """Frames of each utterance [B], None for all. Raises ValueError for a mask of another shape, or not ones first."""
    if attention_mask is None:
        return None
    mask = (attention_mask[..., -1] if attention_mask.ndim == 3 else attention_mask).long()  # 3: of each feature
    if features is not None and mask.shape != features.shape[:2]:
        raise ValueError(f"expected attention_mask of shape {list(features.shape[:2])}, got {list(mask.shape)}")
    if (mask.diff(dim=1) > 0).any():
        raise ValueError("expected an attention_mask of ones, then zeros, got a one behind a zero")
    return mask.sum(1)
