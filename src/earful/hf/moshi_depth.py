"""Moshi's depth decoder under the names of the documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from earful.checkpoint.fields import Fields
from earful.checkpoint.hub import fetch
from earful.generate.lockstep import Choice
from earful.hf.arguments import caching, initialise, require_one
from earful.hf.config import read_config
from earful.hf.generating import choice_of
from earful.hf.loading import Device, Dtype, OverCore, load_core
from earful.hf.moshi_config import CHOICE, GENERATION, MoshiConfig, MoshiDepthConfig
from earful.hf.outputs import MoshiDepthOutput
from earful.models.moshi.codes import DepthCache, codes_of, embedded, step
from earful.models.moshi.model import Depth, Moshi
from earful.nn.passes import IGNORED


class MoshiDepthDecoder(OverCore):
    """The codes of a frame, one after the other. Raises ValueError for sizes that the network does not have."""

    core: Depth
    config: MoshiDepthConfig
    main_input_name = "input_ids"
    generation_config: dict[str, Any]  # what a folder's generation_config.json says, or would say, of it

    def __init__(self, config: MoshiDepthConfig) -> None:
        super().__init__()
        self.core, self.config, self.generation_config = Depth(*config.to_core()), config, {}
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
        """The part of a whole model; arguments and errors as of `MoshiForConditionalGeneration`'s."""
        folder = fetch(source, revision)
        whole, values, _ = load_core(folder, Moshi, device_map, dtype, torch_dtype, None)
        choice = read_config(folder, GENERATION).get(CHOICE) or {}
        return cls.holding(
            whole.depth, MoshiConfig.from_dict(values).depth_decoder_config, generation_config=choice
        ).eval()

    def forward(
        self,
        input_ids: Tensor | None = None,
        last_hidden_state: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: DepthCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
    ) -> MoshiDepthOutput | tuple[object, ...]:
        """Logits [N, T, audio_vocab_size] in float32 of the code behind each id of N frames.

        input_ids [N, T]: the frame's text id, then its codes but the last, or as many as there are so far; or their
        embeddings [N, T, D]. last_hidden_state [N, 1, input_size]: of the text decoder. past_key_values: of an earlier
        call with the ids before, which are not given again; it is moved on. labels [N, T]: the codes behind, -100 or
        audio_vocab_size where nothing is asked. Raises ValueError for inputs that do not fit each other, and for a mask
        with zeros: a code sees all before it.
        """
        config = self.config
        require_one(input_ids=input_ids, inputs_embeds=inputs_embeds)
        given = inputs_embeds if input_ids is None else input_ids
        assert given is not None
        if last_hidden_state is None or list(last_hidden_state.shape) != [len(given), 1, config.input_size]:
            got = None if last_hidden_state is None else list(last_hidden_state.shape)
            raise ValueError(f"expected last_hidden_state of shape [{len(given)}, 1, {config.input_size}], got {got}")
        if attention_mask is not None and not attention_mask.all():
            raise ValueError("expected an attention_mask of ones, got zeros: a code sees all before it")
        cache = DepthCache.empty(self.core) if past_key_values is None else past_key_values
        most = config.num_codebooks - cache.ids
        if given.ndim != (3 if input_ids is None else 2) or not 1 <= given.shape[1] <= most:
            raise ValueError(f"expected ids or embeddings of 1 to {most} places, got {list(given.shape)}")
        hidden_too = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        weights_too = config.output_attentions if output_attentions is None else output_attentions
        if weights_too and cache.ids:
            raise ValueError("expected no past_key_values with attention weights, got some")
        steps = []
        for column in given.unbind(1):
            x = embedded(self.core, cache.ids, column) if inputs_embeds is None else column
            steps.append(step(self.core, last_hidden_state[:, 0], x, cache, weights_too))
        logits = torch.stack([one.logits for one in steps], dim=1)
        output = MoshiDepthOutput(
            None if labels is None else place_loss(logits, labels),
            logits,
            cache if past_key_values is not None or caching(use_cache, config.use_cache, weights_too) else None,
            tuple(map(stacked, zip(*(one.hidden for one in steps), strict=True))) if hidden_too else None,
            tuple(map(squared, zip(*(one.attentions for one in steps), strict=True))) if weights_too else None,
        )
        return output if (config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    @torch.no_grad()
    def generate(self, input_ids: Tensor, last_hidden_state: Tensor, **options: Any) -> Tensor:
        """The text ids [N, 1] and the codes behind them [N, 1 + num_codebooks].

        last_hidden_state [N, 1, input_size]: of the text decoder. options: see `choice`.
        """
        codes = codes_of(self.core, last_hidden_state[:, 0], input_ids[:, 0], self.choice(**options))
        return torch.cat([input_ids, codes], dim=1)

    def choice(
        self,
        *,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        num_beams: int | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
    ) -> Choice:
        """How codes are chosen; what is left out is as generation_config says.

        min_length, max_length: there is only one. Raises ValueError for others, and for what would count for nothing.
        """
        for name, length in {"min_length": min_length, "max_length": max_length}.items():
            if length not in (None, 1 + self.config.num_codebooks):
                raise ValueError(f"expected a {name} of {1 + self.config.num_codebooks}, got {length}")
        asked = {"do_sample": do_sample, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        return choice_of({**asked, "num_beams": num_beams}, Fields(self.generation_config, CHOICE))


def place_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of labels [N, T], each given by the logits [N, T, V] in its place; V and less than 0 are none.

    Raises ValueError for other shapes.
    """
    if logits.shape[:2] != labels.shape:
        raise ValueError(f"expected labels of shape {list(logits.shape[:2])}, one per logit, got {list(labels.shape)}")
    labels = labels.masked_fill((labels < 0) | (labels == logits.shape[-1]), IGNORED)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def stacked(columns: tuple[Tensor, ...]) -> Tensor:
    """[N, D] of each place -> [N, T, D]."""
    return torch.stack(columns, dim=1)


def squared(rows: tuple[Tensor, ...]) -> Tensor:
    """[N, H, 1], [N, H, 2], ... -> [N, H, T, T], zeros where a place is not seen."""
    return torch.stack([F.pad(row, (0, len(rows) - row.shape[-1])) for row in rows], dim=2)
