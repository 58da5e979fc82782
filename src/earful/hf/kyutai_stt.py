"""Kyutai Speech-To-Text under the names of the documents: a core model is held, arguments are translated."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from earful.hf.arguments import initialise
from earful.hf.generating import Streamer, collected, length_of, sampling_of
from earful.hf.kyutai_stt_config import KyutaiSpeechToTextConfig
from earful.hf.loading import Device, Dtype, OverCore, load_core
from earful.hf.mimi import MimiModel
from earful.hf.mimi import initialise as initialise_codec
from earful.hf.outputs import CausalLMOutputWithPast, GenerateDecoderOnlyOutput
from earful.hf.temporal import TemporalModel
from earful.models.kyutai_stt.decode import frames_of, hear, with_start_id, write
from earful.models.kyutai_stt.model import KyutaiStt
from earful.models.moshi.decode import writing_state
from earful.models.moshi.model import TemporalState
from earful.nn.passes import next_token_loss
from earful.registry import save_model


class KyutaiSpeechToTextModel(TemporalModel):
    """The language model without its head, for ids [B, T, 1 + codebooks], text first.

    -1, or config.audio_pad_token_id, stands for nothing. Raises ValueError for a configuration that the network does
    not have.
    """

    whole = KyutaiStt
    config_class = KyutaiSpeechToTextConfig

    def embed(self, input_ids: Tensor) -> Tensor:
        """input_ids [B, T, 1 + codebooks] to their summed embeddings [B, T, D]; raises ValueError for another shape."""
        columns = 1 + self.config.num_codebooks
        if input_ids.ndim != 3 or input_ids.shape[2] != columns:
            raise ValueError(f"expected input_ids of shape [B, T, {columns}], got {list(input_ids.shape)}")
        return self.core.embed(core_ids(input_ids, self.config).transpose(1, 2))


class KyutaiSpeechToTextForConditionalGeneration(OverCore):
    """Transcribes audio that the processor made. Raises ValueError for a configuration that the network has not."""

    core: KyutaiStt
    config: KyutaiSpeechToTextConfig
    main_input_name = "input_ids"

    def __init__(self, config: KyutaiSpeechToTextConfig) -> None:
        super().__init__()
        self.core, self.config = KyutaiStt(config.to_core()), config
        initialise(self.core.temporal, config.initializer_range)
        initialise_codec(self.core.codec, config.codec_config)

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
        its old name torch_dtype: a type or its name, None or "auto" for that of the stored weights; the codec stays in
        float32. Raises `CheckpointError` for what cannot be loaded, ValueError for other devices and types.
        """
        core, values, tokenizer = load_core(source, KyutaiStt, device_map, dtype, torch_dtype, revision)
        return cls.holding(core, KyutaiSpeechToTextConfig.from_dict(values), tokenizer_file=tokenizer).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, and the tokenizer file that it was loaded with, as Hugging Face's files.

        A model that was made from a configuration has none: `processor.save_pretrained` writes one, and without it the
        folder cannot be loaded again. Raises `CheckpointError` when it cannot write.
        """
        save_model(self.core, folder, "hf", self.tokenizer_file)

    @property
    def model(self) -> KyutaiSpeechToTextModel:
        """The language model alone; it shares its weights with this model."""
        return KyutaiSpeechToTextModel.holding(self.core.temporal, self.config)

    @property
    def codec_model(self) -> MimiModel:
        """The codec alone; it shares its weights with this model."""
        return MimiModel.holding(self.core.codec, self.config.codec_config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: TemporalState | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        cache_position: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast | tuple[object, ...]:
        """Logits [B, T, V] in float32 of ids [B, T, 1 + codebooks], text first, or of their embeddings [B, T, D].

        The last of the V columns is the start id's, always 0. labels [B, T], -100 where nothing is asked: gives the
        loss of each from the logits before it. logits_to_keep: so many of the last positions, 0 for all, or which ones.
        Otherwise as `KyutaiSpeechToTextModel`, and so are the errors.
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
        logits = with_start_id(self.core.temporal.logits(outputs.last_hidden_state[:, kept]))
        output = CausalLMOutputWithPast(
            None if labels is None else next_token_loss(logits, labels),
            logits,
            outputs.past_key_values,
            outputs.hidden_states,
            outputs.attentions,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def generate(
        self,
        input_ids: Tensor | None = None,
        *,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: TemporalState | None = None,
        max_new_tokens: int | None = None,
        max_length: int | None = None,
        do_sample: bool = False,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        eos_token_id: int | Collection[int] | None = None,
        pad_token_id: int | None = None,
        streamer: Streamer | None = None,
        return_dict_in_generate: bool = False,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        """The prompt and what is written behind it [B, 1 + frames], one id for each frame of the audio.

        input_values [B, 1, N]: audio with the silences around it; what is less than a frame at its end is not heard.
        padding_mask [B, N]: 1 for the audio itself, by which each row ends when its own audio and silence do; from
        there on it is filled with pad_token_id. input_ids [B, L]: a prompt, None for the start id alone.
        past_key_values: a state that has taken in some of the prompt, as in the output with return_dict_in_generate; it
        is moved on. max_new_tokens, max_length: fewer ids. eos_token_id: ids that end a row; there are none by default.
        do_sample: draw at random, by default with a temperature of 1 from the 50 likeliest. streamer: gets the prompt
        and then each id.
        Raises ValueError for inputs that do not fit each other and for an attention_mask with zeros.
        """
        if attention_mask is not None and not attention_mask.all():
            raise ValueError("expected an attention_mask of ones, got zeros: all rows have the same prompt")
        config, temporal, rows = self.config, self.core.temporal, len(input_values)
        start_text, start_code = config.start_ids
        prompt = torch.full((rows, 1), start_text, device=self.device) if input_ids is None else input_ids
        require_shapes(prompt, input_values, padding_mask, past_key_values)
        frames = input_values.shape[-1] // config.frame_size
        length = length_of(prompt.shape[1], frames + 1, max_new_tokens, max_length)
        assert length is not None
        ends = config.eos_token_id if eos_token_id is None else eos_token_id
        filler = config.pad_token_id if pad_token_id is None else pad_token_id
        state = past_key_values
        if state is None:
            state = writing_state(temporal, rows, prompt.shape[1], None if return_dict_in_generate else length)
        with torch.no_grad():
            written = write(
                temporal,
                core_ids(prompt[..., None], config)[..., 0],
                hear(self.core.codec, input_values.float(), config.num_codebooks),
                torch.full((config.num_codebooks,), start_code, device=self.device),
                state,
                sampling_of(do_sample, temperature, top_k, top_p),
                () if ends is None else {ends} if isinstance(ends, int) else ends,
                0 if filler is None else filler,
                None if padding_mask is None else 1 + frames_of(padding_mask, config.frame_size),
            )
            ids = collected(prompt, islice(written, length - prompt.shape[1]), streamer)
        return GenerateDecoderOnlyOutput(ids, state) if return_dict_in_generate else ids


def require_shapes(
    prompt: Tensor, input_values: Tensor, padding_mask: Tensor | None, state: TemporalState | None
) -> None:
    """What `generate` is given must belong together."""
    shape = list(input_values.shape)
    if len(shape) != 3 or shape[1] != 1:
        raise ValueError(f"expected input_values of shape [B, 1, N], got {shape}")
    if padding_mask is not None and list(padding_mask.shape) != shape[::2]:
        raise ValueError(f"expected padding_mask of shape {shape[::2]}, got {list(padding_mask.shape)}")
    if prompt.ndim != 2 or len(prompt) != shape[0]:
        raise ValueError(f"expected input_ids of shape [{shape[0]}, L], got {list(prompt.shape)}")
    begun = 0 if state is None else int(state.pos[0])
    if prompt.shape[1] <= begun:
        raise ValueError(
            f"expected input_ids of more than the {begun} positions in past_key_values, got {prompt.shape[1]}"
        )


def core_ids(ids: Tensor, config: KyutaiSpeechToTextConfig) -> Tensor:
    """The documents' ids [B, T, C], text first, as the core has them: -1 for nothing, and the start id for the one
    that the config calls so, which in published files is no text id."""
    ids = ids.masked_fill(ids == config.audio_pad_token_id, -1) if config.audio_pad_token_id is not None else ids
    if config.bos_token_id is None:
        return ids
    text = ids[..., :1].masked_fill(ids[..., :1] == config.bos_token_id, config.start_ids[0])
    return torch.cat([text, ids[..., 1:]], dim=-1)
